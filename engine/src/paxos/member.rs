//! Members of a stream, and who is counted.

use palisade_wal::{Ballot, Boundary, GroupHeader, Kind, Lsn, Place, StreamLog, TakeoverRefusal};
use zerocopy::little_endian::{U16, U32, U64};

use super::codec::{
    DecodeError, RawBallot, Reader, SCN_MAX, fixed, flag, put, put_text, read_lsn, read_scn,
};

/// Most members of one stream.
pub const MEMBERS_MAX: usize = 9;
/// Longest address.
pub const ADDR_BYTES_MAX: usize = 255;
/// Longest region name.
pub const REGION_BYTES_MAX: usize = 64;

/// No stream sees as many changes of members.
const SEQ_MAX: u64 = 1 << 62;

fixed! {
    /// So many members follow.
    ConfigHead: 38 { ballot: RawBallot, seq: U64, at: U64, members: U16 }
    /// An address and a region follow, each after its u16 length.
    MemberHead: 13 { node: U32, bound: u8, incarnation: U64 }
    /// A config follows.
    TakeoverBodyHead: 16 { chain: U64, scn: U64 }
}

/// Longest encoding of a config.
pub(super) const CONFIG_BYTES_MAX: usize = size_of::<ConfigHead>()
    + MEMBERS_MAX * (size_of::<MemberHead>() + 2 + ADDR_BYTES_MAX + 2 + REGION_BYTES_MAX);

const _: () = assert!(MEMBERS_MAX % 2 == 1, "an even member more adds no fault to survive");
const _: () = assert!(MEMBERS_MAX <= u16::MAX as usize, "their number is a u16");
const _: () = assert!(ADDR_BYTES_MAX <= u16::MAX as usize, "its length is a u16");
const _: () = assert!(REGION_BYTES_MAX <= u16::MAX as usize, "its length is a u16");

/// A node with one disk: what a vote belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// The node.
    pub node: u32,
    /// Which disk of it.
    pub incarnation: u64,
}

/// This node, as the replicas on it know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The node.
    pub node: u32,
    /// Which disk of it.
    pub incarnation: u64,
    /// Where it stands.
    pub region: String,
}

impl Me {
    /// What its votes are counted under.
    pub fn key(&self) -> NodeKey {
        NodeKey { node: self.node, incarnation: self.incarnation }
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub node: u32,
    /// The disk whose votes count; `None` until a Takeover or a Config binds it.
    pub incarnation: Option<u64>,
    /// Where it listens.
    pub addr: String,
    /// Where it stands.
    pub region: String,
}

/// Members of a stream. Newer ones have a higher (ballot, seq).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ballot that stamped it last; [`Ballot::NONE`] for the first.
    pub ballot: Ballot,
    /// Number of the change.
    pub seq: u64,
    /// Position from which on it counts.
    pub at: Lsn,
    /// The members, in order of preference as a leader.
    pub members: Vec<Member>,
}

impl Config {
    /// The first configuration of a stream: members are bound if other streams show their disks.
    ///
    /// # Errors
    /// As [`check`](Config::check).
    pub fn first(members: Vec<Member>) -> Result<Config, DecodeError> {
        let config = Config { ballot: Ballot::NONE, seq: 0, at: Lsn::ZERO, members };
        config.check()?;
        assert!(!config.ballot.is_some() && config.seq == 0, "every later one is newer");
        Ok(config)
    }

