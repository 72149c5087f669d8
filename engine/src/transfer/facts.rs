//! What a standby asks of nodes that it may take its logs from, and what they answer.
//!
//! ```text
//! KIND_ASK    tag number; body: from: place | known: term
//!             | count u16 | count x (stream u64, flags u8, has u64)
//! KIND_FACTS  tag number; body: cluster u32, node u32, shards u16, role u8, region
//!             | own: term | known: term
//!             | count u16 | count x (stream u64, committed u64, flags u8, standing u8,
//!                                    epoch u64, round u64, count u64, crosser u32, sync u32,
//!                                    path)
//!             | count u16 | count x place
//! place       cluster u32, node u32, region, address
//! term        epoch u64, cluster u32
//! region, address   length u8, UTF-8          path   length u8, then u32 each
//! ```
//!
//! Flag 1 of a stream: it is received across a border between regions. `has` is where the part ends
//! that a majority of the asker's cluster has. A question is answered by
//! each shard that owns some of its streams, with the same number; one about no stream, by which a
//! primary tells others that it is one, by the shard of the catalogue. `own` is the term of the
//! primary's role by the registry of who answers, `known` the highest that somebody heard of: in an
//! answer, what every shard of the node keeps.

use std::net::SocketAddr;

use palisade_netio::FrameHead;
use palisade_wal::Lsn;
use zerocopy::little_endian::{U16, U32, U64};

use super::limits::{ASK_STREAMS_MAX, PATH_MAX, PLACES_MAX};
use crate::config::Role;
use crate::control::{RawTerm, Term};
use crate::kinds::{KIND_ASK, KIND_FACTS};
use crate::paxos::codec::{Reader, fixed, put};
use crate::paxos::{DecodeError, REGION_BYTES_MAX};

/// Longest address as text.
const ADDR_BYTES_MAX: usize = 64;
const FLAG_ACROSS: u8 = 1;

fixed! {
    RawWanted: 17 { stream: U64, flags: u8, has: U64 }
    /// A region, streams and places follow.
    FactsHead: 11 { cluster: U32, node: U32, shards: U16, role: u8 }
    /// So many clusters follow.
    StreamHead: 51 {
        stream: U64, committed: U64, flags: u8, standing: u8, epoch: U64, round: U64, count: U64,
        crosser: U32, sync: U32, path: u8,
    }
    /// A region and an address follow.
    PlaceHead: 8 { cluster: U32, node: U32 }
}

/// Why a question or an answer says nothing valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// Fewer or more bytes than its fields have.
    #[error("it has another length than its fields")]
    Length,
    /// A field out of its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

impl From<DecodeError> for FactsError {
    fn from(_: DecodeError) -> FactsError {
        FactsError::Length
    }
}

/// A node, and where it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its cluster.
    pub cluster: u32,
    /// The node.
    pub node: u32,
    /// Where it stands.
    pub region: String,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// How far the life of a primary leader was seen. It grows while that leader leads and its
/// heartbeats flow; each hop relays it, so that who is cut off shows an old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Pulse {
    /// Generation of the primary role.
    pub epoch: u64,
    /// Round of the leader's ballot.
    pub round: u64,
    /// Counted by the leader.
    pub count: u64,
}

/// Clusters that a stream comes through: the upstream's first, the primary last. Empty at the
/// primary, and where nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Path {
    len: u8,
    clusters: [u32; PATH_MAX],
}

impl Path {
    /// The path by way of `cluster`, whose own is `rest`. None when it is too long.
    pub fn through(cluster: u32, rest: &Path) -> Option<Path> {
        let mut clusters = vec![cluster];
        clusters.extend(rest.clusters());
        Path::of(&clusters)
    }

    /// A path of these clusters. None when it is too long.
    pub fn of(clusters: &[u32]) -> Option<Path> {
        let mut path = Path::default();
        path.clusters.get_mut(..clusters.len())?.copy_from_slice(clusters);
        path.len = clusters.len() as u8;
        Some(path)
    }

    /// The clusters.
    pub fn clusters(&self) -> &[u32] {
        &self.clusters[..usize::from(self.len)]
    }

    /// Whether a cluster is on it.
    pub fn contains(&self, cluster: u32) -> bool {
        self.clusters().contains(&cluster)
    }

    /// Whether nothing comes along it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// One stream of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The stream.
    pub stream: u64,
    /// Who asks receives it across a border now.
    pub across: bool,
    /// The cluster of who asks has what is below, on a majority of its nodes.
    pub has: Lsn,
}

