//! What replicas of one stream say to each other. Groups never travel in a message.
//!
//! ```text
//! kind u8 | reserved u8 | length u16 | stream u64 | body
//! ```
//!
//! `length` counts the body. A control frame holds any number of messages end to end.

use palisade_wal::limits::HOLES_MAX;
use palisade_wal::{Ballot, Boundary, Lsn};

use super::codec::{DecodeError, Reader, put_u16, put_u32, put_u64};
use super::member::{
    CONFIG_BYTES_MAX, Config, SCN_MAX, put_ballot, put_boundary, read_ballot, read_boundary,
    read_lsn,
};

/// Bytes before the body.
pub const MESSAGE_HEAD_BYTES: usize = 12;
/// Longest body.
pub const MESSAGE_BODY_BYTES_MAX: usize = 4096;

/// Longest body of a message that carries a config, without the config: that of a Promise.
const PROMISE_BYTES: usize = 20 + 20 + 16 + 8 + 8 + 1 + 8 + 2;

const _: () = assert!(MESSAGE_HEAD_BYTES == 1 + 1 + 2 + 8);
const _: () = assert!(MESSAGE_BODY_BYTES_MAX <= u16::MAX as usize, "its length is a u16");
const _: () = assert!(
    PROMISE_BYTES + HOLES_MAX * 16 + CONFIG_BYTES_MAX <= MESSAGE_BODY_BYTES_MAX,
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
        out.extend_from_slice(&[self.body.code(), 0, 0, 0]);
        put_u64(out, self.stream);
        let start = out.len();
        assert!(start - head == MESSAGE_HEAD_BYTES, "the body begins elsewhere");
        self.body.encode_into(out);
        let len = out.len() - start;
        assert!(len <= MESSAGE_BODY_BYTES_MAX, "a body of {len} bytes");
        assert!(len > 0, "a message that says nothing");
        out[head + 2..head + 4].copy_from_slice(&(len as u16).to_le_bytes());
    }

    /// Reads one message from the front of `bytes`, and says how many bytes it took.
    ///
    /// # Errors
    /// Bytes that are none; the rest of the frame cannot be read then.
    pub fn decode(bytes: &[u8]) -> Result<(Message, usize), DecodeError> {
        let mut reader = Reader::new(bytes);
        let code = reader.u8()?;
        if reader.u8()? != 0 {
            return Err(DecodeError::Inconsistent);
        }
        let len = usize::from(reader.u16()?);
        if len > MESSAGE_BODY_BYTES_MAX {
            return Err(DecodeError::TooLong);
        }
        let stream = reader.u64()?;
        let mut body = Reader::new(reader.bytes(len)?);
        let message = Message { stream, body: Body::read(code, &mut body)? };
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
            Body::PreVote { ballot } | Body::Prepare { ballot } => put_ballot(out, *ballot),
            Body::PreVoteReply { ballot, granted, promised, leader } => {
                put_ballot(out, *ballot);
                out.push(u8::from(*granted));
                put_ballot(out, *promised);
                put_ballot(out, *leader);
            }
            Body::Promise(promise) => promise.encode_into(out),
            Body::Refuse { ballot, promised, no_takeover } => {
                put_ballot(out, *ballot);
                put_ballot(out, *promised);
                out.push(u8::from(*no_takeover));
            }
            Body::Takeover { ballot, end, scn, config } => {
                put_ballot(out, *ballot);
                put_boundary(out, *end);
                put_u64(out, *scn);
                config.encode_into(out);
            }
            Body::Accepted { ballot, upto, seq, low, committed } => {
                put_ballot(out, *ballot);
                put_u64(out, upto.0);
                put_u64(out, *seq);
                put_u64(out, low.0);
                put_u64(out, committed.0);
            }
            Body::Commit { ballot, upto, end, held } => {
                assert!(upto <= end, "commits what is not there");
                put_ballot(out, *ballot);
                put_u64(out, upto.0);
                put_u64(out, end.0);
                put_u64(out, held.0);
            }
            Body::Fetch(request) => {
                put_ballot(out, request.ballot);
                put_u64(out, request.from.0);
                put_u64(out, request.upto.0);
                out.push(request.want.code());
            }
            Body::StepDown { ballot, successor, appointed } => {
                put_ballot(out, *ballot);
                let known = u16::from(successor.is_some()) + u16::from(*appointed);
                put_u16(out, known);
                put_u32(out, successor.unwrap_or(0));
            }
        }
    }

    fn read(code: u8, reader: &mut Reader<'_>) -> Result<Body, DecodeError> {
        Ok(match code {
            1 => Body::PreVote { ballot: read_ballot(reader)? },
            2 => Body::PreVoteReply {
                ballot: read_ballot(reader)?,
                granted: reader.flag()?,
                promised: read_ballot(reader)?,
                leader: read_ballot(reader)?,
            },
            3 => Body::Prepare { ballot: read_ballot(reader)? },
            4 => Body::Promise(Promise::read(reader)?),
            5 => Body::Refuse {
                ballot: read_ballot(reader)?,
                promised: read_ballot(reader)?,
                no_takeover: reader.flag()?,
            },
            6 => Body::Takeover {
                ballot: read_ballot(reader)?,
                end: read_boundary(reader)?,
                scn: read_scn(reader)?,
                config: Config::read(reader)?,
            },
            7 => Body::Accepted {
                ballot: read_ballot(reader)?,
                upto: read_lsn(reader)?,
                seq: reader.u64()?,
                low: read_lsn(reader)?,
                committed: read_lsn(reader)?,
            },
            8 => Body::Commit {
                ballot: read_ballot(reader)?,
                upto: read_lsn(reader)?,
                end: read_lsn(reader)?,
                held: read_lsn(reader)?,
            },
            9 => Body::Fetch(FetchRequest {
                ballot: read_ballot(reader)?,
                from: read_lsn(reader)?,
                upto: read_lsn(reader)?,
                want: Want::from_code(reader.u8()?).ok_or(DecodeError::Inconsistent)?,
            }),
            10 => {
                let ballot = read_ballot(reader)?;
                let (successor, appointed) = match (reader.u16()?, reader.u32()?) {
                    (0, _) => (None, false),
                    (1, node) => (Some(node), false),
                    (2, node) => (Some(node), true),
                    _ => return Err(DecodeError::Inconsistent),
                };
                Body::StepDown { ballot, successor, appointed }
            }
            code => return Err(DecodeError::UnknownCode(code)),
        })
    }
}

