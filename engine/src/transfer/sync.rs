//! What a stream's leader at the primary and its leader in the SYNC standby say to each other,
//! over a connection between their log shards, which the standby's dials.
//!
//! | frame | direction | tag | second tag | body |
//! |---|---|---|---|---|
//! | SYNC_FETCH | standby -> | stream | from | number, chain, committed, role epoch; ballot |
//! | SYNC_STOP | standby -> | stream | number | |
//! | SYNC_REPLY | standby -> | 0 | role epoch | (stream, committed, chain) again and again |
//! | SYNC_OPEN | -> standby | stream | number | committed, role epoch, mark epoch; ballot |
//! | SYNC_END | -> standby | stream | reason | nothing; the base with `recycled` |
//! | SYNC_CHUNK | -> standby | stream | start | as a CHUNK to a reader |
//! | BEAT | -> standby | pulse | role epoch | |
//!
//! A ballot is round u64, incarnation u64, node u32, zero u32; every other number is a u64.
//!
//! A FETCH names the end of the standby's log, what its majority has of it, and the ballot under
//! which it leads there; it is answered by an OPEN with its number, and chunks from its position
//! on follow: whatever came before the OPEN belongs to an older FETCH. Who does not lead the
//! stream, or whose mark names another cluster, keeps the FETCH in mind and asks for a new one by
//! an OPEN with the number 0 when that changes, and again while something waits and nothing comes.
//! A STOP ends what FETCHes up to its number asked for. So each frame may be lost, come late or
//! come twice: who waits asks again, and what is old is known by its number.

use palisade_netio::FrameHead;
use palisade_wal::{Ballot, Boundary, Lsn};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use super::limits::SYNC_REPLIES_MAX;
use crate::kinds::{
    KIND_SYNC_END, KIND_SYNC_FETCH, KIND_SYNC_OPEN, KIND_SYNC_REPLY, KIND_SYNC_STOP,
};
use crate::paxos::DecodeError;
use crate::paxos::codec::{Fixed, RawBoundary, WideBallot, exact, fixed, put};

fixed! {
    FetchBody: 56 { number: U64, chain: U64, committed: U64, role_epoch: U64, ballot: WideBallot }
    OpenBody: 48 { committed: U64, role_epoch: U64, epoch: U64, ballot: WideBallot }
    RawReply: 24 { stream: U64, committed: RawBoundary }
    RawNews: 24 { stream: U64, held: U64, cluster: U32, asks: U32 }
}

/// "Ship me this stream as it is committed, from the end of my log on."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncFetch {
    /// The stream.
    pub stream: u64,
    /// Comes back in the answer; never 0.
    pub number: u64,
    /// Where the log ends there.
    pub from: Boundary,
    /// What a majority there has of it.
    pub committed: Lsn,
    /// Role epoch that the standby knows.
    pub role_epoch: u64,
    /// The ballot under which it leads the stream in its cluster.
    pub ballot: Ballot,
}

/// "I lead it, and wait for you before I ack."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncOpen {
    /// The stream.
    pub stream: u64,
    /// Of the FETCH that is answered; 0: send one.
    pub number: u64,
    /// Committed at the sender.
    pub committed: Lsn,
    /// Role epoch of the sender.
    pub role_epoch: u64,
    /// Epoch of the mark that names the standby.
    pub epoch: u64,
    /// The ballot under which the sender leads the stream.
    pub ballot: Ballot,
}

/// "A majority of my cluster has this much of the stream."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncReply {
    /// The stream.
    pub stream: u64,
    /// Its committed end, and the chain there.
    pub committed: Boundary,
}

/// Why a stream is not shipped any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SyncEnd {
    /// The sender leads it no more.
    NotLeader,
    /// Its last mark does not name the standby.
    NotNamed,
    /// The standby's log is another.
    NotMatch,
    /// A newer leader of the standby takes it.
    Superseded,
    /// The sender's role is older than the one that the standby knows.
    OldRole,
    /// The sender's log begins later than the standby's ends.
    Recycled {
        /// Where.
        base: Lsn,
    },
}

impl SyncEnd {
    /// The number on the wire.
    pub fn code(self) -> u64 {
        match self {
            SyncEnd::NotLeader => 1,
            SyncEnd::NotNamed => 2,
            SyncEnd::NotMatch => 3,
            SyncEnd::Superseded => 4,
            SyncEnd::OldRole => 5,
            SyncEnd::Recycled { .. } => 6,
        }
    }