/// "How do you stand to these streams, and who else is there?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Comes back in the answers.
    pub number: u64,
    /// Who asks.
    pub from: Place,
    /// The highest term of the primary's role that it heard of.
    pub known: Term,
    /// At most [`ASK_STREAMS_MAX`].
    pub streams: Vec<Wanted>,
}

/// What a node is to a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It does not have the stream, or cannot serve it.
    Absent,
    /// It follows the leader of its cluster.
    Follower,
    /// It leads it in its cluster.
    Leader,
}

impl Standing {
    const ALL: [Standing; 3] = [Standing::Absent, Standing::Follower, Standing::Leader];
}

/// One stream of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamFacts {
    /// The stream.
    pub stream: u64,
    /// Committed end there.
    pub committed: Lsn,
    /// What the node is to it.
    pub standing: Standing,
    /// It is received across a border.
    pub across: bool,
    /// Of the primary's leader.
    pub pulse: Pulse,
    /// The cluster that is to receive it across, into the region of who asks; 0: nobody says.
    pub crosser: u32,
    /// The cluster that the primary's leader ships it to before it acks; 0: none, or nobody says.
    pub sync: u32,
    /// How it comes there.
    pub path: Path,
}

/// The answer of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Of the question.
    pub number: u64,
    /// The cluster.
    pub cluster: u32,
    /// The node.
    pub node: u32,
    /// Its shards.
    pub shards: u16,
    /// Role of the cluster.
    pub role: Role,
    /// Where the node stands.
    pub region: String,
    /// Term of the primary's role by its registry.
    pub own: Term,
    /// The highest that it heard of, and keeps.
    pub known: Term,
    /// Streams of the question that belong to the shard.
    pub streams: Vec<StreamFacts>,
    /// At most [`PLACES_MAX`]: the cluster's own nodes, and those that ask here.
    pub places: Vec<Place>,
}

impl Question {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.streams.len() <= ASK_STREAMS_MAX, "too many streams in a question");
        let mut body = Vec::new();
        put_place(&mut body, &self.from);
        self.known.encode_into(&mut body);
        put(&mut body, &U16::new(self.streams.len() as u16));
        for wanted in &self.streams {
            let flags = if wanted.across { FLAG_ACROSS } else { 0 };
            let (stream, has) = (wanted.stream.into(), wanted.has.0.into());
            put(&mut body, &RawWanted { stream, flags, has });
        }
        FrameHead::encode(KIND_ASK, self.number, 0, &body)
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// Bytes that are no question.
    pub fn parse(head: &FrameHead, body: &[u8]) -> Result<Question, FactsError> {
        let mut rest = Reader::new(body);
        let from = read_place(&mut rest)?;
        let known = read_term(&mut rest)?;
        let count = read_count(&mut rest, ASK_STREAMS_MAX, "streams")?;
        let wanted = |RawWanted { stream, flags, has }: &RawWanted| {
            let (stream, has) = (stream.get(), read_lsn(*has, "committed end")?);
            Ok(Wanted { stream, across: read_flags(*flags)?, has })
        };
        let streams = rest.list(count)?.iter().map(wanted).collect::<Result<_, FactsError>>()?;
        rest.finish()?;
        Ok(Question { number: head.tag, from, known, streams })
    }
}

