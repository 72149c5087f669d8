//! One table of every key: checking, help and documents are made from it.

use std::time::Duration;

use palisade_netio::SyncPath;
use palisade_netio::limits::{BACKOFF_FIRST_NS, BACKOFF_LAST_NS, HANDSHAKE_NS, USER_TIMEOUT_MS};

use super::{Compression, Role, ZeroCopy, format_size, format_time};
use crate::paxos::{ELECTION_NS, HAND_OVER_NS, HEARTBEAT_NS};

/// One key of node.toml.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// `section.name`; the section `member` is a list of tables.
    pub path: &'static str,
    /// What it holds and within which bounds.
    pub shape: Shape,
    /// What holds when it is left out.
    pub default: Preset,
    /// What it is for.
    pub purpose: &'static str,
}

/// What a key holds, with inclusive bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A whole number.
    Number(u64, u64),
    /// A string like `"128MiB"`, or a number of bytes; and what it is a multiple of.
    Size(u64, u64, u64),
    /// A string like `"50ms"`; bounds in microseconds.
    Time(u64, u64),
    /// One of these strings.
    Word(&'static [&'static str]),
    /// A name of 1 to 64 letters, digits, `-`, `_` and `.`.
    Name,
    /// A path, not empty.
    Path,
    /// `true` or `false`.
    Flag,
    /// A string `"IP:PORT"`, the port not 0.
    Address,
    /// A list of at most so many addresses.
    Addresses(usize),
    /// A list of at most so many numbers, each at most the second.
    Numbers(usize, u64),
}

