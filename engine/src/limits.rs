//! Every bound of the engine, with the relations that must hold between them.

use palisade_wal::{GROUP_BYTES_MAX, RECORD_BYTES_MAX};

/// Commands that wait for one shard.
pub const COMMANDS_MAX: usize = 16 << 10;
/// Appends taken by a shard and not yet in a group, in bytes; above it the answer is `Busy`.
pub const PENDING_BYTES_MAX: usize = 64 << 20;
/// Appends taken by a shard and not yet in a group.
pub const PENDING_MAX: usize = 256 << 10;
/// A batch closes at this size even while the device is busy.
pub const BATCH_BYTES: usize = 256 << 10;
/// Bytes that one read brings.
pub const READ_BYTES_MAX: usize = 256 << 10;
/// Reads and catch-ups of one shard that run at a time.
pub const READS_MAX: usize = 8;
/// Cursors of the forwarder that share one read at most.
pub const RIDERS_MAX: usize = 256;
/// Reads and catch-ups of one shard that wait.
pub const READS_WAITING_MAX: usize = 4096;
/// Part of the quota for writes that groups leave to hard state.
pub const HARD_STATE_SLOTS_BYTES: usize = 2 << 20;
/// Bytes of uncommitted groups that are kept in memory for readers; others read from disk.
pub const TAIL_RUNS_BYTES_MAX: usize = 8 << 20;
/// Bytes asked from a file by one read.
pub const READ_CHUNK_BYTES: usize = 1 << 20;
/// Reads of one place that may be cut short or interrupted before it counts as damaged.
pub const READ_CUTS_MAX: u8 = 16;
/// Messages between shards of a node that wait.
pub const MESH_MAX: usize = 4096;
/// Bytes of one frame of replica messages.
pub const MESSAGES_BYTES_MAX: usize = 48 << 10;
/// Bytes of replica messages that wait for one peer; more are dropped, as a network may.
pub const OUTBOX_BYTES_MAX: usize = 8 << 20;
/// Bytes of groups that wait for one peer; above it the peer catches up from disk.
pub const PEER_BACKLOG_BYTES: usize = 16 << 20;
/// All peers together may hold one part in so many of the slots for writes; above its share of
/// that, a peer catches up from disk.
pub const PEERS_WRITE_PART: usize = 2;
/// Client connections of one shard.
pub const SESSIONS_MAX: usize = 1024;
/// Appends of one client connection that wait for their outcome.
pub const SESSION_APPENDS_MAX: usize = 64 << 10;
/// Producers of a stream whose sequences are known with their places.
pub const PRODUCERS_MAX: usize = 1024;
/// Sequences of such a producer whose places are known; an older duplicate is answered *unknown*.
pub const PRODUCER_SEQUENCES_MAX: usize = 4096;
/// Further producers of a stream of which the last sequence alone is known.
pub const PRODUCERS_LAST_MAX: usize = 16 << 10;
/// Hand-overs of leadership of one shard that somebody waits for.
pub const TRANSFERS_MAX: usize = 1024;
/// SCN after which a producer is forgotten, by what is committed later: a week.
pub const PRODUCER_EXPIRY_NS: u64 = 7 * 24 * 3_600_000_000_000;
/// Streams that a shard hands over to preferred members at a time.
pub const HAND_OVERS_AT_ONCE: usize = 64;
/// Between two such times.
pub const HAND_OVER_PAUSE_NS: u64 = 1_000_000_000;
/// What a preferred member may lack of a log that is handed over to it.
pub const HAND_OVER_LAG_BYTES: u64 = 1 << 20;
/// Clients of a shard that wait for the state of the whole node.
pub const SURVEYS_MAX: usize = 256;
/// How long the shards of a node have to report their state to the one that is asked.
pub const SURVEY_NS: u64 = 250_000_000;
/// How long a shard that stops waits for the ends of its connections.
pub const HANG_UP_NS: u64 = 250_000_000;
/// Streams of one node.
pub const STREAMS_MAX: usize = 64 << 10;
/// Streams created by one call.
pub const CREATE_MAX: usize = 16 << 10;
/// Events that one listener has not taken yet; above it the listener is dropped.
pub const EVENTS_MAX: usize = 1024;
/// Changes of the registry of clusters under way.
pub const CONTROLS_MAX: usize = 64;
/// Bytes of one stream that wait for its SYNC standby; above it the stream takes no more records.
pub const SYNC_BACKLOG_BYTES: u64 = 32 << 20;
/// Bytes of one stream that waits for its SYNC standby that are kept in memory for readers.
pub const SYNC_RUNS_BYTES_MAX: u64 = 1 << 20;
/// How far an embedder may push a stream's SCN ahead of this node's clock.
pub const SCN_AHEAD_MAX_NS: u64 = 3_600_000_000_000;

const _: () = assert!(BATCH_BYTES <= GROUP_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX * 2 <= GROUP_BYTES_MAX + 8192);
// An SCN that was pushed ahead forgets nobody who is in time.
const _: () = assert!(PRODUCER_EXPIRY_NS > 24 * SCN_AHEAD_MAX_NS);
const _: () = assert!(READ_CHUNK_BYTES >= READ_BYTES_MAX);
