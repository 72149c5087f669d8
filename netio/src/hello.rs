//! The handshake: who dials whom, and why a connection is refused.
//!
//! The dialling side sends one [`Hello`] and nothing else; the accepting side answers [`Welcome`]
//! or [`Refusal`]. A dialler that was refused knows the reason in words.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::frame::FrameHead;
use crate::limits::REFUSAL_TEXT_MAX;

/// Version of the protocol that the users of links speak.
pub const PROTOCOL_VERSION: u16 = 1;
/// Frame kind of a [`Hello`].
pub const KIND_HELLO: u16 = 1;
/// Frame kind of a [`Welcome`].
pub const KIND_WELCOME: u16 = 2;
/// Frame kind of a [`Refusal`].
pub const KIND_REFUSAL: u16 = 3;
/// As a target cluster: whichever answers. Not for peers.
pub const ANY_CLUSTER: u32 = 0;
/// As a target node of a client or reader: whichever node answers. As a target shard: any.
pub const ANY_NODE: u32 = 0;
/// As a target shard: whichever the node chooses.
pub const ANY_SHARD: u16 = u16::MAX;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Small urgent frames between two shards of one cluster.
    Control = 1,
    /// Blocks between two shards of one cluster.
    Bulk = 2,
    /// A client of a node.
    Client = 3,
    /// A reader of logs, of this cluster or of another.
    Reader = 4,
    /// A shard of another cluster that is sent bytes as they come about.
    Sync = 5,
}

impl Class {
    /// The class with this number.
    pub fn from_number(number: u8) -> Option<Class> {
        [Class::Control, Class::Bulk, Class::Client, Class::Reader, Class::Sync]
            .into_iter()
            .find(|&class| class as u8 == number)
    }

    /// Whether both ends are shards of one cluster, which then must agree on the shard count.
    pub fn is_peer(self) -> bool {
        matches!(self, Class::Control | Class::Bulk)
    }
}

/// Who a process says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// The cluster.
    pub cluster: u32,
    /// The node in it; 0 for a client that is no node.
    pub node: u32,
    /// Which life of the node's disk.
    pub incarnation: u64,
    /// Which start of the process.
    pub boot: u64,
    /// The shard that speaks.
    pub shard: u16,
    /// How many shards its node has; 0 for a client.
    pub shards: u16,
    /// Whatever the user of links says of itself: carried, and compared with nothing here.
    pub fingerprint: u64,
}

/// Whom a connection wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Target {
    /// The cluster.
    pub cluster: u32,
    /// The node, or [`ANY_NODE`].
    pub node: u32,
    /// The shard, or [`ANY_SHARD`].
    pub shard: u16,
}

/// The first frame of a connection, from the side that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// What the connection is for.
    pub class: Class,
    /// The sender.
    pub from: Identity,
    /// Whom it wants.
    pub target: Target,
    /// A stream, to route clients and readers to its shard; otherwise 0.
    pub stream: u64,
    /// What the sender understands beside what each of its version does: carried, and judged by
    /// the users of links. A version that knows none of it says 0, and does not look.
    pub features: u8,
}

/// The answer to a [`Hello`] that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Welcome {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u16,
    /// The sender.
    pub from: Identity,
}

/// What an accepting side requires of a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// This cluster.
    pub cluster: u32,
    /// This node.
    pub node: u32,
    /// The shard that is asked, or [`ANY_SHARD`] when connections are routed to shards later.
    pub shard: u16,
    /// Shards of this node.
    pub shards: u16,
}

/// Why a connection is refused, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// Another protocol version.
    Version,
    /// Another cluster.
    Cluster,
    /// Another node.
    Node,
    /// A shard that this node does not have, or not here.
    Shard,
    /// Another number of shards.
    ShardCount,
    /// The first frame was no hello.
    Malformed,
    /// Too many connections.
    Busy,
    /// A reason of the link's user, from 256 on.
    Other(u16),
}