impl Facts {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.streams.len() <= ASK_STREAMS_MAX && self.places.len() <= PLACES_MAX);
        let mut body = Vec::new();
        let (cluster, node) = (self.cluster.into(), self.node.into());
        let (shards, role) = (self.shards.into(), self.role as u8);
        put(&mut body, &FactsHead { cluster, node, shards, role });
        put_text(&mut body, &self.region);
        self.own.encode_into(&mut body);
        self.known.encode_into(&mut body);
        put(&mut body, &U16::new(self.streams.len() as u16));
        self.streams.iter().for_each(|facts| put_stream(&mut body, facts));
        put(&mut body, &U16::new(self.places.len() as u16));
        self.places.iter().for_each(|place| put_place(&mut body, place));
        FrameHead::encode(KIND_FACTS, self.number, 0, &body)
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// Bytes that are no answer.
    pub fn parse(frame: &FrameHead, body: &[u8]) -> Result<Facts, FactsError> {
        let mut rest = Reader::new(body);
        let head: &FactsHead = rest.head()?;
        let (cluster, node) = (id(head.cluster, "cluster")?, id(head.node, "node")?);
        let shards = head.shards.get();
        if shards == 0 {
            return Err(FactsError::Range("shards"));
        }
        let role = match head.role {
            0 => Role::Primary,
            1 => Role::Standby,
            _ => return Err(FactsError::Range("role")),
        };
        let region = read_text(&mut rest, REGION_BYTES_MAX, "region")?;
        let (own, known) = (read_term(&mut rest)?, read_term(&mut rest)?);
        let count = read_count(&mut rest, ASK_STREAMS_MAX, "streams")?;
        let streams = (0..count).map(|_| read_stream(&mut rest)).collect::<Result<_, _>>()?;
        let count = read_count(&mut rest, PLACES_MAX, "places")?;
        let places = (0..count).map(|_| read_place(&mut rest)).collect::<Result<_, _>>()?;
        rest.finish()?;
        let number = frame.tag;
        Ok(Facts { number, cluster, node, shards, role, region, own, known, streams, places })
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= REGION_BYTES_MAX.max(ADDR_BYTES_MAX), "a long name");
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    let (cluster, node) = (place.cluster.into(), place.node.into());
    put(out, &PlaceHead { cluster, node });
    put_text(out, &place.region);
    put_text(out, &place.addr.to_string());
}

fn put_stream(out: &mut Vec<u8>, facts: &StreamFacts) {
    let head = StreamHead {
        stream: facts.stream.into(),
        committed: facts.committed.0.into(),
        flags: if facts.across { FLAG_ACROSS } else { 0 },
        standing: facts.standing as u8,
        epoch: facts.pulse.epoch.into(),
        round: facts.pulse.round.into(),
        count: facts.pulse.count.into(),
        crosser: facts.crosser.into(),
        sync: facts.sync.into(),
        path: facts.path.len,
    };
    put(out, &head);
    facts.path.clusters().iter().for_each(|cluster| put(out, &U32::new(*cluster)));
}

fn id(number: U32, what: &'static str) -> Result<u32, FactsError> {
    Some(number.get()).filter(|id| *id > 0).ok_or(FactsError::Range(what))
}

fn read_lsn(number: U64, what: &'static str) -> Result<Lsn, FactsError> {
    let lsn = Lsn(number.get());
    let is_one = lsn <= Lsn::MAX && lsn.0.is_multiple_of(Lsn::ALIGN);
    is_one.then_some(lsn).ok_or(FactsError::Range(what))
}

fn read_flags(flags: u8) -> Result<bool, FactsError> {
    match flags {
        0 => Ok(false),
        FLAG_ACROSS => Ok(true),
        _ => Err(FactsError::Range("flags")),
    }
}

fn read_count(rest: &mut Reader<'_>, most: usize, what: &'static str) -> Result<usize, FactsError> {
    let count = usize::from(rest.head::<U16>()?.get());
    if count > most { Err(FactsError::Range(what)) } else { Ok(count) }
}

fn read_text(rest: &mut Reader<'_>, most: usize, what: &'static str) -> Result<String, FactsError> {
    let len = usize::from(rest.u8()?);
    if len > most || len == 0 {
        return Err(FactsError::Range(what));
    }
    let text = std::str::from_utf8(rest.bytes(len)?).map_err(|_| FactsError::Range(what))?;
    Ok(text.to_owned())
}

fn read_term(rest: &mut Reader<'_>) -> Result<Term, FactsError> {
    Term::read(rest.head::<RawTerm>()?).map_err(|_| FactsError::Range("term"))
}

fn read_place(rest: &mut Reader<'_>) -> Result<Place, FactsError> {
    let PlaceHead { cluster, node } = rest.head()?;
    let (cluster, node) = (id(*cluster, "cluster")?, id(*node, "node")?);
    let region = read_text(rest, REGION_BYTES_MAX, "region")?;
    let addr = read_text(rest, ADDR_BYTES_MAX, "address")?;
    let addr = addr.parse().map_err(|_| FactsError::Range("address"))?;
    Ok(Place { cluster, node, region, addr })
}

