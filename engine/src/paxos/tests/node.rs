//! One node of the model: a replica, and a WAL of which a prefix is durable.

use palisade_netio::Nanos;
use palisade_wal::{
    Ballot, Boundary, CHAIN_START, Extent, GROUP_HEADER_BYTES, GroupHeader, GroupKind, Kind, Lsn,
    Place, StreamLog, chain,
};
use zerocopy::FromBytes;

use super::super::*;

pub(super) const STREAM: u64 = 7;
/// All groups are alike, so that positions of different logs meet.
pub(super) const GROUP_BYTES: u64 = 128;

#[derive(Clone, Debug)]
pub(super) enum Record {
    Group {
        header: GroupHeader,
        ballot: Ballot,
        staged: bool,
    },
    State(LogRecord),
    Floor(u64),
    /// What recovery found after a corruption.
    Unknown(Ballot),
    /// A group that fills a hole.
    Moved {
        header: GroupHeader,
        ballot: Ballot,
    },
    /// A record that the disk does not give back: a group, a staged one, or hard state, with all
    /// that may have been promised.
    LostGroup,
    LostStaged,
    LostState(Ballot),
}

impl Record {
    /// What is left of it.
    pub(super) fn lost(&self, ceiling: Ballot) -> Record {
        match self {
            Record::Group { staged: false, .. } => Record::LostGroup,
            Record::Group { staged: true, .. } => Record::LostStaged,
            Record::State(state) if state.kind.is_hard_state() => Record::LostState(ceiling),
            Record::Floor(_) => Record::LostState(ceiling),
            Record::State(_) | Record::Moved { .. } => Record::LostStaged,
            other => other.clone(),
        }
    }
}

pub(super) struct Node {
    pub(super) key: NodeKey,
    pub(super) replica: Option<Replica>,
    pub(super) wal: Vec<Record>,
    pub(super) durable: usize,
    pub(super) first: Config,
    pub(super) tuning: Tuning,
    pub(super) voids: Vec<Effect>,
    pub(super) floors: Floors,
    boots: u64,
    promised: Ballot,
    /// It lost something while it ran: replay knows less of that than it does.
    pub(super) meddled: bool,
}

pub(super) fn tuning() -> Tuning {
    // Fast timers against slow disks and networks: elections run into each other.
    const MS: u64 = 1_000_000;
    Tuning {
        heartbeat_ns: 5 * MS,
        election_ns: 20 * MS,
        election_jitter_ns: 20 * MS,
        rank_step_ns: 2 * MS,
        retry_ns: 15 * MS,
        candidacy_ns: 80 * MS,
        commit_hint_bytes: 3 * GROUP_BYTES,
        window_groups_max: 6,
        ..Tuning::default()
    }
}

pub(super) fn members(count: u32) -> Config {
    let member = |node: u32| Member {
        node,
        incarnation: None,
        addr: format!("10.0.0.{node}:7000"),
        region: format!("r{}", node % 2),
    };
    Config::first((1..=count).map(member).collect()).unwrap()
}

pub(super) fn group(position: &ProposePosition, value: u32) -> GroupHeader {
    let mut header = GroupHeader::read_from_bytes(&[0; GROUP_HEADER_BYTES]).unwrap();
    header.stream = STREAM.into();
    header.lsn = position.lsn.0.into();
    header.len = (GROUP_BYTES as u32).into();
    header.records = 1.into();
    header.scn = (position.scn_floor + 1).into();
    header.round = position.ballot.round.into();
    header.node = position.ballot.node.into();
    header.incarnation = position.ballot.incarnation.into();
    header.kind = GroupKind::Data as u8;
    header.entries_crc = value.into();
    header.chain = chain(position.chain_before, &header).into();
    header
}

pub(super) fn place(at: usize) -> Place {
    let at = at as u64;
    Place { segment: 1, offset: at * 4096, block: at, len: 4096 }
}