    /// Whether it can be encoded and counted in.
    ///
    /// # Errors
    /// No or too many members, a member twice, a text that is too long.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.members.is_empty() || self.members.len() > MEMBERS_MAX {
            return Err(DecodeError::TooLong);
        }
        for (at, member) in self.members.iter().enumerate() {
            if member.addr.len() > ADDR_BYTES_MAX || member.region.len() > REGION_BYTES_MAX {
                return Err(DecodeError::TooLong);
            }
            if self.members[..at].iter().any(|m| m.node == member.node) {
                return Err(DecodeError::Inconsistent);
            }
        }
        Ok(())
    }

    /// Votes that decide.
    pub fn majority(&self) -> usize {
        let majority = self.members.len() / 2 + 1;
        assert!(2 * majority > self.members.len(), "two majorities meet");
        assert!(majority <= self.members.len(), "all members are a majority");
        majority
    }

    /// The member at `node`.
    pub fn member(&self, node: u32) -> Option<&Member> {
        self.members.iter().find(|m| m.node == node)
    }

    /// Whether a vote of `voter` counts: a member, on the disk that it is bound to. One that is
    /// not bound counts only until a majority is: it may have been bound, and have lost that disk
    /// with what it accepted, where this config did not come to be known.
    pub fn counts(&self, voter: NodeKey) -> bool {
        let Some(member) = self.member(voter.node) else { return false };
        assert!(member.node == voter.node && self.members.len() <= MEMBERS_MAX);
        match member.incarnation {
            Some(bound) => bound == voter.incarnation,
            None => !self.is_bound(),
        }
    }

    /// Whether the bound members alone can decide. So they can from the first Takeover on.
    pub fn is_bound(&self) -> bool {
        self.members.iter().filter(|m| m.incarnation.is_some()).count() >= self.majority()
    }

    /// Whether these voters are a majority. A node counts once.
    pub fn is_quorum(&self, voters: impl IntoIterator<Item = NodeKey>) -> bool {
        let mut nodes: Vec<u32> =
            voters.into_iter().filter(|&v| self.counts(v)).map(|v| v.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        assert!(nodes.len() <= self.members.len(), "more voters than members");
        nodes.len() >= self.majority()
    }

    /// What tells newer ones from older ones.
    pub fn version(&self) -> (Ballot, u64) {
        (self.ballot, self.seq)
    }

    /// The same members stamped with `ballot`, `voters` bound.
    #[must_use]
    pub fn stamped(&self, ballot: Ballot, voters: &[NodeKey]) -> Config {
        assert!(ballot >= self.ballot, "newer members are stamped with an older ballot");
        let mut config = self.clone();
        config.ballot = ballot;
        for member in &mut config.members {
            let voter = voters.iter().find(|v| v.node == member.node);
            assert!(voter.is_none_or(|&v| self.counts(v)), "bound to a voter that does not count");
            member.incarnation = member.incarnation.or(voter.map(|v| v.incarnation));
        }
        let bound = |v: &NodeKey| config.member(v.node).map(|m| m.incarnation);
        assert!(voters.iter().all(|v| bound(v) == Some(Some(v.incarnation))));
        let kept = |(old, new): (&Member, &Member)| {
            old.node == new.node && old.incarnation.is_none_or(|was| new.incarnation == Some(was))
        };
        assert!(self.members.iter().zip(&config.members).all(kept), "a binding is for ever");
        assert!(config.seq == self.seq, "a stamp is no change of members");
        config
    }

    /// The change that binds one more member, made by the leader of its ballot at `at`.
    #[must_use]
    pub(super) fn binding(&self, disk: NodeKey, at: Lsn) -> Config {
        let mut config = self.clone();
        (config.seq, config.at) = (self.seq + 1, at);
        let member = config.members.iter_mut().find(|m| m.node == disk.node);
        let bound = member.expect("a member").incarnation.replace(disk.incarnation);
        assert!(bound.is_none(), "a binding is for ever");
        assert!(config.extends(self) && config.counts(disk));
        config
    }

    /// Whether it is a later config of the same ballot, with the same members, bound as they were.
    pub(super) fn extends(&self, older: &Config) -> bool {
        let kept = |(old, new): (&Member, &Member)| {
            old.node == new.node && old.incarnation.is_none_or(|was| new.incarnation == Some(was))
        };
        let extends = self.ballot == older.ballot
            && self.seq > older.seq
            && self.members.len() == older.members.len()
            && older.members.iter().zip(&self.members).all(kept);
        assert!(!extends || self.version() > older.version(), "a later one is no newer one");
        extends
    }

    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.check().is_ok(), "a config is checked where it is made");
        let start = out.len();
        let (ballot, seq, at) = (self.ballot.into(), self.seq.into(), self.at.0.into());
        put(out, &ConfigHead { ballot, seq, at, members: (self.members.len() as u16).into() });
        for member in &self.members {
            let bound = u8::from(member.incarnation.is_some());
            let incarnation = member.incarnation.unwrap_or(0).into();
            put(out, &MemberHead { node: member.node.into(), bound, incarnation });
            put_text(out, &member.addr);
            put_text(out, &member.region);
        }
        assert!(out.len() - start <= CONFIG_BYTES_MAX, "longer than its limits add up to");
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<Config, DecodeError> {
        let mut reader = Reader::new(bytes);
        let config = Config::read(&mut reader)?;
        reader.finish()?;
        Ok(config)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Config, DecodeError> {
        let head: &ConfigHead = reader.head()?;
        let (ballot, seq, at) = (head.ballot.read()?, head.seq.get(), read_lsn(head.at)?);
        if seq > SEQ_MAX {
            return Err(DecodeError::Inconsistent);
        }
        let count = usize::from(head.members.get());
        if count > MEMBERS_MAX {
            return Err(DecodeError::TooLong);
        }
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let MemberHead { node, bound, incarnation } = reader.head()?;
            let incarnation = flag(*bound)?.then_some(incarnation.get());
            let addr = reader.text(ADDR_BYTES_MAX)?;
            let region = reader.text(REGION_BYTES_MAX)?;
            members.push(Member { node: node.get(), incarnation, addr, region });
        }
        let config = Config { ballot, seq, at, members };
        config.check()?;
        assert!(config.members.len() == count && count <= MEMBERS_MAX, "checked above");
        Ok(config)
    }
}

