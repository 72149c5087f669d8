//! What replicas of one stream say to each other. Groups never travel in a message.
//!
//! ```text
//! kind u8 | reserved u8 | length u16 | stream u64 | body
//! ```
//!
//! `length` counts the body. A control frame holds any number of messages end to end.

use palisade_wal::limits::HOLES_MAX;
use palisade_wal::{Ballot, Boundary, Lsn};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::codec::{
    DecodeError, RawBallot, RawBoundary, Reader, fixed, flag, put, read_lsn, read_scn,
};
use super::member::{CONFIG_BYTES_MAX, Config};

/// Bytes before the body.
pub const MESSAGE_HEAD_BYTES: usize = size_of::<MessageHead>();
/// Longest body.
pub const MESSAGE_BODY_BYTES_MAX: usize = 4096;

fixed! {
    MessageHead: 12 { code: u8, reserved: u8, len: U16, stream: U64 }
    PreVoteReplyBody: 61 { ballot: RawBallot, granted: u8, promised: RawBallot, leader: RawBallot }
    RefuseBody: 41 { ballot: RawBallot, promised: RawBallot, no_takeover: u8 }
    AcceptedBody: 52 { ballot: RawBallot, upto: U64, seq: U64, low: U64, committed: U64 }
    CommitBody: 44 { ballot: RawBallot, upto: U64, end: U64, held: U64 }
    FetchBody: 37 { ballot: RawBallot, from: U64, upto: U64, want: u8 }
    StepDownBody: 26 { ballot: RawBallot, known: U16, successor: U32 }
    /// A config follows.
    TakeoverHead: 44 { ballot: RawBallot, end: RawBoundary, scn: U64 }
    /// So many holes follow, and a config.
    PromiseHead: 83 {
        ballot: RawBallot, accepting: RawBallot, end: RawBoundary, committed: U64, base: U64,
        unknown: u8, scn: U64, holes: U16,
    }
    RawHole: 16 { from: U64, upto: U64 }
}

const _: () = assert!(MESSAGE_BODY_BYTES_MAX <= u16::MAX as usize, "its length is a u16");
const _: () = assert!(
    size_of::<PromiseHead>() + HOLES_MAX * size_of::<RawHole>() + CONFIG_BYTES_MAX
        <= MESSAGE_BODY_BYTES_MAX,
    "a Promise with the longest config fits"
);

/// One message of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The stream.
    pub stream: u64,
    /// What is said.
    pub body: Body,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Would you promise `ballot`?
    PreVote {
        /// What would be asked for.
        ballot: Ballot,
    },
    /// The answer to a pre-vote.
    PreVoteReply {
        /// As asked.
        ballot: Ballot,
        /// Whether it would be promised.
        granted: bool,
        /// Highest ballot promised.
        promised: Ballot,
        /// The leader that the member follows, [`Ballot::NONE`] if none.
        leader: Ballot,
    },
    /// Promise `ballot`.
    Prepare {
        /// The candidate's ballot.
        ballot: Ballot,
    },
    /// `ballot` is promised; nothing below it will be accepted here.
    Promise(Promise),
    /// `ballot` is refused. `promised` is not above it when only a lease or a missing Takeover
    /// stands in the way.
    Refuse {
        /// What was refused.
        ballot: Ballot,
        /// Highest ballot promised.
        promised: Ballot,
        /// The sender misses the Takeover of `ballot`.
        no_takeover: bool,
    },
    /// The log up to `end` is taken over under `ballot`; what stands above is void.
    Takeover {
        /// The leader's ballot.
        ballot: Ballot,
        /// End of the log that was chosen.
        end: Boundary,
        /// Highest SCN that its promises named: no group from here on has one at or below it.
        scn: u64,
        /// The members, stamped with `ballot`.
        config: Config,
    },
    /// Everything below `upto` is durable here under `ballot`.
    Accepted {
        /// The ballot under which it counts.
        ballot: Ballot,
        /// Cumulative.
        upto: Lsn,
        /// Number of the newest config of that ballot that is durable here.
        seq: u64,
        /// This disk knows that everything below is committed: nothing below is ever asked for.
        low: Lsn,
        /// Known committed here by now: the leader says again what goes beyond it.
        committed: Lsn,
    },
    /// Everything below `upto` is committed.
    Commit {
        /// Means something only to those whose accepting ballot it is.
        ballot: Ballot,
        /// Cumulative.
        upto: Lsn,
        /// End of the leader's log.
        end: Lsn,
        /// The lowest of what all members said with `Accepted`.
        held: Lsn,
    },
    /// Send the groups of `[from, upto)`, beginning with the one that holds `from`.
    Fetch(FetchRequest),
    /// The leader of `ballot` leads no more, or its candidate yields; its lease is given back.
    StepDown {
        /// The ballot that it led, or asked promises for.
        ballot: Ballot,
        /// Who should follow it.
        successor: Option<u32>,
        /// An operator chose the successor: it keeps what it leads.
        appointed: bool,
    },
}