/// What holds when a key is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// It must be there.
    Required,
    /// This, as the file would say it.
    Is(&'static str),
    /// So many nanoseconds: the code that waits has the number.
    Nanos(u64),
    /// What this other key holds.
    Same(&'static str),
    /// An empty list.
    Empty,
}

/// Every section, in file order.
pub const SECTIONS: [&str; 7] =
    ["cluster", "node", "member", "upstream", "log", "network", "timing"];

/// `log.sync_path` when the disk is to be measured.
const AUTO: &str = "auto";
const SYNC_PATHS: [&str; 4] = [AUTO, SyncPath::WORDS[0], SyncPath::WORDS[1], SyncPath::WORDS[2]];

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
const STEP: u64 = super::SEGMENT_STEP_BYTES;
const ID: Shape = Shape::Number(1, u32::MAX as u64);

const fn key(path: &'static str, shape: Shape, default: Preset, purpose: &'static str) -> Key {
    Key { path, shape, default, purpose }
}

/// Every key, in file order.
pub const KEYS: [Key; 37] = [
    key(
        "cluster.id",
        ID,
        Preset::Required,
        "number of the cluster, unique among clusters that exchange logs",
    ),
    key(
        "cluster.name",
        Shape::Name,
        Preset::Required,
        "name of the cluster, for people; the same on every node of it",
    ),
    key(
        "cluster.role",
        Shape::Word(&Role::WORDS),
        Preset::Is("primary"),
        "role at `palisade format`; afterwards the log says, and this key is not read",
    ),
    key("node.id", ID, Preset::Required, "number of the node, unique in its cluster"),
    key(
        "node.region",
        Shape::Name,
        Preset::Required,
        "where the node stands; crossing regions is what cascading saves",
    ),
    key("node.data", Shape::Path, Preset::Required, "data directory; `palisade format` makes it"),
    key(
        "node.listen",
        Shape::Address,
        Preset::Required,
        "where peers, clients and readers connect",
    ),
    key(
        "node.advertise",
        Shape::Address,
        Preset::Same("node.listen"),
        "address that others are told to connect to",
    ),
    key(
        "node.shards",
        Shape::Number(1, 64),
        Preset::Is("1"),
        "log shards (threads with a ring); the same on every node of a cluster",
    ),
    key(
        "node.cpus",
        Shape::Numbers(64, 1023),
        Preset::Empty,
        "CPUs to pin log shards to, in order, inside the start-up affinity mask; empty: not pinned",
    ),
    key(
        "node.insecure_network",
        Shape::Flag,
        Preset::Is("false"),
        "accept a listener beyond loopback although nothing is encrypted",
    ),
    key(
        "member.id",
        ID,
        Preset::Required,
        "a node of this cluster; the list is read by `palisade format` only",
    ),
    key("member.addr", Shape::Address, Preset::Required, "its advertised address"),
    key("member.region", Shape::Name, Preset::Required, "its region"),
    key(
        "upstream.endpoints",
        Shape::Addresses(super::ENDPOINTS_MAX),
        Preset::Empty,
        "standby: nodes of the primary or of another standby, to fetch logs from; their clusters' \
         other nodes, and standbys that ask there, are found through them",
    ),
    key(
        "upstream.preferred_region",
        Shape::Name,
        Preset::Same("node.region"),
        "standby: upstreams of this region go first; others serve while none of it can",
    ),
    key(
        "upstream.override",
        Shape::Addresses(1),
        Preset::Empty,
        "standby: one node that goes before all others while it can be used; empty: the choice is \
         the standby's own",
    ),
    key(
        "log.segment_bytes",
        Shape::Size(8 << 20, 1 << 30, STEP),
        Preset::Is("128MiB"),
        "size of a segment file",
    ),
    key(
        "log.log_bytes_max",
        Shape::Size(32 << 20, 1 << 50, 1),
        Preset::Is("10GiB"),
        "space of all segments, at least 4; from 80 % on log.retain is set aside and checkpoints \
         come early, so that what nobody needs is recycled; appends slow down from 90 % and are \
         refused from 95 %",
    ),
    key(
        "log.retain",
        Shape::Time(0, 3650 * 86_400 * S),
        Preset::Is("0s"),
        "keep log on the disk at least this long after its readers let it go, while less than \
         80 % of log_bytes_max is used; what was never truncated is kept in any case",
    ),
    key(
        "log.pin_bytes_max",
        Shape::Size(0, 1 << 50, 1),
        Preset::Is("4GiB"),
        "bytes of a stream that are kept for registered standbys that lack them, beyond what \
         readers and log.retain keep, while less than 80 % of log_bytes_max is used; a standby \
         that lacks more is not kept for any longer; 0B: nothing is kept for them",
    ),
    key(
        "log.sync_path",
        Shape::Word(&SYNC_PATHS),
        Preset::Is(AUTO),
        "how writes are made durable; auto measures the disk once and keeps the verdict beside \
         the log",
    ),
    key(
        "network.zero_copy",
        Shape::Word(&ZeroCopy::WORDS),
        Preset::Is("auto"),
        "zero-copy sends; auto turns them off where the kernel copies anyway",
    ),
    key(
        "network.forward_max",
        Shape::Size(0, 1 << 40, 1),
        Preset::Is("0B"),
        "bytes a second that this node's forwarding shard sends to standbys and readers \
         together, at least 256KiB; 0B: no cap. What a SYNC standby waits for is not counted",
    ),
    key(
        "network.forward_max_per_standby",
        Shape::Size(0, 1 << 40, 1),
        Preset::Is("0B"),
        "the same for all nodes of one standby cluster",
    ),
    key(
        "network.forward_compression",
        Shape::Word(&Compression::WORDS),
        Preset::Is("off"),
        "how this node's forwarding shard compresses what goes to clusters that are registered in \
         another region than the node's; those of its own region always get it as it is",
    ),
    key(
        "timing.heartbeat",
        Shape::Time(5 * MS, 5 * S),
        Preset::Nanos(HEARTBEAT_NS),
        "pause between two heartbeats of a pair of shards; the same on every node of a cluster",
    ),
    key(
        "timing.election",
        Shape::Time(50 * MS, 60 * S),
        Preset::Nanos(ELECTION_NS),
        "silence of a leader after which a follower asks for votes, at least 3 heartbeats; \
         the same on every node of a cluster",
    ),
    key(
        "timing.hand_over",
        Shape::Time(0, 86_400 * S),
        Preset::Nanos(HAND_OVER_NS),
        "time that a member which comes first must be well before a leader hands over to it: \
         members of the first one's region come first, then in the order of the list; 0s: never, \
         else no sooner than timing.election",
    ),
    key(
        "timing.disk_stall_soft",
        Shape::Time(50 * MS, 60 * S),
        Preset::Is("1s"),
        "age of a leader's oldest write in flight at which it stops its heartbeats; \
         the only member of a cluster leads on",
    ),
    key(
        "timing.disk_stall_hard",
        Shape::Time(S, 600 * S),
        Preset::Is("20s"),
        "age of the oldest write in flight at which the node gives up, above disk_stall_soft",
    ),
    key(
        "timing.spin",
        Shape::Time(0, S),
        Preset::Is("0s"),
        "how long an idle shard looks for work before it sleeps: spares each append the wake-up \
         of a thread and costs a CPU for each shard; give those with node.cpus: one that the \
         durable writes of the disk need is refused",
    ),
    key(
        "timing.reconnect_min",
        Shape::Time(MS, 10 * S),
        Preset::Nanos(BACKOFF_FIRST_NS),
        "first pause before a peer is dialled again",
    ),
    key(
        "timing.reconnect_max",
        Shape::Time(10 * MS, 60 * S),
        Preset::Nanos(BACKOFF_LAST_NS),
        "longest pause before a peer is dialled again, at least reconnect_min",
    ),
    key(
        "timing.handshake",
        Shape::Time(50 * MS, 60 * S),
        Preset::Nanos(HANDSHAKE_NS),
        "time for a connection and its greeting",
    ),
    key(
        "timing.peer_timeout",
        Shape::Time(100 * MS, 600 * S),
        Preset::Nanos(USER_TIMEOUT_MS as u64 * 1_000_000),
        "time that sent bytes may stay unacknowledged before a connection ends",
    ),
    key(
        "timing.shutdown",
        Shape::Time(0, 600 * S),
        Preset::Is("5s"),
        "time that a graceful stop waits for appends in flight",
    ),
];

impl Shape {
    /// The allowed range in words.
    pub fn allowed(&self) -> String {
        let time = |us: u64| format_time(Duration::from_micros(us));
        match *self {
            Shape::Number(min, max) => format!("allowed {min} to {max}"),
            Shape::Size(min, max, step) => {
                let step = match step {
                    1 => String::new(),
                    step => format!(", a multiple of {}", format_size(step)),
                };
                format!("allowed {} to {}{step}", format_size(min), format_size(max))
            }
            Shape::Time(min, max) => format!("allowed {} to {}", time(min), time(max)),
            Shape::Word(words) => format!("allowed {}", words.join(" | ")),
            Shape::Name => "allowed 1 to 64 letters, digits, '-', '_' and '.'".to_owned(),
            Shape::Path => "allowed a path of 1 to 4000 bytes".to_owned(),
            Shape::Flag => "allowed true | false".to_owned(),
            Shape::Address => "allowed \"IP:PORT\" with port 1 to 65535".to_owned(),
            Shape::Addresses(max) => format!("allowed 0 to {max} of \"IP:PORT\""),
            Shape::Numbers(count, max) => format!("allowed 0 to {count} numbers from 0 to {max}"),
        }
    }

    /// What to write, in words.
    pub fn advice(&self) -> &'static str {
        match self {
            Shape::Number(..) => "write a whole number in that range",
            Shape::Size(..) => "write a whole number and B, KiB, MiB, GiB or TiB, like \"128MiB\"",
            Shape::Time(..) => "write a whole number and us, ms, s, m, h or d, like \"50ms\"",
            Shape::Word(_) => "write one of these in quotes",
            Shape::Name => "write a short plain name in quotes",
            Shape::Path => "write a path in quotes",
            Shape::Flag => "write true or false without quotes",
            Shape::Address => "write an address like \"127.0.0.1:7001\"",
            Shape::Addresses(_) => "write a list like [\"127.0.0.1:7001\"]",
            Shape::Numbers(..) => "write a list like [0, 1]",
        }
    }
}

impl Key {
    /// The entry of a path.
    pub fn find(path: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.path == path)
    }

    /// The default in words.
    pub fn default_text(&self) -> String {
        match (self.default, self.shape) {
            (Preset::Required, _) => "required".to_owned(),
            (Preset::Same(other), _) => format!("same as {other}"),
            (Preset::Empty, _) => "[]".to_owned(),
            (Preset::Nanos(ns), _) => format!("{:?}", format_time(Duration::from_nanos(ns))),
            (Preset::Is(text), Shape::Flag | Shape::Number(..)) => text.to_owned(),
            (Preset::Is(text), _) => format!("{text:?}"),
        }
    }
}