impl RefusalCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        match self {
            RefusalCode::Version => 1,
            RefusalCode::Cluster => 2,
            RefusalCode::Node => 3,
            RefusalCode::Shard => 4,
            RefusalCode::ShardCount => 5,
            RefusalCode::Malformed => 6,
            RefusalCode::Busy => 7,
            RefusalCode::Other(number) => number,
        }
    }

    /// The code with this number; unknown ones are [`RefusalCode::Other`].
    pub fn from_number(number: u16) -> RefusalCode {
        match number {
            1 => RefusalCode::Version,
            2 => RefusalCode::Cluster,
            3 => RefusalCode::Node,
            4 => RefusalCode::Shard,
            5 => RefusalCode::ShardCount,
            6 => RefusalCode::Malformed,
            7 => RefusalCode::Busy,
            other => RefusalCode::Other(other),
        }
    }
}

/// Why a connection is refused: a code and at most [`REFUSAL_TEXT_MAX`] bytes of text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    code: RefusalCode,
    text: String,
}

impl Refusal {
    /// A refusal; a longer text is cut at a character.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Refusal {
        let mut text = text.into();
        let end = (0..=REFUSAL_TEXT_MAX.min(text.len())).rev().find(|&i| text.is_char_boundary(i));
        text.truncate(end.unwrap_or(0));
        Refusal { code, text }
    }

    /// The reason, for programs.
    pub fn code(&self) -> RefusalCode {
        self.code
    }

    /// The reason, for people.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = self.code.number().to_le_bytes().to_vec();
        body.extend_from_slice(self.text.as_bytes());
        FrameHead::encode(KIND_REFUSAL, 0, 0, &body)
    }

    /// Reads the body of a frame of kind [`KIND_REFUSAL`]. Bytes that are no UTF-8 are replaced.
    pub fn parse(body: &[u8]) -> Option<Refusal> {
        let (code, text) = body.split_first_chunk::<2>()?;
        let code = RefusalCode::from_number(u16::from_le_bytes(*code));
        let text = &text[..text.len().min(REFUSAL_TEXT_MAX)];
        // Control characters of a stranger do not belong on a terminal.
        let text = String::from_utf8_lossy(text).replace(|c: char| c.is_control(), "?");
        Some(Refusal::new(code, text))
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Wire {
    version: U16,
    class: u8,
    features: u8,
    shard: U16,
    shards: U16,
    cluster: U32,
    node: U32,
    incarnation: U64,
    boot: U64,
    target_cluster: U32,
    target_node: U32,
    target_shard: U16,
    reserved2: [u8; 6],
    stream: U64,
    fingerprint: U64,
}

const _: () = assert!(size_of::<Wire>() == 64);

impl Wire {
    fn new(version: u16, from: Identity) -> Wire {
        Wire {
            version: version.into(),
            class: 0,
            features: 0,
            shard: from.shard.into(),
            shards: from.shards.into(),
            cluster: from.cluster.into(),
            node: from.node.into(),
            incarnation: from.incarnation.into(),
            boot: from.boot.into(),
            target_cluster: 0.into(),
            target_node: 0.into(),
            target_shard: 0.into(),
            reserved2: [0; 6],
            stream: 0.into(),
            fingerprint: from.fingerprint.into(),
        }
    }

    /// The version comes first and alone, so that another version, of whatever length, is named.
    fn read(body: &[u8]) -> Result<&Wire, Refusal> {
        let malformed =
            || Refusal::new(RefusalCode::Malformed, format!("greeting of {} bytes", body.len()));
        let (version, _) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
        let version = u16::from_le_bytes(*version);
        if version != PROTOCOL_VERSION {
            let text = format!("protocol version {version}, this side speaks {PROTOCOL_VERSION}");
            return Err(Refusal::new(RefusalCode::Version, text));
        }
        Wire::ref_from_bytes(body).map_err(|_| malformed())
    }

    fn from(&self) -> Identity {
        Identity {
            cluster: self.cluster.get(),
            node: self.node.get(),
            incarnation: self.incarnation.get(),
            boot: self.boot.get(),
            shard: self.shard.get(),
            shards: self.shards.get(),
            fingerprint: self.fingerprint.get(),
        }
    }
}

impl Hello {
    /// A hello of this protocol version.
    pub fn new(class: Class, from: Identity, target: Target) -> Hello {
        Hello { version: PROTOCOL_VERSION, class, from, target, stream: 0, features: 0 }
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut wire = Wire::new(self.version, self.from);
        wire.class = self.class as u8;
        wire.features = self.features;
        wire.target_cluster = self.target.cluster.into();
        wire.target_node = self.target.node.into();
        wire.target_shard = self.target.shard.into();
        wire.stream = self.stream.into();
        FrameHead::encode(KIND_HELLO, 0, 0, wire.as_bytes())
    }

    /// Reads the body of a frame of kind [`KIND_HELLO`].
    ///
    /// # Errors
    /// The refusal to answer, when the version is another or the bytes are no hello.
    pub fn parse(body: &[u8]) -> Result<Hello, Refusal> {
        let wire = Wire::read(body)?;
        let Some(class) = Class::from_number(wire.class) else {
            let text = format!("unknown connection class {}", wire.class);
            return Err(Refusal::new(RefusalCode::Malformed, text));
        };
        Ok(Hello {
            version: wire.version.get(),
            class,
            from: wire.from(),
            target: Target {
                cluster: wire.target_cluster.get(),
                node: wire.target_node.get(),
                shard: wire.target_shard.get(),
            },
            stream: wire.stream.get(),
            features: wire.features,
        })
    }

    /// Whether an accepting side may welcome this hello.
    ///
    /// # Errors
    /// The refusal to answer; it names both values.
    pub fn check(&self, expect: &Expect) -> Result<(), Refusal> {
        use RefusalCode as Code;
        differs(Code::Version, "protocol version", self.version, PROTOCOL_VERSION)?;
        let any_cluster = !self.class.is_peer() && self.target.cluster == ANY_CLUSTER;
        if !any_cluster {
            differs(Code::Cluster, "target cluster", self.target.cluster, expect.cluster)?;
        }
        let any_node = !self.class.is_peer() && self.target.node == ANY_NODE;
        if !any_node {
            differs(Code::Node, "target node", self.target.node, expect.node)?;
        }
        let shard = self.target.shard;
        if expect.shard != ANY_SHARD && shard != ANY_SHARD {
            differs(Code::Shard, "target shard", shard, expect.shard)?;
        } else if shard != ANY_SHARD && shard >= expect.shards {
            let text = format!("target shard {shard}, this node has {} shards", expect.shards);
            return Err(Refusal::new(Code::Shard, text));
        }
        if self.class.is_peer() {
            differs(Code::Cluster, "cluster", self.from.cluster, expect.cluster)?;
            differs(Code::ShardCount, "shard count", self.from.shards, expect.shards)?;
            if self.from.shard >= self.from.shards {
                let text = format!("shard {} of {}", self.from.shard, self.from.shards);
                return Err(Refusal::new(Code::Shard, text));
            }
        }
        Ok(())
    }
}

impl Welcome {
    /// A welcome of this protocol version.
    pub fn new(from: Identity) -> Welcome {
        Welcome { version: PROTOCOL_VERSION, from }
    }

    /// The whole frame.
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire::new(self.version, self.from);
        FrameHead::encode(KIND_WELCOME, 0, 0, wire.as_bytes())
    }

    /// Reads the body of a frame of kind [`KIND_WELCOME`].
    ///
    /// # Errors
    /// When the version is another or the bytes are no welcome.
    pub fn parse(body: &[u8]) -> Result<Welcome, Refusal> {
        let wire = Wire::read(body)?;
        Ok(Welcome { version: wire.version.get(), from: wire.from() })
    }

    /// Whether this answer comes from whom `hello` wanted.
    ///
    /// # Errors
    /// The difference, naming both values.
    pub fn check(&self, hello: &Hello) -> Result<(), Refusal> {
        use RefusalCode as Code;
        differs(Code::Version, "protocol version", self.version, PROTOCOL_VERSION)?;
        if hello.class.is_peer() || hello.target.cluster != ANY_CLUSTER {
            let wanted = hello.target.cluster;
            differs(Code::Cluster, "answering cluster", self.from.cluster, wanted)?;
        }
        if hello.target.node != ANY_NODE {
            differs(Code::Node, "answering node", self.from.node, hello.target.node)?;
        }
        if hello.class.is_peer() {
            differs(Code::ShardCount, "shard count", self.from.shards, hello.from.shards)?;
        }
        Ok(())
    }
}

