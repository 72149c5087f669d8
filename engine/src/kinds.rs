//! Every frame kind of the protocol, in one place: no two mean the same number.
//!
//! What the frames hold is said where they are made: `netio/src/hello.rs`, `shard/net.rs`,
//! `forward/wire.rs`, `client/wire.rs`. PROTOCOL.md has the same tables; a test compares them.

/// Defines the kinds and [`ALL`] from one list.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:expr;)*) => {
        $($(#[$doc])* pub const $name: u16 = $number;)*

        /// Every kind with its name, in the order of the numbers.
        pub const ALL: &[(&str, u16)] = &[$((stringify!($name), $name)),*];
    };
}

kinds! {
    /// Handshake: who dials, and whom it wants.
    KIND_HELLO = palisade_netio::KIND_HELLO;
    /// Handshake: who answers.
    KIND_WELCOME = palisade_netio::KIND_WELCOME;
    /// Handshake: why the connection is not wanted.
    KIND_REFUSAL = palisade_netio::KIND_REFUSAL;

    /// Between shards: replica messages, end to end.
    KIND_MESSAGES = 16;
    /// Between shards: a heartbeat.
    KIND_HEARTBEAT = 17;
    /// Between shards: a leader's batch, its body as the leader wrote it, `tag` its `headers_crc`.
    KIND_GROUPS = 18;
    /// Between shards: groups that were fetched, `tag` the `headers_crc`; the prefix says for what.
    KIND_FETCHED = 19;
    /// Between shards: a [`FloorAsk`](crate::paxos::FloorAsk).
    KIND_FLOOR_ASK = 20;
    /// Between shards: a [`FloorHeld`](crate::paxos::FloorHeld).
    KIND_FLOOR_HELD = 21;
    /// Between shards, and to standbys: a [`ClosedNews`](crate::paxos::ClosedNews).
    KIND_CLOSED = 22;
    /// Between shards: what the SYNC standby holds of streams that the sender leads.
    KIND_SYNC_HELD = 23;
    /// Between shards: a [`LevelAsk`](crate::control::LevelAsk), to the leader of the catalogue.
    KIND_LEVEL_ASK = 24;
    /// Between shards: a [`LevelTold`](crate::control::LevelTold), from it.
    KIND_LEVEL_TOLD = 25;
    /// Between shards of a standby: a [`Complete`](crate::paxos::Complete).
    KIND_COMPLETE = 26;
    /// Between shards: the highest [`Term`](crate::control::Term) of the primary's role that the
    /// sender heard of.
    KIND_TERM = 27;

    /// From a reader: a [`Fetch`](crate::forward::wire::Fetch).
    KIND_FETCH = 64;
    /// From a reader: more credit.
    KIND_CREDIT = 65;
    /// From a reader: the end of a stream.
    KIND_STOP = 66;
    /// To a reader: a chunk of records.
    KIND_CHUNK = 67;
    /// To a reader: an [`End`](crate::forward::wire::End).
    KIND_END = 68;
    /// To a reader: the [`Status`](crate::forward::wire::Status) of a stream.
    KIND_STREAM_STATUS = 69;
    /// To a reader: a [`Beat`](crate::forward::wire::Beat).
    KIND_BEAT = 70;
    /// From a standby, or a primary that tells of itself: a
    /// [`Question`](crate::transfer::Question) about streams and nodes.
    KIND_ASK = 80;
    /// To who asked: [`Facts`](crate::transfer::Facts), the answer of one shard.
    KIND_FACTS = 81;
    /// From a SYNC standby: a [`SyncFetch`](crate::transfer::sync::SyncFetch).
    KIND_SYNC_FETCH = 96;
    /// From a SYNC standby: no more of a stream.
    KIND_SYNC_STOP = 97;
    /// From a SYNC standby: what its majorities hold; a sign of life when it names nothing.
    KIND_SYNC_REPLY = 98;
    /// To a SYNC standby: a [`SyncOpen`](crate::transfer::sync::SyncOpen).
    KIND_SYNC_OPEN = 99;
    /// To a SYNC standby: the end of a stream, and why.
    KIND_SYNC_END = 100;
    /// To a SYNC standby: a chunk of groups, as a [`KIND_CHUNK`].
    KIND_SYNC_CHUNK = 101;

    /// From a client: records for one stream.
    KIND_APPEND = 0x100;
    /// The answer to [`KIND_APPEND`].
    KIND_APPENDED = 0x101;
    /// The negative answer to any request of a client.
    KIND_REFUSED = 0x102;
    /// From a client: asks for new streams.
    KIND_CREATE_STREAMS = 0x103;
    /// The answer to [`KIND_CREATE_STREAMS`].
    KIND_CREATED = 0x104;
    /// From a client: asks which streams there are.
    KIND_LIST_STREAMS = 0x105;
    /// The answer to [`KIND_LIST_STREAMS`].
    KIND_STREAMS = 0x106;
    /// From a client: asks how the node is.
    KIND_STATUS = 0x107;
    /// The answer to [`KIND_STATUS`].
    KIND_STATUS_JSON = 0x108;
    /// From a client: asks the leader of a stream to hand over to another node.
    KIND_TRANSFER_LEADER = 0x109;
    /// The answer to [`KIND_TRANSFER_LEADER`].
    KIND_TRANSFERRED = 0x10a;
    /// From a client: nothing below a position is read at this node any more.
    KIND_TRUNCATE = 0x10b;
    /// The answer to [`KIND_TRUNCATE`].
    KIND_TRUNCATED = 0x10c;
    /// From a client: a stream of a standby is to begin anew where its upstream's log begins.
    KIND_REBUILD = 0x10d;
    /// The answer to [`KIND_REBUILD`].
    KIND_REBUILDING = 0x10e;
    /// From a client: asks for a change of the registry of clusters or of the protection mode.
    KIND_CONTROL = 0x110;
    /// The answer to [`KIND_CONTROL`].
    KIND_CONTROLLED = 0x111;
    /// From a client: asks which clusters there are.
    KIND_REGISTRY = 0x112;
    /// The answer to [`KIND_REGISTRY`].
    KIND_REGISTRY_JSON = 0x113;
}

/// In the first tag of a heartbeat: the sender's log has little space left.
pub const HEARTBEAT_SHORT: u64 = 1;
/// In the first tag of a heartbeat: a part of the sender's log is damaged or unknown.
pub const HEARTBEAT_IMPAIRED: u64 = 2;

const _: () = {
    let mut at = 1;
    while at < ALL.len() {
        assert!(ALL[at - 1].1 < ALL[at].1, "in the order of the numbers, each once");
        at += 1;
    }
    assert!(KIND_REFUSAL < palisade_netio::KIND_USER_MIN);
    assert!(KIND_MESSAGES >= palisade_netio::KIND_USER_MIN);
};