/// What replay makes of a WAL.
pub(super) fn rebuild(first: &Config, wal: &[Record]) -> (StreamLog, Config) {
    let (mut log, mut config) = (StreamLog::default(), first.clone());
    let mut lost = Ballot::NONE;
    for (at, record) in wal.iter().enumerate() {
        match record {
            Record::Group { header, ballot, staged } => {
                let replayed = replay_group(&mut log, header, *ballot, *staged, place(at));
                assert!(replayed != Replayed::Nothing || log.is_lossy());
            }
            Record::Moved { header, ballot } => {
                replay_moved(&mut log, header, *ballot, place(at));
            }
            Record::State(r) => {
                // A cursor of another log means nothing.
                if r.kind == Kind::CommitHint && r.ballot != log.accepting() {
                    continue;
                }
                let result = replay(&mut log, &mut config, r.kind, r.ballot, r.lsn, &r.body);
                assert!(result.is_ok() || log.is_lossy(), "{result:?}");
                if result.is_err() {
                    log.lose_tail(true);
                }
            }
            Record::Floor(_) => {}
            Record::Unknown(ceiling) => log.mark_unknown(*ceiling),
            Record::LostGroup => log.lose_tail(false),
            Record::LostStaged => log.lose_staged(),
            Record::LostState(ceiling) => {
                lost = lost.max(*ceiling);
                log.lose_tail(true);
            }
        }
    }
    if log.lost_hard_state() {
        log.mark_unknown(lost.max(log.promised()));
    }
    (log, config)
}

impl Node {
    pub(super) fn new(key: NodeKey, first: Config, seed: u64) -> Node {
        let me = Node::me(key, &first);
        let replica = Replica::new(STREAM, me, first.clone(), tuning(), seed);
        Node {
            key,
            replica: Some(replica),
            wal: Vec::new(),
            durable: 0,
            first,
            tuning: tuning(),
            voids: Vec::new(),
            floors: Floors::new(key, 1),
            boots: 1,
            promised: Ballot::NONE,
            meddled: false,
        }
    }

    fn me(key: NodeKey, config: &Config) -> Me {
        let region = config.member(key.node).unwrap().region.clone();
        Me { node: key.node, incarnation: key.incarnation, region }
    }

    pub(super) fn replica(&mut self) -> &mut Replica {
        self.replica.as_mut().expect("the node runs")
    }

    /// Loses what is not durable.
    pub(super) fn crash(&mut self) {
        self.replica = None;
        self.wal.truncate(self.durable);
    }

    /// Loses durable records too, and knows it.
    pub(super) fn corrupt(&mut self, keep: usize) {
        assert!(self.replica.is_none());
        let (log, _) = rebuild(&self.first, &self.wal);
        let ceiling = log.promised().max(log.accepting());
        self.wal.truncate(keep);
        self.wal.push(Record::Unknown(ceiling));
        self.durable = self.wal.len();
    }

    pub(super) fn restart(&mut self, seed: u64, now: Nanos) {
        assert!(self.replica.is_none() && self.durable == self.wal.len());
        let (log, config) = rebuild(&self.first, &self.wal);
        let me = Node::me(self.key, &config);
        let tuning = self.tuning.clone();
        let replica = Replica::recovered(STREAM, me, config, log, tuning, seed, now);
        self.replica = Some(replica);
        self.meddled = false;
        self.boots += 1;
        self.floors = Floors::new(self.key, self.boots);
        self.promised = Ballot::NONE;
        for record in &self.wal {
            if let Record::Floor(floor) = record {
                self.floors.on_replayed(*floor);
            }
        }
    }

    /// What the shard does around every input.
    pub(super) fn bind(&mut self) {
        let (floor, replica) = (self.floors.bound(), self.replica.as_mut().expect("it runs"));
        replica.set_floor(floor);
        let promised = replica.log().promised();
        if std::mem::replace(&mut self.promised, promised) != promised {
            self.floors.on_promised(STREAM, promised);
        }
    }

    /// The log that a crash now would leave.
    pub(super) fn after_crash(&self) -> StreamLog {
        rebuild(&self.first, &self.wal[..self.durable]).0
    }