    /// The name in PROTOCOL.md.
    pub fn name(self) -> &'static str {
        match self {
            SyncEnd::NotLeader => "not-leader",
            SyncEnd::NotNamed => "not-named",
            SyncEnd::NotMatch => "not-match",
            SyncEnd::Superseded => "superseded",
            SyncEnd::OldRole => "old-role",
            SyncEnd::Recycled { .. } => "recycled",
        }
    }

    /// What a number says; `base` is where the log begins that says `recycled`.
    pub(crate) fn from_code(code: u64, base: Lsn) -> Option<SyncEnd> {
        match code {
            1 => Some(SyncEnd::NotLeader),
            2 => Some(SyncEnd::NotNamed),
            3 => Some(SyncEnd::NotMatch),
            4 => Some(SyncEnd::Superseded),
            5 => Some(SyncEnd::OldRole),
            6 => Some(SyncEnd::Recycled { base }),
            _ => None,
        }
    }
}

/// What a SYNC standby says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromStandby {
    /// Ship.
    Fetch(SyncFetch),
    /// Ship this stream no more.
    Stop {
        /// The stream.
        stream: u64,
        /// Of the last FETCH that it takes back.
        number: u64,
    },
    /// What is held; at most [`SYNC_REPLIES_MAX`].
    Reply {
        /// Role epoch that the standby knows.
        role_epoch: u64,
        /// Each stream whose end moved.
        held: Vec<SyncReply>,
    },
}

/// What a leader at the primary says, beside chunks and beats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToStandby {
    /// It ships.
    Open(SyncOpen),
    /// It does not any more.
    End {
        /// The stream.
        stream: u64,
        /// Why.
        reason: SyncEnd,
    },
}

fn position(value: U64) -> Result<Lsn, DecodeError> {
    let lsn = Lsn(value.get());
    let good = lsn <= Lsn::MAX && lsn.0.is_multiple_of(Lsn::ALIGN);
    if good { Ok(lsn) } else { Err(DecodeError::Inconsistent) }
}

/// The ballot of a leader.
fn leading(ballot: &WideBallot) -> Result<Ballot, DecodeError> {
    Some(ballot.read()?).filter(|ballot| ballot.is_some()).ok_or(DecodeError::Inconsistent)
}

/// Entries of a fixed size, as many as there are bytes for, and at most [`SYNC_REPLIES_MAX`].
fn entries<T: Fixed>(body: &[u8]) -> Result<&[T], DecodeError> {
    if body.len() > SYNC_REPLIES_MAX * size_of::<T>() {
        return Err(DecodeError::TooLong);
    }
    <[T]>::ref_from_bytes(body).map_err(|_| DecodeError::Trailing)
}

impl FromStandby {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            FromStandby::Fetch(fetch) => {
                assert!(fetch.number > 0, "a number that asks for nothing");
                let body = FetchBody {
                    number: fetch.number.into(),
                    chain: fetch.from.chain.into(),
                    committed: fetch.committed.0.into(),
                    role_epoch: fetch.role_epoch.into(),
                    ballot: fetch.ballot.into(),
                };
                let from = fetch.from.lsn.0;
                FrameHead::encode(KIND_SYNC_FETCH, fetch.stream, from, body.as_bytes())
            }
            FromStandby::Stop { stream, number } => {
                FrameHead::encode(KIND_SYNC_STOP, *stream, *number, &[])
            }
            FromStandby::Reply { role_epoch, held } => {
                assert!(held.len() <= SYNC_REPLIES_MAX, "too many streams in a reply");
                let mut body = Vec::with_capacity(size_of::<RawReply>() * held.len());
                for SyncReply { stream, committed } in held {
                    let (stream, committed) = ((*stream).into(), (*committed).into());
                    put(&mut body, &RawReply { stream, committed });
                }
                FrameHead::encode(KIND_SYNC_REPLY, 0, *role_epoch, &body)
            }
        }
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// When it is not for a leader of the primary, or a number is out of range.
    pub fn parse(head: &FrameHead, body: &[u8]) -> Result<FromStandby, DecodeError> {
        match head.kind {
            KIND_SYNC_FETCH => {
                let wire: &FetchBody = exact(body)?;
                let from =
                    Boundary { lsn: position(U64::new(head.tag2))?, chain: wire.chain.get() };
                let (number, committed) = (wire.number.get(), position(wire.committed)?);
                if number == 0 || committed > from.lsn {
                    return Err(DecodeError::Inconsistent);
                }
                let (stream, role_epoch) = (head.tag, wire.role_epoch.get());
                let ballot = leading(&wire.ballot)?;
                let fetch = SyncFetch { stream, number, from, committed, role_epoch, ballot };
                Ok(FromStandby::Fetch(fetch))
            }
            KIND_SYNC_STOP => {
                let _: &[u8; 0] = exact(body)?;
                Ok(FromStandby::Stop { stream: head.tag, number: head.tag2 })
            }
            KIND_SYNC_REPLY => {
                let reply = |RawReply { stream, committed }: &RawReply| {
                    let lsn = position(committed.lsn)?;
                    let committed = Boundary { lsn, chain: committed.chain.get() };
                    Ok(SyncReply { stream: stream.get(), committed })
                };
                let held = entries(body)?.iter().map(reply).collect::<Result<_, DecodeError>>()?;
                Ok(FromStandby::Reply { role_epoch: head.tag2, held })
            }
            _ => Err(DecodeError::Inconsistent),
        }
    }
}