fn differs<T>(code: RefusalCode, what: &str, theirs: T, ours: T) -> Result<(), Refusal>
where
    T: PartialEq + std::fmt::Display,
{
    if theirs == ours {
        return Ok(());
    }
    Err(Refusal::new(code, format!("{what} {theirs}, expected {ours}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameLimits;
    use crate::limits::FRAME_HEAD_BYTES;

    const EXPECT: Expect = Expect { cluster: 7, node: 2, shard: ANY_SHARD, shards: 4 };

    fn hello() -> Hello {
        let from = Identity {
            cluster: 7,
            node: 1,
            incarnation: 3,
            boot: 4,
            shard: 1,
            shards: 4,
            fingerprint: 5,
        };
        Hello::new(Class::Control, from, Target { cluster: 7, node: 2, shard: 1 })
    }

    #[test]
    fn greetings_read_back() {
        let frame = Hello { stream: 99, features: 5, ..hello() }.encode();
        assert!(FrameHead::parse(&frame, &FrameLimits::GREETING).is_ok());
        let read = Hello::parse(&frame[FRAME_HEAD_BYTES..]).unwrap();
        assert_eq!(read, Hello { stream: 99, features: 5, ..hello() });
        let welcome = Welcome::new(hello().from);
        assert_eq!(Welcome::parse(&welcome.encode()[FRAME_HEAD_BYTES..]), Ok(welcome));
        let refusal = Refusal::new(RefusalCode::Busy, "é".repeat(300));
        assert_eq!(refusal.text().len(), REFUSAL_TEXT_MAX);
        assert_eq!(Refusal::parse(&refusal.encode()[FRAME_HEAD_BYTES..]), Some(refusal));
    }

    #[test]
    fn every_difference_is_refused_and_names_both_values() {
        assert_eq!(hello().check(&EXPECT), Ok(()));
        type Change = fn(&mut Hello);
        let cases: [(Change, RefusalCode, &str); 7] = [
            (|h| h.version = 9, RefusalCode::Version, "protocol version 9, expected 1"),
            (|h| h.target.cluster = 8, RefusalCode::Cluster, "target cluster 8, expected 7"),
            (|h| h.target.node = 5, RefusalCode::Node, "target node 5, expected 2"),
            (|h| h.target.shard = 4, RefusalCode::Shard, "target shard 4, this node has 4 shards"),
            (|h| h.from.cluster = 8, RefusalCode::Cluster, "cluster 8, expected 7"),
            (|h| h.from.shards = 8, RefusalCode::ShardCount, "shard count 8, expected 4"),
            (|h| h.from.shard = 4, RefusalCode::Shard, "shard 4 of 4"),
        ];
        for (change, code, text) in cases {
            let mut hello = hello();
            change(&mut hello);
            let refusal = hello.check(&EXPECT).unwrap_err();
            assert_eq!((refusal.code(), refusal.text()), (code, text));
        }
    }

    #[test]
    fn another_fingerprint_is_welcome_and_heard_of_on_both_sides() {
        let mut hello = hello();
        hello.from.fingerprint = u64::MAX;
        assert_eq!(hello.check(&EXPECT), Ok(()));
        let read = Hello::parse(&hello.encode()[FRAME_HEAD_BYTES..]).unwrap();
        assert_eq!(read.from.fingerprint, u64::MAX);
        let answers = Identity { cluster: 7, node: 2, shards: 4, fingerprint: 6, ..hello.from };
        let welcome = Welcome::new(answers);
        assert_eq!(welcome.check(&hello), Ok(()));
        let read = Welcome::parse(&welcome.encode()[FRAME_HEAD_BYTES..]).unwrap();
        assert_eq!(read.from.fingerprint, 6);
    }

    #[test]
    fn a_reader_may_come_from_another_cluster_with_other_shards() {
        let mut hello = hello();
        hello.class = Class::Reader;
        hello.from = Identity { cluster: 9, shards: 16, shard: 12, ..hello.from };
        hello.target.node = ANY_NODE;
        assert_eq!(hello.check(&EXPECT), Ok(()));
    }

    #[test]
    fn another_version_is_named_whatever_its_length() {
        let refusal = Hello::parse(&[2, 0, 1]).unwrap_err();
        assert_eq!(refusal.code(), RefusalCode::Version);
        assert_eq!(Hello::parse(&[1, 0, 1]).unwrap_err().code(), RefusalCode::Malformed);
        assert_eq!(Hello::parse(&[]).unwrap_err().code(), RefusalCode::Malformed);
    }
}
