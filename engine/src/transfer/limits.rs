//! Every bound of the receiver, named.

use crate::forward::limits::CHUNK_BYTES_MAX;

/// Bytes that may be on their way or not yet imported, for one stream.
pub const WINDOW_BYTES_MAX: u64 = 4 << 20;
/// The same when a stream starts; it grows while it is used up.
pub const WINDOW_BYTES_FIRST: u64 = 64 << 10;
/// Bytes that may be on their way or not yet imported, over all streams of a shard.
pub const TOTAL_BYTES_MAX: u64 = 64 << 20;
/// Upstreams in a list.
pub const ENDPOINTS_MAX: usize = 64;
/// Silence after which a connection counts as dead; a beat comes every second.
pub const SILENCE_NS: u64 = 5_000_000_000;
/// Time for a dial.
pub const DIAL_NS: u64 = 5_000_000_000;
/// An upstream whose committed end stays below ours for this long is left.
pub const BEHIND_NS: u64 = 5_000_000_000;
/// Time until a stream that the upstream could not serve is asked for again.
pub const RETRY_NS: u64 = 10_000_000_000;
/// Time that a standby with nothing of a stream gives others to have its first byte, before the
/// stream begins further up: they are chosen meanwhile.
pub const ANEW_NS: u64 = 3_000_000_000;
/// First pause before the next dial.
pub const BACKOFF_FIRST_NS: u64 = 20_000_000;
/// Longest pause before the next dial.
pub const BACKOFF_LAST_NS: u64 = 2_000_000_000;

/// Connections to upstreams that bring streams, of one shard.
pub const FEEDS_MAX: usize = 8;
/// Bytes on their way or not yet imported, of one such connection.
pub const FEED_BYTES_MAX: u64 = TOTAL_BYTES_MAX / FEEDS_MAX as u64;
/// Nodes that a shard knows as possible upstreams.
pub const CANDIDATES_MAX: usize = 32;
/// Streams of one question.
pub const ASK_STREAMS_MAX: usize = 128;
/// Nodes that one answer names.
pub const PLACES_MAX: usize = 64;
/// Clusters that a stream may come through.
pub const PATH_MAX: usize = 8;
/// Upstreams that a stream remembers as bad.
pub const BANS_MAX: usize = 8;
/// Standbys that a shard remembers as askers.
pub const ASKERS_MAX: usize = PLACES_MAX / 2;
/// Streams of which a shard remembers who is to receive them across a border.
pub const GRANTS_MAX: usize = 64 << 10;

/// How soon a node of another cluster is asked again whether it knows who the primary is.
pub const CONTACT_NS: u64 = 1_000_000_000;
/// The same in the end: the time doubles with each question.
pub const CONTACT_NS_MAX: u64 = 10_000_000_000;
/// A fence that lasts as long is none of a switchover: an operator hears of it.
pub const FENCED_NS: u64 = 1_000_000_000;
/// Connections for that, of one primary.
pub const CONTACTS_OPEN_MAX: usize = 16;

/// Connections that a shard of a standby has to shards of the primary, and a shard of the primary
/// has from one SYNC standby: every shard of every node there may lead streams.
pub const SYNC_LINKS_MAX: usize = crate::paxos::MEMBERS_MAX * SHARDS_MAX;
/// Log shards of a node.
const SHARDS_MAX: usize = 64;
/// SYNC standbys from which a shard of the primary has connections: the one that acks wait for, the
/// one that is to be the next, and one that has not heard that it is none any more.
pub const SYNC_CLUSTERS_MAX: usize = 3;
/// Standby leaders of one stream that a shard knows of.
pub const SYNC_SUBS_MAX: usize = 8;
/// Streams of one reply, and of what followers are told.
pub const SYNC_REPLIES_MAX: usize = 1024;
/// Bytes of one stream that are sent to its SYNC standby and not held there.
pub const SYNC_WINDOW_BYTES: u64 = 4 << 20;
/// Bytes of records in one chunk for it, but for a larger group.
pub const SYNC_CHUNK_BYTES: usize = 256 << 10;
/// A sign of life on a connection to a SYNC standby, both ways.
pub const SYNC_BEAT_NS: u64 = 500_000_000;
/// Silence after which such a connection counts as dead.
pub const SYNC_SILENCE_NS: u64 = 2_500_000_000;
/// A stream that nobody ships although it should be is asked for again after this time.
pub const SYNC_RETRY_NS: u64 = 500_000_000;
/// A stream of which something waits for its SYNC standby for this long without a word: who should
/// know is asked again.
pub const SYNC_STALL_NS: u64 = 1_500_000_000;
/// Between two looks at which connections to leaders are needed.
pub const SYNC_LOOK_NS: u64 = 200_000_000;