/// The tail of a member, as of its Promise record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// What is promised.
    pub ballot: Ballot,
    /// Ballot of the last Takeover in the log.
    pub accepting: Ballot,
    /// End of the log.
    pub end: Boundary,
    /// Known committed.
    pub committed: Lsn,
    /// Where the log begins.
    pub base: Lsn,
    /// Bytes or promises may be missing: not counted.
    pub unknown: bool,
    /// Ranges of the log that were accepted and are lost here, in order.
    pub holes: Vec<(Lsn, Lsn)>,
    /// Highest SCN that may not be given again: of any group ever logged, and the shard's floor.
    pub scn: u64,
    /// Newest members known.
    pub config: Config,
}

/// What groups are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// To go on after the end of the log.
    Next,
    /// For a Takeover that is not logged yet.
    Staged,
    /// To fill a range that is lost. Whoever has groups there may send them.
    Lost,
}

impl Want {
    /// Its number in messages and frames.
    pub fn code(self) -> u8 {
        match self {
            Want::Next => 0,
            Want::Staged => 1,
            Want::Lost => 2,
        }
    }

    /// The one with this number.
    pub fn from_code(code: u8) -> Option<Want> {
        [Want::Next, Want::Staged, Want::Lost].into_iter().find(|want| want.code() == code)
    }
}

/// A request for groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// The ballot for which the bytes are wanted.
    pub ballot: Ballot,
    /// First byte wanted.
    pub from: Lsn,
    /// Where it may stop.
    pub upto: Lsn,
    /// What for.
    pub want: Want,
}

impl Message {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let head = out.len();
        let start = head + MESSAGE_HEAD_BYTES;
        out.resize(start, 0);
        self.body.encode_into(out);
        let len = out.len() - start;
        assert!(len <= MESSAGE_BODY_BYTES_MAX, "a body of {len} bytes");
        assert!(len > 0, "a message that says nothing");
        let (code, len, stream) = (self.body.code(), (len as u16).into(), self.stream.into());
        let said = MessageHead { code, reserved: 0, len, stream };
        out[head..start].copy_from_slice(said.as_bytes());
    }

    /// Reads one message from the front of `bytes`, and says how many bytes it took.
    ///
    /// # Errors
    /// Bytes that are none; the rest of the frame cannot be read then.
    pub fn decode(bytes: &[u8]) -> Result<(Message, usize), DecodeError> {
        let mut reader = Reader::new(bytes);
        let head: &MessageHead = reader.head()?;
        if head.reserved != 0 {
            return Err(DecodeError::Inconsistent);
        }
        let len = usize::from(head.len.get());
        if len > MESSAGE_BODY_BYTES_MAX {
            return Err(DecodeError::TooLong);
        }
        let mut body = Reader::new(reader.bytes(len)?);
        let stream = head.stream.get();
        let message = Message { stream, body: Body::read(head.code, &mut body)? };
        body.finish()?;
        assert!(MESSAGE_HEAD_BYTES + len <= bytes.len(), "no more is taken than there is");
        Ok((message, MESSAGE_HEAD_BYTES + len))
    }
}