fn read_stream(rest: &mut Reader<'_>) -> Result<StreamFacts, FactsError> {
    let head: &StreamHead = rest.head()?;
    let committed = read_lsn(head.committed, "committed end")?;
    let standing = Standing::ALL.get(usize::from(head.standing));
    let (epoch, round, count) = (head.epoch.get(), head.round.get(), head.count.get());
    let len = usize::from(head.path);
    if len > PATH_MAX {
        return Err(FactsError::Range("path"));
    }
    let clusters = rest.list::<U32>(len)?.iter().map(|cluster| id(*cluster, "cluster"));
    let clusters = clusters.collect::<Result<Vec<u32>, FactsError>>()?;
    Ok(StreamFacts {
        stream: head.stream.get(),
        committed,
        standing: *standing.ok_or(FactsError::Range("standing"))?,
        across: read_flags(head.flags)?,
        pulse: Pulse { epoch, round, count },
        crosser: head.crosser.get(),
        sync: head.sync.get(),
        path: Path::of(&clusters).ok_or(FactsError::Range("path"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::limits::CONTROL_BODY_MAX;
    use crate::forward::testlog::mix;
    use crate::forward::wire::FROM_FORWARDER;
    use palisade_netio::limits::FRAME_HEAD_BYTES;

    fn place(node: u32) -> Place {
        let addr = format!("[2001:db8::{node}]:65535").parse().unwrap();
        Place { cluster: 7, node, region: "r".repeat(REGION_BYTES_MAX), addr }
    }

    fn question() -> Question {
        let wanted =
            |stream| Wanted { stream, across: stream % 2 == 1, has: Lsn(stream * Lsn::ALIGN) };
        let streams = (0..ASK_STREAMS_MAX as u64).map(wanted).collect();
        Question { number: 9, from: place(3), known: Term { epoch: 2, cluster: 7 }, streams }
    }

    fn facts() -> Facts {
        let stream = |stream: u64| StreamFacts {
            stream,
            committed: Lsn(stream * 8),
            standing: Standing::ALL[stream as usize % 3],
            across: stream.is_multiple_of(2),
            pulse: Pulse { epoch: 1, round: stream, count: u64::MAX },
            crosser: stream as u32,
            sync: stream as u32 / 2,
            path: Path::of(&[4, 5, 6][..stream as usize % 4]).unwrap(),
        };
        Facts {
            number: 9,
            cluster: 1,
            node: 2,
            shards: 64,
            role: Role::Standby,
            region: "hz".into(),
            own: Term { epoch: 2, cluster: 1 },
            known: Term { epoch: u64::MAX, cluster: 9 },
            streams: (0..ASK_STREAMS_MAX as u64).map(stream).collect(),
            places: (1..=PLACES_MAX as u32).map(place).collect(),
        }
    }

    fn split(frame: &[u8]) -> (FrameHead, &[u8]) {
        (FrameHead::parse(frame, &FROM_FORWARDER).unwrap(), &frame[FRAME_HEAD_BYTES..])
    }

    #[test]
    fn question_and_answer_read_back_and_the_longest_fit() {
        let (question, facts) = (question(), facts());
        let frame = question.encode();
        let (head, body) = split(&frame);
        assert!(body.len() <= CONTROL_BODY_MAX as usize, "{} bytes", body.len());
        assert_eq!(Question::parse(&head, body), Ok(question));
        let frame = facts.encode();
        let (head, body) = split(&frame);
        assert!(body.len() <= 32 << 10, "{} bytes", body.len());
        assert_eq!(Facts::parse(&head, body), Ok(facts));
    }

    #[test]
    fn what_is_cut_or_changed_is_an_error_or_something_valid_and_never_a_panic() {
        let frames = [question().encode(), facts().encode()];
        let mut seed = 3;
        for frame in &frames {
            let (head, body) = split(frame);
            for len in 0..body.len() {
                assert!(Question::parse(&head, &body[..len]).is_err());
                assert!(Facts::parse(&head, &body[..len]).is_err());
            }
            for _ in 0..5_000 {
                let mut body = body.to_vec();
                let at = mix(&mut seed) as usize % body.len();
                body[at] ^= 1 << (mix(&mut seed) % 8);
                let _ = (Question::parse(&head, &body), Facts::parse(&head, &body));
            }
        }
        assert_eq!(Path::of(&[1; PATH_MAX + 1]), None);
        let full = Path::of(&[1; PATH_MAX]).unwrap();
        assert_eq!(Path::through(2, &full), None);
    }

    #[test]
    fn pulses_go_by_epoch_then_round_then_count() {
        let pulse = |epoch, round, count| Pulse { epoch, round, count };
        assert!(pulse(2, 0, 0) > pulse(1, 9, 9) && pulse(1, 2, 0) > pulse(1, 1, 9));
        assert!(pulse(1, 1, 2) > pulse(1, 1, 1));
    }
}
