//! What a standby asks of nodes that it may take its logs from, and what they answer.
//!
//! ```text
//! KIND_ASK    tag number; body: from: place | count u16 | count x (stream u64, flags u8)
//! KIND_FACTS  tag number; body: cluster u32, node u32, shards u16, role u8, region
//!             | count u16 | count x (stream u64, committed u64, flags u8, standing u8,
//!                                    epoch u64, round u64, count u64, crosser u32, sync u32,
//!                                    path)
//!             | count u16 | count x place
//! place       cluster u32, node u32, region, address
//! region, address   length u8, UTF-8          path   length u8, then u32 each
//! ```
//!
//! Flag 1 of a stream: it is received across a border between regions. A question is answered by
//! each shard that owns some of its streams, with the same number.

use std::net::SocketAddr;

use palisade_netio::FrameHead;
use palisade_wal::Lsn;

use super::limits::{ASK_STREAMS_MAX, PATH_MAX, PLACES_MAX};
use crate::config::Role;
use crate::kinds::{KIND_ASK, KIND_FACTS};
use crate::paxos::REGION_BYTES_MAX;

/// Longest address as text.
const ADDR_BYTES_MAX: usize = 64;
const FLAG_ACROSS: u8 = 1;

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
}

/// "How do you stand to these streams, and who else is there?"
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Comes back in the answers.
    pub number: u64,
    /// Who asks.
    pub from: Place,
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
        put(&mut body, &(self.streams.len() as u16).to_le_bytes());
        for wanted in &self.streams {
            put(&mut body, &wanted.stream.to_le_bytes());
            body.push(if wanted.across { FLAG_ACROSS } else { 0 });
        }
        FrameHead::encode(KIND_ASK, self.number, 0, &body)
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// Bytes that are no question.
    pub fn parse(head: &FrameHead, body: &[u8]) -> Result<Question, FactsError> {
        let mut rest = Rest(body);
        let from = rest.place()?;
        let count = rest.count(ASK_STREAMS_MAX, "streams")?;
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            streams.push(Wanted { stream: rest.u64()?, across: rest.flag()? });
        }
        rest.end()?;
        Ok(Question { number: head.tag, from, streams })
    }
}

impl Facts {
    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.streams.len() <= ASK_STREAMS_MAX && self.places.len() <= PLACES_MAX);
        let mut body = Vec::new();
        put(&mut body, &self.cluster.to_le_bytes());
        put(&mut body, &self.node.to_le_bytes());
        put(&mut body, &self.shards.to_le_bytes());
        body.push(self.role as u8);
        put_text(&mut body, &self.region);
        put(&mut body, &(self.streams.len() as u16).to_le_bytes());
        for facts in &self.streams {
            put_stream(&mut body, facts);
        }
        put(&mut body, &(self.places.len() as u16).to_le_bytes());
        self.places.iter().for_each(|place| put_place(&mut body, place));
        FrameHead::encode(KIND_FACTS, self.number, 0, &body)
    }

    /// Reads a frame whose head and body were checked by netio.
    ///
    /// # Errors
    /// Bytes that are no answer.
    pub fn parse(head: &FrameHead, body: &[u8]) -> Result<Facts, FactsError> {
        let mut rest = Rest(body);
        let (cluster, node) = (rest.id("cluster")?, rest.id("node")?);
        let shards = u16::from_le_bytes(rest.array()?);
        if shards == 0 {
            return Err(FactsError::Range("shards"));
        }
        let role = match rest.u8()? {
            0 => Role::Primary,
            1 => Role::Standby,
            _ => return Err(FactsError::Range("role")),
        };
        let region = rest.text(REGION_BYTES_MAX, "region")?;
        let count = rest.count(ASK_STREAMS_MAX, "streams")?;
        let mut streams = Vec::with_capacity(count);
        for _ in 0..count {
            streams.push(rest.stream()?);
        }
        let count = rest.count(PLACES_MAX, "places")?;
        let mut places = Vec::with_capacity(count);
        for _ in 0..count {
            places.push(rest.place()?);
        }
        rest.end()?;
        Ok(Facts { number: head.tag, cluster, node, shards, role, region, streams, places })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    assert!(text.len() <= REGION_BYTES_MAX.max(ADDR_BYTES_MAX), "a long name");
    out.push(text.len() as u8);
    put(out, text.as_bytes());
}