/// The body of a Takeover record: the chain at its end, an SCN floor, and the members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeoverBody {
    /// The chain at the end that the record's LSN names.
    pub chain: u64,
    /// No group is given an SCN at or below it under this ballot or a higher one.
    pub scn: u64,
    /// The members, stamped with the record's ballot.
    pub config: Config,
}

impl TakeoverBody {
    /// The bytes of the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(self.config.ballot.is_some(), "a Takeover stamps its members");
        assert!(self.scn <= SCN_MAX, "an SCN above them all");
        put(&mut out, &TakeoverBodyHead { chain: self.chain.into(), scn: self.scn.into() });
        self.config.encode_into(&mut out);
        out
    }

    /// Reads the bytes of the record.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<TakeoverBody, DecodeError> {
        let mut reader = Reader::new(bytes);
        let TakeoverBodyHead { chain, scn } = reader.head()?;
        let (chain, scn) = (chain.get(), read_scn(*scn)?);
        let config = Config::read(&mut reader)?;
        reader.finish()?;
        assert!(config.check().is_ok(), "checked when it was read");
        Ok(TakeoverBody { chain, scn, config })
    }
}

/// Why a record of a replica cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The body.
    #[error(transparent)]
    Body(#[from] DecodeError),
    /// The log below it is not the one that the Takeover names.
    #[error(transparent)]
    Takeover(#[from] TakeoverRefusal),
    /// A ballot went backwards.
    #[error("ballot {0} is below one logged before it")]
    BallotBackwards(Ballot),
}

/// What a group is to the log that is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is in the log.
    Logged,
    /// It is staged.
    Staged,
    /// It fits nothing: what stood before it is lost.
    Nothing,
}