impl Body {
    fn code(&self) -> u8 {
        match self {
            Body::PreVote { .. } => 1,
            Body::PreVoteReply { .. } => 2,
            Body::Prepare { .. } => 3,
            Body::Promise(_) => 4,
            Body::Refuse { .. } => 5,
            Body::Takeover { .. } => 6,
            Body::Accepted { .. } => 7,
            Body::Commit { .. } => 8,
            Body::Fetch(_) => 9,
            Body::StepDown { .. } => 10,
        }
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        match self {
            Body::PreVote { ballot } | Body::Prepare { ballot } => {
                put(out, &RawBallot::from(*ballot));
            }
            Body::PreVoteReply { ballot, granted, promised, leader } => {
                let (ballot, granted) = ((*ballot).into(), u8::from(*granted));
                let (promised, leader) = ((*promised).into(), (*leader).into());
                put(out, &PreVoteReplyBody { ballot, granted, promised, leader });
            }
            Body::Promise(promise) => promise.encode_into(out),
            Body::Refuse { ballot, promised, no_takeover } => {
                let (ballot, promised) = ((*ballot).into(), (*promised).into());
                put(out, &RefuseBody { ballot, promised, no_takeover: u8::from(*no_takeover) });
            }
            Body::Takeover { ballot, end, scn, config } => {
                let (ballot, end, scn) = ((*ballot).into(), (*end).into(), (*scn).into());
                put(out, &TakeoverHead { ballot, end, scn });
                config.encode_into(out);
            }
            Body::Accepted { ballot, upto, seq, low, committed } => {
                let (ballot, upto, seq) = ((*ballot).into(), upto.0.into(), (*seq).into());
                let (low, committed) = (low.0.into(), committed.0.into());
                put(out, &AcceptedBody { ballot, upto, seq, low, committed });
            }
            Body::Commit { ballot, upto, end, held } => {
                assert!(upto <= end, "commits what is not there");
                let (ballot, upto) = ((*ballot).into(), upto.0.into());
                put(out, &CommitBody { ballot, upto, end: end.0.into(), held: held.0.into() });
            }
            Body::Fetch(FetchRequest { ballot, from, upto, want }) => {
                let (ballot, from, upto) = ((*ballot).into(), from.0.into(), upto.0.into());
                put(out, &FetchBody { ballot, from, upto, want: want.code() });
            }
            Body::StepDown { ballot, successor, appointed } => {
                let known = u16::from(successor.is_some()) + u16::from(*appointed);
                let (known, successor) = (known.into(), successor.unwrap_or(0).into());
                put(out, &StepDownBody { ballot: (*ballot).into(), known, successor });
            }
        }
    }

