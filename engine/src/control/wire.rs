//! What shards and the leader of the catalogue say to each other about the level. A shard talks
//! through the catalogue's shard of its own node, so both name the shard that is meant:
//!
//! ```text
//! LEVEL_ASK    shard u16 | 0 u16 | leads u32 | asked at u64 | heard ballot | token u64
//!              promised ballot | closed u64 | still ns u64 | behind u64 | mark u64 | SCN u64
//!              streams u32 | 0 u32 | streams u64 each
//! LEVEL_TOLD   shard u16 | 0 u16 | SYNC cluster u32 | asked at u64 | lease ns u64 | ballot
//!              token u64 | epoch u64 | forced u64 | mark u64
//!              mode u8 | level u8 | phase u8 | 0[5] | role
//! a role       role epoch u64 | since u64 | SCN u64 | holder u32 | before u32 | target u32
//!              sealed u64 | proof u8 | 0[3]
//! a ballot     round u64 | incarnation u64 | node u32 | 0 u32
//! ```

use palisade_wal::Ballot;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::change::{phase_code, protection_code, read_phase, read_protection};
use super::limits::{LEVEL_DONE_MAX, LEVEL_LEASE_NS};
use super::mode::{Mode, Phase, Proof};
use super::role::Office;
use crate::paxos::DecodeError;
use crate::paxos::codec::{Reader, WideBallot, exact, fixed, put, zeros};
use crate::status::Protection;
use crate::stream::mark::Mark;

/// Bytes of the longest question.
pub const LEVEL_ASK_BYTES_MAX: usize = size_of::<AskHead>() + size_of::<U64>() * LEVEL_DONE_MAX;

fixed! {
    /// Who is the primary.
    RawOffice: 48 {
        role_epoch: U64, since: U64, scn: U64, holder: U32, before: U32, target: U32, sealed: U64,
        proof: u8, reserved: [u8; 3],
    }
    /// So many streams follow.
    AskHead: 120 {
        shard: U16, reserved: [u8; 2], leads: U32, asked_at: U64, heard: WideBallot, token: U64,
        promised: WideBallot, closed: U64, still_ns: U64, behind: U64, mark: U64, scn: U64,
        streams: U32, reserved2: [u8; 4],
    }
    ToldBody: 136 {
        shard: U16, reserved: [u8; 2], sync: U32, asked_at: U64, lease_ns: U64, ballot: WideBallot,
        token: U64, epoch: U64, forced: U64, mark: U64, mode: u8, level: u8, phase: u8,
        reserved2: [u8; 5], office: RawOffice,
    }
}

/// What a failover proves, by its code.
const PROOFS: [Option<Proof>; 3] = [None, Some(Proof::ProvenUnlessForced), Some(Proof::NothingCut)];

impl From<Office> for RawOffice {
    fn from(office: Office) -> RawOffice {
        RawOffice {
            role_epoch: office.role_epoch.into(),
            since: office.since.into(),
            scn: office.scn.into(),
            holder: office.holder.into(),
            before: office.before.into(),
            target: office.target.into(),
            sealed: office.sealed.into(),
            proof: PROOFS.iter().position(|proof| *proof == office.proof).expect("all") as u8,
            reserved: [0; 3],
        }
    }
}

impl RawOffice {
    pub(super) fn read(&self) -> Result<Office, DecodeError> {
        zeros(&self.reserved)?;
        let proof = PROOFS.get(usize::from(self.proof)).copied();
        let (proof, sealed) = (proof.ok_or(DecodeError::UnknownCode(self.proof))?, self.sealed);
        let (holder, before, target) = (self.holder.get(), self.before.get(), self.target.get());
        let (role_epoch, since, scn) = (self.role_epoch.get(), self.since.get(), self.scn.get());
        let sealed = sealed.get();
        Ok(Office { role_epoch, holder, before, target, since, scn, proof, sealed })
    }
}

/// A shard asks what the level is, and tells how its streams are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LevelAsk {
    /// The shard of the sender's node.
    pub shard: u16,
    /// When, by its own clock; it comes back.
    pub asked_at: u64,
    /// Ballot and token of the newest word that it has from the catalogue's leader.
    pub heard: Ballot,
    /// See `heard`.
    pub token: u64,
    /// What its replica of the catalogue has promised, where its shard has that.
    pub promised: Ballot,
    /// It writes nothing more under marks up to this epoch.
    pub closed: u64,
    /// Streams that it leads.
    pub leads: u32,
    /// How long the worst of them has waited for the SYNC standby, which did not move.
    pub still_ns: u64,
    /// Bytes that the SYNC standby lacks of the worst of them.
    pub behind: u64,
    /// Epoch of the mark that `done` is about.
    pub mark: u64,
    /// The highest SCN in what it leads.
    pub scn: u64,
    /// Streams whose mark is committed here, and by the cluster that acks wait for.
    pub done: Vec<u64>,
}