    /// Everything that this node gives if it runs on, and after a crash now or once all is
    /// durable, by the chain.
    pub(super) fn keeps(&self) -> Vec<u64> {
        let chains = |log: &StreamLog| -> Vec<u64> {
            self.groups_of(log).iter().map(|g| g.chain.get()).collect()
        };
        let mut kept = chains(&self.after_crash());
        let later = chains(&rebuild(&self.first, &self.wal).0);
        kept.retain(|chain| later.contains(chain));
        if let Some(replica) = &self.replica {
            let now = chains(replica.log());
            kept.retain(|chain| now.contains(chain));
        }
        kept
    }

    /// The groups of a log of this node that are there, in order.
    pub(super) fn groups_of(&self, log: &StreamLog) -> Vec<GroupHeader> {
        let mut groups = Vec::new();
        for extent in log.extents() {
            let mut at = extent.start;
            while at < extent.end {
                let header = self.read_in(extent, at).expect("a run holds groups");
                at = header.end();
                groups.push(header);
            }
        }
        groups
    }

    /// The log in memory is what replay makes of the WAL.
    pub(super) fn check_replay(&self) {
        let Some(replica) = &self.replica else { return };
        if self.meddled || !replica.log().is_whole() {
            return;
        }
        let (mut log, config) = rebuild(&self.first, &self.wal);
        log.commit(replica.log().committed().lsn);
        assert_eq!(&log, replica.log(), "replay differs on {}", self.key.node);
        assert_eq!(&config, replica.config());
    }

    /// The group at `lsn` of the current log, found as a shard would.
    pub(super) fn read(&self, lsn: Lsn) -> Option<GroupHeader> {
        let extent = *self.replica.as_ref()?.log().find(lsn)?;
        self.read_in(&extent, lsn)
    }

    fn read_in(&self, extent: &Extent, lsn: Lsn) -> Option<GroupHeader> {
        let from = (extent.place.offset / 4096) as usize;
        self.wal[from..].iter().find_map(|record| match record {
            Record::Group { header, ballot, .. } | Record::Moved { header, ballot }
                if *ballot == extent.ballot && header.lsn() == lsn =>
            {
                Some(*header)
            }
            _ => None,
        })
    }

    /// The groups from `from` on, up to `upto` or a hole.
    pub(super) fn readable(&self, from: Lsn, upto: Lsn) -> Vec<GroupHeader> {
        let (mut at, mut groups) = (from, Vec::new());
        while let Some(header) = self.read(at).filter(|_| at < upto) {
            at = header.end();
            groups.push(header);
        }
        groups
    }

    /// The groups of `[from, upto)` with their chain checked.
    pub(super) fn read_range(&self, from: Lsn, upto: Lsn, before: Option<u64>) -> Vec<GroupHeader> {
        let (mut at, mut last, mut groups) = (from, before, Vec::new());
        while at < upto {
            let header = self.read(at).expect("the log has no hole");
            assert!(last.is_none_or(|chain| header.follows(chain)), "broken chain at {at}");
            last = Some(header.chain.get());
            at = header.end();
            groups.push(header);
        }
        groups
    }

    /// Everything that this node takes to be committed.
    pub(super) fn committed(&self) -> Vec<GroupHeader> {
        let upto = self.replica.as_ref().unwrap().log().committed().lsn;
        self.read_range(Lsn::ZERO, upto, Some(CHAIN_START))
    }

    pub(super) fn append(
        &mut self,
        header: GroupHeader,
        ballot: Ballot,
        staged: bool,
    ) -> GroupMark {
        self.wal.push(Record::Group { header, ballot, staged });
        GroupMark::of(&header, place(self.wal.len() - 1))
    }
}

pub(super) fn takeover_of(record: &LogRecord) -> Option<Boundary> {
    if record.kind != Kind::Takeover {
        return None;
    }
    let body = TakeoverBody::decode(&record.body).unwrap();
    Some(Boundary { lsn: record.lsn, chain: body.chain })
}