/// Each candidate is asked this often.
pub const POLL_NS: u64 = 1_000_000_000;
/// The same by who hands the primary role over, and waits for its next holder to take it up.
pub const HASTE_NS: u64 = 20_000_000;
/// For so long.
pub const HASTY_NS: u64 = 2_000_000_000;
/// A candidate that leaves a question open for this long is silent.
pub const SILENT_NS: u64 = 1_500_000_000;
/// An upstream whose pulse stands still for this long, while another's is ahead, is stalled.
pub const STALL_NS: u64 = 2_500_000_000;
/// A node that nobody names for this long is forgotten.
pub const NAMED_NS: u64 = 30_000_000_000;
/// A standby that asked nothing for this long asks no more.
pub const ASKER_NS: u64 = 3_000_000_000;
/// Between two looks at streams that are not settled.
pub const LOOK_NS: u64 = 100_000_000;
/// Least pause before another upstream is chosen; and as much again at random.
pub const PAUSE_NS: u64 = 25_000_000;
/// Longest wait for answers before a first or next upstream is chosen; and as much again at random.
pub const GATHER_NS: u64 = 250_000_000;
/// The same, further, where the choice is a poor one, or another cluster is to cross the border.
pub const PATIENCE_NS: u64 = 1_000_000_000;
/// A better upstream has been there for this long before it is taken; and as much again at random.
pub const BETTER_NS: u64 = 1_500_000_000;
/// An upstream is kept this long before a better one is taken.
pub const KEEP_NS: u64 = 3_000_000_000;
/// What a leader counts as one in its pulse.
pub const PULSE_NS: u64 = 100_000_000;
/// Longest time for which an upstream is avoided.
pub const BAN_NS_MAX: u64 = 60_000_000_000;

const _: () = {
    assert!(FEED_BYTES_MAX >= 2 * WINDOW_BYTES_MAX && PULSE_NS * 2 < POLL_NS);
    // What takes longest: silence is seen, answers are awaited, a poor choice is made.
    assert!(POLL_NS + SILENT_NS + 2 * GATHER_NS + PATIENCE_NS + 2 * LOOK_NS < 5_000_000_000);
    assert!(POLL_NS + STALL_NS + 2 * GATHER_NS + 2 * LOOK_NS < 5_000_000_000);
    assert!(ANEW_NS > POLL_NS + 2 * (PAUSE_NS + GATHER_NS) + 2 * LOOK_NS && ANEW_NS < RETRY_NS);
    assert!(ASKERS_MAX + crate::config::MEMBERS_MAX <= PLACES_MAX);
    assert!(crate::config::ENDPOINTS_MAX < CANDIDATES_MAX && ASKER_NS > 2 * POLL_NS);
};

const _: () = {
    assert!(SYNC_CHUNK_BYTES < CHUNK_BYTES_MAX as usize && SYNC_BEAT_NS * 3 < SYNC_SILENCE_NS);
    assert!(SYNC_BEAT_NS < SYNC_STALL_NS && SYNC_STALL_NS < SYNC_SILENCE_NS);
    // The largest group may always be sent.
    assert!(SYNC_WINDOW_BYTES > CHUNK_BYTES_MAX as u64);
};

const _: () = {
    // Up to a quarter of a window is not granted again; the rest has to be enough for any chunk.
    assert!(WINDOW_BYTES_MAX - WINDOW_BYTES_MAX / 4 >= CHUNK_BYTES_MAX as u64);
    assert!(WINDOW_BYTES_FIRST <= WINDOW_BYTES_MAX && TOTAL_BYTES_MAX >= 2 * WINDOW_BYTES_MAX);
};