impl ToStandby {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            ToStandby::Open(open) => {
                let body = OpenBody {
                    committed: open.committed.0.into(),
                    role_epoch: open.role_epoch.into(),
                    epoch: open.epoch.into(),
                    ballot: open.ballot.into(),
                };
                FrameHead::encode(KIND_SYNC_OPEN, open.stream, open.number, body.as_bytes())
            }
            ToStandby::End { stream, reason } => {
                let mut body = Vec::new();
                if let SyncEnd::Recycled { base } = reason {
                    put(&mut body, &U64::new(base.0));
                }
                FrameHead::encode(KIND_SYNC_END, *stream, reason.code(), &body)
            }
        }
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// When it is not for a standby, or a number is out of range.
    pub fn parse(head: &FrameHead, body: &[u8]) -> Result<ToStandby, DecodeError> {
        match head.kind {
            KIND_SYNC_OPEN => {
                let wire: &OpenBody = exact(body)?;
                Ok(ToStandby::Open(SyncOpen {
                    stream: head.tag,
                    number: head.tag2,
                    committed: position(wire.committed)?,
                    role_epoch: wire.role_epoch.get(),
                    epoch: wire.epoch.get(),
                    ballot: leading(&wire.ballot)?,
                }))
            }
            KIND_SYNC_END => {
                let reason = SyncEnd::from_code(head.tag2, Lsn::ZERO);
                let mut reason = reason.ok_or(DecodeError::Inconsistent)?;
                match &mut reason {
                    SyncEnd::Recycled { base } => *base = position(*exact(body)?)?,
                    _ => _ = exact::<[u8; 0]>(body)?,
                }
                Ok(ToStandby::End { stream: head.tag, reason })
            }
            _ => Err(DecodeError::Inconsistent),
        }
    }
}

/// What followers of the primary are told of a stream, so that their readers go on: (stream u64,
/// held u64, cluster u32, asks u32) again and again. A follower whose readers wait for long asks,
/// by the same with `asks` 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldNews {
    /// The stream.
    pub stream: u64,
    /// The SYNC standby.
    pub cluster: u32,
    /// What its majority has.
    pub held: Lsn,
    /// Who says so wants to hear what is held.
    pub asks: bool,
}

impl HeldNews {
    /// The body of a frame of kind `KIND_SYNC_HELD`.
    pub fn encode(news: &[HeldNews]) -> Vec<u8> {
        assert!(news.len() <= SYNC_REPLIES_MAX, "too many streams in one frame");
        let mut body = Vec::new();
        for said in news {
            let (stream, held) = (said.stream.into(), said.held.0.into());
            let (cluster, asks) = (said.cluster.into(), u32::from(said.asks).into());
            put(&mut body, &RawNews { stream, held, cluster, asks });
        }
        body
    }

    /// Reads such a body.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(body: &[u8]) -> Result<Vec<HeldNews>, DecodeError> {
        let said = |news: &RawNews| {
            let (stream, held, cluster) =
                (news.stream.get(), position(news.held)?, news.cluster.get());
            match news.asks.get() {
                asks @ 0..=1 => Ok(HeldNews { stream, cluster, held, asks: asks == 1 }),
                _ => Err(DecodeError::Inconsistent),
            }
        };
        entries(body)?.iter().map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testlog::mix;
    use crate::forward::wire::FROM_FORWARDER;
    use crate::paxos::ROUND_MAX;
    use palisade_netio::limits::FRAME_HEAD_BYTES;

    const BALLOT: Ballot = Ballot { round: 7, node: 3, incarnation: u64::MAX };