/// The leader of the catalogue tells a shard of the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LevelTold {
    /// The shard of the receiver's node.
    pub shard: u16,
    /// When it asked, by its own clock; 0 when it did not.
    pub asked_at: u64,
    /// How long after that it may write under the mark.
    pub lease_ns: u64,
    /// The ballot under which the sender leads.
    pub ballot: Ballot,
    /// Its time; it comes back.
    pub token: u64,
    /// Mode and level.
    pub mode: Mode,
}

impl LevelAsk {
    /// The body of a frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.done.len() <= LEVEL_DONE_MAX, "{} streams at once", self.done.len());
        let head = AskHead {
            shard: self.shard.into(),
            reserved: [0; 2],
            leads: self.leads.into(),
            asked_at: self.asked_at.into(),
            heard: self.heard.into(),
            token: self.token.into(),
            promised: self.promised.into(),
            closed: self.closed.into(),
            still_ns: self.still_ns.into(),
            behind: self.behind.into(),
            mark: self.mark.into(),
            scn: self.scn.into(),
            streams: (self.done.len() as u32).into(),
            reserved2: [0; 4],
        };
        let mut out = head.as_bytes().to_vec();
        self.done.iter().for_each(|stream| put(&mut out, &U64::new(*stream)));
        assert!(out.len() <= LEVEL_ASK_BYTES_MAX);
        out
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<LevelAsk, DecodeError> {
        let mut fields = Reader::new(body);
        let head: &AskHead = fields.head()?;
        zeros(&head.reserved)?;
        zeros(&head.reserved2)?;
        let count = head.streams.get() as usize;
        if count > LEVEL_DONE_MAX {
            return Err(DecodeError::TooLong);
        }
        let done = fields.list::<U64>(count)?.iter().map(|stream| stream.get()).collect();
        fields.finish()?;
        Ok(LevelAsk {
            shard: head.shard.get(),
            asked_at: head.asked_at.get(),
            heard: head.heard.read()?,
            token: head.token.get(),
            promised: head.promised.read()?,
            closed: head.closed.get(),
            leads: head.leads.get(),
            still_ns: head.still_ns.get(),
            behind: head.behind.get(),
            mark: head.mark.get(),
            scn: head.scn.get(),
            done,
        })
    }
}

impl LevelTold {
    /// The body of a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mode = &self.mode;
        let told = ToldBody {
            shard: self.shard.into(),
            reserved: [0; 2],
            sync: mode.mark.cluster().unwrap_or(0).into(),
            asked_at: self.asked_at.into(),
            lease_ns: self.lease_ns.into(),
            ballot: self.ballot.into(),
            token: self.token.into(),
            epoch: mode.epoch.into(),
            forced: mode.forced.into(),
            mark: mode.mark.epoch().into(),
            mode: protection_code(mode.mode),
            level: protection_code(mode.level),
            phase: phase_code(mode.phase),
            reserved2: [0; 5],
            office: mode.office.into(),
        };
        told.as_bytes().to_vec()
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<LevelTold, DecodeError> {
        let told: &ToldBody = exact(body)?;
        zeros(&told.reserved)?;
        zeros(&told.reserved2)?;
        let (shard, token, ballot) = (told.shard.get(), told.token.get(), told.ballot.read()?);
        let (asked_at, lease_ns) = (told.asked_at.get(), told.lease_ns.get());
        let (cluster, epoch) = (told.sync.get(), told.mark.get());
        let phase = read_phase(told.phase)?;
        let (forced, office) = (told.forced.get(), told.office.read()?);
        let mark = match (phase, cluster) {
            (Phase::Seizing, 0) => Mark::Fence { held_by: office.holder, epoch },
            (_, 0) => Mark::Async { epoch },
            (Phase::Ending, cluster) => Mark::End { cluster, epoch },
            (_, cluster) => Mark::Sync { cluster, epoch },
        };
        let (mode, level) = (read_protection(told.mode)?, read_protection(told.level)?);
        let epoch = told.epoch.get();
        let mode = Mode { mode, level, phase, mark, epoch, forced, office };
        let open = cluster != 0 && phase != Phase::Falling && phase != Phase::Ending;
        let leased = lease_ns == 0 || open && asked_at > 0;
        let told = LevelTold { shard, asked_at, lease_ns, ballot, token, mode };
        match leased && lease_ns <= LEVEL_LEASE_NS && told.is_mode() {
            true => Ok(told),
            false => Err(DecodeError::Inconsistent),
        }
    }