/// Replays a group.
pub fn replay_group(
    log: &mut StreamLog,
    header: &GroupHeader,
    ballot: Ballot,
    staged: bool,
    place: Place,
) -> Replayed {
    let (start, scn) = (header.lsn(), header.scn.get());
    let end = Boundary { lsn: header.end(), chain: header.chain.get() };
    if staged {
        if !log.takes_staged(header, ballot) {
            // Only after a loss: what stands below the run is not what it was staged for.
            log.lose_staged();
            return Replayed::Nothing;
        }
        log.stage(start, end, ballot, scn, place);
        if header.is_base() {
            log.mark_staged_base(start);
        }
        assert!(log.staged_end(ballot) == Some(end), "staged elsewhere");
        return Replayed::Staged;
    }
    if log.is_unknown() {
        let resumed = log.resume(header, ballot, place);
        assert!(resumed != log.is_unknown(), "known again, or not");
        return if resumed { Replayed::Logged } else { Replayed::Nothing };
    }
    let fits = start == log.end().lsn && header.follows(log.end().chain);
    if !fits || ballot != log.accepting() {
        // Only after a loss: a sound log has each group at its end.
        log.lose_tail(true);
        return Replayed::Nothing;
    }
    log.append(start, end, ballot, scn, place);
    if header.is_base() {
        log.mark_base(start);
    }
    assert!(log.end() == end && log.accepting() == ballot, "a group stands at its place");
    Replayed::Logged
}

/// Replays a Moved record. `Some` when it is taken; true when it fills a hole.
pub fn replay_moved(
    log: &mut StreamLog,
    header: &GroupHeader,
    ballot: Ballot,
    place: Place,
) -> Option<bool> {
    // Where nothing is missing, the first copy is good after all.
    log.takes_moved(header).then(|| log.move_in(header, ballot, place))
}

/// Replays a record that a [`Replica`](super::Replica) asked to log. Kinds that are none of its
/// own change nothing; groups have [`replay_group`] and [`replay_moved`].
///
/// # Errors
/// A record that cannot follow what was replayed before it. Nothing is changed then, but that a
/// Takeover above a log with an unknown tail is a promise, and its members count.
pub fn replay(
    log: &mut StreamLog,
    config: &mut Config,
    kind: Kind,
    ballot: Ballot,
    lsn: Lsn,
    body: &[u8],
) -> Result<(), ReplayError> {
    match kind {
        Kind::Promise if ballot < log.promised() => Err(ReplayError::BallotBackwards(ballot)),
        Kind::Promise => {
            log.promise(ballot);
            assert!(log.promised() == ballot && log.accepting() <= ballot);
            Ok(())
        }
        Kind::Takeover if ballot < log.promised() => Err(ReplayError::BallotBackwards(ballot)),
        Kind::Takeover => {
            let taken = replay_takeover(log, config, ballot, lsn, body);
            if taken.is_err() && log.is_lossy() {
                // The bytes below it are lost. That it was accepted is not: nothing below it may
                // be taken again.
                log.mark_unknown(ballot);
            }
            assert!(log.promised() == ballot || taken.is_err());
            taken
        }
        Kind::Config => {
            let newer = Config::decode(body)?;
            if newer.version() > config.version() {
                *config = newer;
            }
            Ok(())
        }
        Kind::CommitHint => {
            log.commit(lsn);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn replay_takeover(
    log: &mut StreamLog,
    config: &mut Config,
    ballot: Ballot,
    lsn: Lsn,
    body: &[u8],
) -> Result<(), ReplayError> {
    let body = TakeoverBody::decode(body)?;
    if body.config.ballot != ballot {
        return Err(ReplayError::Body(DecodeError::Inconsistent));
    }
    log.raise_scn(body.scn);
    let end = Boundary { lsn, chain: body.chain };
    // Every byte below it was there when it was logged. What was lost since is a hole.
    let taken = log.take_over(ballot, end).or_else(|refusal| match log.is_lossy() {
        true => log.take_over_lost(ballot, end),
        false => Err(refusal),
    });
    if taken.is_ok() || (log.is_lossy() && body.config.version() > config.version()) {
        *config = body.config;
    }
    taken?;
    assert!(log.accepting() == ballot && log.promised() == ballot && !log.is_unknown());
    assert!(log.end() == Boundary { lsn, chain: body.chain });
    Ok(())
}