    fn read(code: u8, reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
        Ok(match code {
            1 => Body::PreVote { ballot: reader.head::<RawBallot>()?.read()? },
            2 => {
                let PreVoteReplyBody { ballot, granted, promised, leader } = reader.head()?;
                let (ballot, granted) = (ballot.read()?, flag(*granted)?);
                let (promised, leader) = (promised.read()?, leader.read()?);
                Body::PreVoteReply { ballot, granted, promised, leader }
            }
            3 => Body::Prepare { ballot: reader.head::<RawBallot>()?.read()? },
            4 => Body::Promise(Promise::read(reader)?),
            5 => {
                let RefuseBody { ballot, promised, no_takeover } = reader.head()?;
                let (ballot, promised) = (ballot.read()?, promised.read()?);
                Body::Refuse { ballot, promised, no_takeover: flag(*no_takeover)? }
            }
            6 => {
                let TakeoverHead { ballot, end, scn } = reader.head()?;
                let (ballot, end, scn) = (ballot.read()?, end.read()?, read_scn(*scn)?);
                Body::Takeover { ballot, end, scn, config: Config::read(reader)? }
            }
            7 => {
                let AcceptedBody { ballot, upto, seq, low, committed } = reader.head()?;
                let (ballot, upto, seq) = (ballot.read()?, read_lsn(*upto)?, seq.get());
                let (low, committed) = (read_lsn(*low)?, read_lsn(*committed)?);
                Body::Accepted { ballot, upto, seq, low, committed }
            }
            8 => {
                let CommitBody { ballot, upto, end, held } = reader.head()?;
                let (ballot, upto) = (ballot.read()?, read_lsn(*upto)?);
                Body::Commit { ballot, upto, end: read_lsn(*end)?, held: read_lsn(*held)? }
            }
            9 => {
                let FetchBody { ballot, from, upto, want } = reader.head()?;
                let (ballot, from, upto) = (ballot.read()?, read_lsn(*from)?, read_lsn(*upto)?);
                let want = Want::from_code(*want).ok_or(DecodeError::Inconsistent)?;
                Body::Fetch(FetchRequest { ballot, from, upto, want })
            }
            10 => {
                let StepDownBody { ballot, known, successor } = reader.head()?;
                let (successor, appointed) = match (known.get(), successor.get()) {
                    (0, _) => (None, false),
                    (1, node) => (Some(node), false),
                    (2, node) => (Some(node), true),
                    _ => return Err(DecodeError::Inconsistent),
                };
                Body::StepDown { ballot: ballot.read()?, successor, appointed }
            }
            code => return Err(DecodeError::UnknownCode(code)),
        })
    }
}

impl Promise {
    fn encode_into(&self, out: &mut Vec<u8>) {
        // What the reader insists on.
        assert!(self.base <= self.committed && self.committed <= self.end.lsn);
        assert!(self.accepting <= self.ballot, "accepts a ballot above the promise");
        assert!(self.holes.len() <= HOLES_MAX, "a log has so many holes at most");
        let head = PromiseHead {
            ballot: self.ballot.into(),
            accepting: self.accepting.into(),
            end: self.end.into(),
            committed: self.committed.0.into(),
            base: self.base.0.into(),
            unknown: u8::from(self.unknown),
            scn: self.scn.into(),
            holes: (self.holes.len() as u16).into(),
        };
        put(out, &head);
        for (from, upto) in &self.holes {
            put(out, &RawHole { from: from.0.into(), upto: upto.0.into() });
        }
        self.config.encode_into(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Promise, DecodeError> {
        let head: &PromiseHead = reader.head()?;
        let count = usize::from(head.holes.get());
        if count > HOLES_MAX {
            return Err(DecodeError::TooLong);
        }
        let hole = |hole: &RawHole| Ok((read_lsn(hole.from)?, read_lsn(hole.upto)?));
        let promise = Promise {
            ballot: head.ballot.read()?,
            accepting: head.accepting.read()?,
            end: head.end.read()?,
            committed: read_lsn(head.committed)?,
            base: read_lsn(head.base)?,
            unknown: flag(head.unknown)?,
            scn: read_scn(head.scn)?,
            holes: reader.list(count)?.iter().map(hole).collect::<Result<_, DecodeError>>()?,
            config: Config::read(reader)?,
        };
        let mut ordered = promise.base <= promise.committed && promise.committed <= promise.end.lsn;
        let mut at = promise.base;
        for (from, upto) in &promise.holes {
            ordered &= at <= *from && from < upto && *upto <= promise.end.lsn;
            at = *upto;
        }
        let stamped = promise.accepting.max(promise.config.ballot);
        if !ordered || stamped > promise.ballot {
            return Err(DecodeError::Inconsistent);
        }
        assert!(promise.accepting <= promise.ballot && promise.base <= promise.end.lsn);
        Ok(promise)
    }
}