    fn is_mode(&self) -> bool {
        let Mode { mode, epoch, forced, mark, .. } = self.mode;
        let is_sync = mark.cluster().is_some();
        mode != Protection::Resync
            && self.mode.stands()
            && mark.epoch() <= epoch
            && forced <= epoch
            && (mark.epoch() > 0 || !is_sync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BALLOT: Ballot = Ballot { round: 7, node: 2, incarnation: 3 };

    fn ask(done: Vec<u64>) -> LevelAsk {
        let (heard, promised) = (BALLOT, Ballot { round: 8, ..BALLOT });
        let (asked_at, token, closed, mark) = (11, 12, 13, 14);
        let (still_ns, behind) = (15, 16);
        LevelAsk {
            shard: 9,
            asked_at,
            heard,
            token,
            promised,
            closed,
            leads: 10,
            still_ns,
            behind,
            mark,
            scn: 17,
            done,
        }
    }

    fn told() -> LevelTold {
        let mark = Mark::Sync { cluster: 2, epoch: 4 };
        let mode = Mode {
            mode: Protection::Availability,
            level: Protection::Resync,
            phase: Phase::Rising,
            mark,
            epoch: 5,
            forced: 3,
            office: Office {
                role_epoch: 3,
                holder: 1,
                before: 2,
                since: 2,
                scn: 77,
                ..Office::default()
            },
        };
        LevelTold { shard: 1, asked_at: 21, lease_ns: 22, ballot: BALLOT, token: 23, mode }
    }

    #[test]
    fn what_is_said_of_the_level_reads_back_and_no_cut_does() {
        for ask in [ask(Vec::new()), ask((0..LEVEL_DONE_MAX as u64).collect())] {
            let body = ask.encode();
            assert_eq!(LevelAsk::parse(&body).as_ref(), Ok(&ask));
            for cut in (0..body.len()).step_by(3) {
                assert!(LevelAsk::parse(&body[..cut]).is_err(), "cut at {cut}");
            }
            assert!(LevelAsk::parse(&[body.as_slice(), &[0]].concat()).is_err());
            assert!(body.len() <= LEVEL_ASK_BYTES_MAX);
        }
        let fallen = Mode { mark: Mark::Async { epoch: 5 }, ..Mode::default() };
        let fallen = Mode { epoch: 6, ..fallen };
        let ends = Mode {
            phase: Phase::Ending,
            mark: Mark::End { cluster: 2, epoch: 2 },
            epoch: 2,
            office: Office { holder: 1, target: 2, ..Office::default() },
            ..Mode::default()
        };
        let unleased = |mode| LevelTold { lease_ns: 0, mode, ..told() };
        for told in [told(), unleased(fallen), unleased(ends)] {
            let body = told.encode();
            assert_eq!(LevelTold::parse(&body), Ok(told));
            for cut in 0..body.len() {
                assert!(LevelTold::parse(&body[..cut]).is_err(), "cut at {cut}");
            }
            assert!(LevelTold::parse(&[body.as_slice(), &[0]].concat()).is_err());
        }
    }

    #[test]
    fn more_streams_than_fit_and_values_that_contradict_each_other_are_refused() {
        let mut body = ask(Vec::new()).encode();
        body[112..116].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(LevelAsk::parse(&body), Err(DecodeError::TooLong));
        let mut body = ask(Vec::new()).encode();
        body[2] = 1;
        assert!(LevelAsk::parse(&body).is_err());
        let odd = |edit: fn(&mut LevelTold)| {
            let mut told = told();
            edit(&mut told);
            LevelTold::parse(&told.encode())
        };
        assert!(odd(|_| {}).is_ok());
        assert!(odd(|told| told.lease_ns = LEVEL_LEASE_NS + 1).is_err());
        assert!(odd(|told| told.asked_at = 0).is_err(), "a lease that nobody asked for");
        assert!(odd(|told| told.mode.phase = Phase::Falling).is_err(), "a lease while it falls");
        assert!(odd(|told| told.mode.mark = Mark::Async { epoch: 4 }).is_err());
        assert!(odd(|told| told.mode.mark = Mark::Sync { cluster: 2, epoch: 6 }).is_err());
        assert!(odd(|told| told.mode.mark = Mark::Sync { cluster: 2, epoch: 0 }).is_err());
        assert!(odd(|told| told.mode.level = Protection::Protection).is_err());
        assert!(odd(|told| told.mode.mode = Protection::Resync).is_err());
        assert!(odd(|told| told.mode.forced = 6).is_err());
        assert!(odd(|told| told.ballot.round = u64::MAX).is_err());
    }
}