impl Promise {
    fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        // What the reader insists on.
        assert!(self.base <= self.committed && self.committed <= self.end.lsn);
        assert!(self.accepting <= self.ballot, "accepts a ballot above the promise");
        put_ballot(out, self.ballot);
        put_ballot(out, self.accepting);
        put_boundary(out, self.end);
        put_u64(out, self.committed.0);
        put_u64(out, self.base.0);
        out.push(u8::from(self.unknown));
        put_u64(out, self.scn);
        assert!(self.holes.len() <= HOLES_MAX, "a log has so many holes at most");
        put_u16(out, self.holes.len() as u16);
        assert!(out.len() - start == PROMISE_BYTES, "its fixed part has another length");
        for (from, upto) in &self.holes {
            put_u64(out, from.0);
            put_u64(out, upto.0);
        }
        self.config.encode_into(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Promise, DecodeError> {
        let promise = Promise {
            ballot: read_ballot(reader)?,
            accepting: read_ballot(reader)?,
            end: read_boundary(reader)?,
            committed: read_lsn(reader)?,
            base: read_lsn(reader)?,
            unknown: reader.flag()?,
            scn: read_scn(reader)?,
            holes: read_holes(reader)?,
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

fn read_scn(reader: &mut Reader<'_>) -> Result<u64, DecodeError> {
    let scn = reader.u64()?;
    if scn <= SCN_MAX { Ok(scn) } else { Err(DecodeError::Inconsistent) }
}

fn read_holes(reader: &mut Reader<'_>) -> Result<Vec<(Lsn, Lsn)>, DecodeError> {
    let count = usize::from(reader.u16()?);
    if count > HOLES_MAX {
        return Err(DecodeError::TooLong);
    }
    (0..count).map(|_| Ok((read_lsn(reader)?, read_lsn(reader)?))).collect()
}
