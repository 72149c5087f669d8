//! Every bound of the forwarder, named.

use palisade_wal::{GROUP_BYTES_MAX, RECORD_HEADER_BYTES};

/// Bytes of records in one chunk, unless a single group is bigger.
pub const CHUNK_BYTES_TARGET: u32 = 256 << 10;
/// Bytes of records in one chunk: the largest group with its record header.
pub const CHUNK_BYTES_MAX: u32 = (GROUP_BYTES_MAX + RECORD_HEADER_BYTES) as u32;
/// Largest body of a control frame.
pub const CONTROL_BODY_MAX: u32 = 1536;
/// Credit that one reader may have for one stream; more is a protocol error.
pub const CREDIT_BYTES_MAX: u64 = 1 << 40;

/// Connections of readers at a time.
pub const READERS_MAX: usize = 1024;
/// Streams that one connection reads at a time.
pub const STREAMS_PER_READER_MAX: usize = 16 << 10;
/// Cursors over all connections.
pub const CURSORS_MAX: usize = 64 << 10;
/// Bytes handed to the driver for one connection and not yet written.
pub const OUTPUT_BYTES_MAX: u32 = 1 << 20;
/// Small frames (ends, status) that wait for one connection; above it the connection ends.
pub const OUTPUT_FRAMES_MAX: usize = 1024 + STREAMS_PER_READER_MAX;
/// Bytes of recent records kept for readers, over all streams.
pub const TAIL_BYTES_MAX: usize = 4 << 20;
/// Runs of recent records kept, over all streams.
pub const TAIL_RUNS_MAX: usize = 4096;

/// Events that a shard may have waiting for the forwarder.
pub const EVENTS_MAX: usize = 4096;
/// Questions that the forwarder may have open at one shard.
pub const LOCATES_MAX: usize = 64;
/// Requests that wait for a shard: questions, and changes of what it should publish.
pub const REQUESTS_MAX: usize = 1024;
/// Answers to standbys' questions that wait for the forwarder; more are dropped.
pub const FACTS_MAX: usize = 64;
/// Bytes that one answer should cover.
pub const LOCATE_BYTES: u32 = 4 << 20;
/// Extents in one answer.
pub const EXTENTS_MAX: usize = 64;
/// Sealed segments mapped at a time.
pub const MAPS_MAX: usize = 16;
/// A map that nobody used for this long gives its lease back.
pub const MAP_IDLE_NS: u64 = 5_000_000_000;

/// A reader that is at most so far behind the committed end keeps up.
pub const TAIL_NEAR_BYTES: u64 = 1 << 20;
/// Turns in a row of readers that keep up, while others wait that catch up.
pub const TAIL_TURNS_MAX: u32 = 4;
/// A reader that a cap holds for longer gives back what was found for it.
pub const HOLD_NS_MAX: u64 = 1_000_000_000;
/// Time that a cap on bandwidth may be overdrawn by before its readers wait.
pub const CAP_BURST_NS: u64 = 20_000_000;
/// Time between two beats on a connection.
pub const BEAT_NS: u64 = 1_000_000_000;
/// Time until a question is asked again that a shard had no room for.
pub const RETRY_NS: u64 = 5_000_000;
/// A connection that takes no byte for this long while it has credit is ended.
pub const STALL_NS: u64 = 30_000_000_000;

const _: () = {
    assert!(CHUNK_BYTES_TARGET <= CHUNK_BYTES_MAX);
    assert!(CHUNK_BYTES_MAX as usize <= palisade_netio::limits::FRAME_BODY_MAX);
    assert!(LOCATES_MAX < REQUESTS_MAX);
    assert!(TAIL_BYTES_MAX > CHUNK_BYTES_MAX as usize);
};
/// Part of a sealed segment that is read from the disk at once, off the forwarder's thread.
pub const PREFAULT_BYTES: usize = 2 << 20;
/// Cursors that take their turn before the executor looks at other tasks.
pub const TURNS_MAX: usize = 16;
/// Events taken from one shard before the readers take their turns.
pub const EVENTS_PER_TURN: usize = 256;
/// Frames below this are joined into one write.
pub const JOIN_BYTES: usize = 16 << 10;
/// Bytes of control frames read at once from a connection.
pub const CONTROL_BYTES: usize = 4 << 10;
/// Time that readers have to take their last frames when the forwarder stops.
pub const STOP_NS: u64 = 250_000_000;

const _: () = assert!(CONTROL_BYTES >= CONTROL_BODY_MAX as usize + 64);
const _: () = assert!(PREFAULT_BYTES >= palisade_wal::limits::BLOCK_BYTES_MAX);