    fn fetch() -> SyncFetch {
        let from = Boundary { lsn: Lsn(800), chain: 5 };
        let (stream, number, committed, role_epoch) = (9, 2, Lsn(792), 1);
        SyncFetch { stream, number, from, committed, role_epoch, ballot: BALLOT }
    }

    fn split(frame: &[u8]) -> (FrameHead, &[u8]) {
        (FrameHead::parse(frame, &FROM_FORWARDER).unwrap(), &frame[FRAME_HEAD_BYTES..])
    }

    fn reply(count: usize) -> FromStandby {
        let held = |stream| SyncReply {
            stream,
            committed: Boundary { lsn: Lsn(stream * 8), chain: !stream },
        };
        FromStandby::Reply { role_epoch: 4, held: (0..count as u64).map(held).collect() }
    }

    fn said_held(at: u64, asks: bool) -> HeldNews {
        HeldNews { stream: at, cluster: u32::MAX, held: Lsn(at * 8), asks }
    }

    #[test]
    fn what_is_said_reads_back() {
        let said = [
            FromStandby::Fetch(fetch()),
            FromStandby::Stop { stream: 3, number: 8 },
            reply(0),
            reply(SYNC_REPLIES_MAX),
        ];
        for said in said {
            let frame = said.encode();
            let (head, body) = split(&frame);
            assert_eq!(FromStandby::parse(&head, body), Ok(said));
        }
        let (committed, role_epoch, epoch) = (Lsn(8), 1, 6);
        let open = SyncOpen { stream: 2, number: 0, committed, role_epoch, epoch, ballot: BALLOT };
        let reasons: Vec<SyncEnd> =
            (1..).map_while(|code| SyncEnd::from_code(code, Lsn(80))).collect();
        assert_eq!(reasons.last(), Some(&SyncEnd::Recycled { base: Lsn(80) }));
        let ends = reasons.into_iter().map(|reason| ToStandby::End { stream: 5, reason });
        for said in ends.chain([ToStandby::Open(open)]) {
            let frame = said.encode();
            let (head, body) = split(&frame);
            assert_eq!(ToStandby::parse(&head, body), Ok(said));
        }
        let news: Vec<HeldNews> = (1..9).map(|at| said_held(at, at % 2 == 0)).collect();
        assert_eq!(HeldNews::decode(&HeldNews::encode(&news)), Ok(news));
        let mut odd = HeldNews::encode(&[said_held(1, false)]);
        odd[20] = 2;
        assert_eq!(HeldNews::decode(&odd), Err(DecodeError::Inconsistent));
    }

    #[test]
    fn numbers_that_cannot_be_are_refused_and_garbage_never_panics() {
        let wrong: [fn(&mut SyncFetch); 4] = [
            |f| f.from.lsn = Lsn(801),
            |f| f.committed = Lsn(808),
            |f| f.ballot.round = ROUND_MAX + 1,
            |f| f.ballot = Ballot::NONE,
        ];
        for change in wrong {
            let mut fetch = fetch();
            change(&mut fetch);
            let frame = FromStandby::Fetch(fetch).encode();
            let (head, body) = split(&frame);
            assert_eq!(FromStandby::parse(&head, body), Err(DecodeError::Inconsistent));
        }
        let mut seed = 5;
        let reason = SyncEnd::Recycled { base: Lsn(80) };
        let end = ToStandby::End { stream: 5, reason }.encode();
        let (head, body) = split(&end);
        assert_eq!(ToStandby::parse(&head, &body[..7]), Err(DecodeError::Truncated));
        assert_eq!(ToStandby::parse(&head, &[1; 8]), Err(DecodeError::Inconsistent));
        let none = FrameHead { tag2: 7, ..head };
        assert_eq!(ToStandby::parse(&none, &[]), Err(DecodeError::Inconsistent));
        for frame in [FromStandby::Fetch(fetch()).encode(), reply(4).encode(), end] {
            let (head, body) = split(&frame);
            for len in 0..body.len() {
                let _ = FromStandby::parse(&head, &body[..len]);
                let _ = (ToStandby::parse(&head, &body[..len]), HeldNews::decode(&body[..len]));
            }
            for _ in 0..5_000 {
                let (mut head, mut body) = (head, body.to_vec());
                head.kind = KIND_SYNC_FETCH + (mix(&mut seed) % 6) as u16;
                let at = mix(&mut seed) as usize % body.len();
                body[at] ^= 1 << (mix(&mut seed) % 8);
                let _ = (FromStandby::parse(&head, &body), ToStandby::parse(&head, &body));
            }
        }
    }
}