fn put_place(out: &mut Vec<u8>, place: &Place) {
    put(out, &place.cluster.to_le_bytes());
    put(out, &place.node.to_le_bytes());
    put_text(out, &place.region);
    put_text(out, &place.addr.to_string());
}

fn put_stream(out: &mut Vec<u8>, facts: &StreamFacts) {
    put(out, &facts.stream.to_le_bytes());
    put(out, &facts.committed.0.to_le_bytes());
    out.push(if facts.across { FLAG_ACROSS } else { 0 });
    out.push(facts.standing as u8);
    for number in [facts.pulse.epoch, facts.pulse.round, facts.pulse.count] {
        put(out, &number.to_le_bytes());
    }
    put(out, &facts.crosser.to_le_bytes());
    put(out, &facts.sync.to_le_bytes());
    out.push(facts.path.len);
    facts.path.clusters().iter().for_each(|cluster| put(out, &cluster.to_le_bytes()));
}

/// What is left of a body.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FactsError> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(FactsError::Length)?;
        self.0 = rest;
        Ok(*first)
    }

    fn u8(&mut self) -> Result<u8, FactsError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, FactsError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, FactsError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn id(&mut self, what: &'static str) -> Result<u32, FactsError> {
        match self.u32()? {
            0 => Err(FactsError::Range(what)),
            id => Ok(id),
        }
    }

    fn flag(&mut self) -> Result<bool, FactsError> {
        match self.u8()? {
            0 => Ok(false),
            FLAG_ACROSS => Ok(true),
            _ => Err(FactsError::Range("flags")),
        }
    }

    fn count(&mut self, most: usize, what: &'static str) -> Result<usize, FactsError> {
        let count = usize::from(u16::from_le_bytes(self.array()?));
        if count > most { Err(FactsError::Range(what)) } else { Ok(count) }
    }

    fn text(&mut self, most: usize, what: &'static str) -> Result<String, FactsError> {
        let len = usize::from(self.u8()?);
        if len > most || len == 0 {
            return Err(FactsError::Range(what));
        }
        let (text, rest) = self.0.split_at_checked(len).ok_or(FactsError::Length)?;
        self.0 = rest;
        let text = std::str::from_utf8(text).map_err(|_| FactsError::Range(what))?;
        Ok(text.to_owned())
    }

    fn place(&mut self) -> Result<Place, FactsError> {
        let (cluster, node) = (self.id("cluster")?, self.id("node")?);
        let region = self.text(REGION_BYTES_MAX, "region")?;
        let addr = self.text(ADDR_BYTES_MAX, "address")?;
        let addr = addr.parse().map_err(|_| FactsError::Range("address"))?;
        Ok(Place { cluster, node, region, addr })
    }

    fn stream(&mut self) -> Result<StreamFacts, FactsError> {
        let (stream, committed) = (self.u64()?, self.u64()?);
        if committed > Lsn::MAX.0 || !committed.is_multiple_of(Lsn::ALIGN) {
            return Err(FactsError::Range("committed end"));
        }
        let across = self.flag()?;
        let standing = usize::from(self.u8()?);
        let standing = *Standing::ALL.get(standing).ok_or(FactsError::Range("standing"))?;
        let pulse = Pulse { epoch: self.u64()?, round: self.u64()?, count: self.u64()? };
        let (crosser, sync, len) = (self.u32()?, self.u32()?, usize::from(self.u8()?));
        if len > PATH_MAX {
            return Err(FactsError::Range("path"));
        }
        let mut clusters = Vec::with_capacity(len);
        for _ in 0..len {
            clusters.push(self.id("cluster")?);
        }
        let path = Path::of(&clusters).ok_or(FactsError::Range("path"))?;
        let committed = Lsn(committed);
        Ok(StreamFacts { stream, committed, standing, across, pulse, crosser, sync, path })
    }

    fn end(&self) -> Result<(), FactsError> {
        if self.0.is_empty() { Ok(()) } else { Err(FactsError::Length) }
    }
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
        let wanted = |stream| Wanted { stream, across: stream % 2 == 1 };
        let streams = (0..ASK_STREAMS_MAX as u64).map(wanted).collect();
        Question { number: 9, from: place(3), streams }
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
