//! Every bound of the forwarder, named.

use lz4_flex::block::get_maximum_output_size;
use palisade_netio::limits::{FRAME_BULK_HEAD_BYTES, FRAME_HEAD_BYTES};
use palisade_wal::{GROUP_BYTES_MAX, RECORD_HEADER_BYTES};

/// Bytes of records in one chunk, unless a single group is bigger.
pub const CHUNK_BYTES_TARGET: u32 = 256 << 10;
/// The same of a chunk from the memory of a shard.
pub const MEMORY_CHUNK_BYTES: u32 = 64 << 10;
/// Bytes of records in one chunk: the largest group with its record header.
pub const CHUNK_BYTES_MAX: u32 = (GROUP_BYTES_MAX + RECORD_HEADER_BYTES) as u32;
/// Largest body of a control frame.
pub const CONTROL_BODY_MAX: u32 = 2368;
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

/// All that is held for readers: the tail, what waits for connections, the connections and cursors
/// themselves, windows of mapped segments, and small things.
pub const FORWARD_BYTES_MAX: u64 = 64 << 20;
/// Memory of frames that wait for one connection, whatever others do.
pub const OUTPUT_OWN_BYTES: u64 = 20 << 10;
/// Memory beyond that, over all connections, of what waits for those that take nothing.
pub const OUTPUT_SHARED_BYTES: u64 = 5632 << 10;
/// Memory of a frame that waits, beside its bytes.
pub const FRAME_BYTES: u64 = 192;
/// Most memory that a chunk takes until it is written, but for copies of large bodies.
pub const READ_BYTES: u64 = FRAME_BYTES + FRAME_BULK_HEAD_BYTES as u64 + JOIN_BYTES as u64;
/// A connection: its frames, what it reads, its task, and one cursor.
pub const READER_BYTES: u64 = OUTPUT_OWN_BYTES + CONTROL_BYTES as u64 + (2 << 10) + CURSOR_BYTES;
/// Memory of the answers to all that is read at once from a connection.
pub const ANSWERS_BYTES: u64 =
    (CONTROL_BYTES / FRAME_HEAD_BYTES) as u64 * (FRAME_BYTES + FRAME_HEAD_BYTES as u64 + 16);
/// A cursor: itself, its stream, and its question or one extent.
pub const CURSOR_BYTES: u64 = 768;
/// Connections that have room, however many cursors others have.
pub const READERS_ROOM: usize = 256;
/// All connections and cursors.
pub const PEERS_BYTES_MAX: u64 = 29 << 20;
/// Extents that cursors keep beyond one each.
pub const EXTENTS_HELD_MAX: usize = 4 << 10;
/// An extent.
pub const EXTENT_BYTES: u64 = 128;
/// Windows of mapped segments that are in memory, or on the way there, at a time.
pub const WINDOWS_MAX: usize = 20;
/// Reads of segments at a time that may wait for the disk; others wait for them.
pub const LOADS_MAX: usize = 2;
/// Windows at a time that are read before anybody needs them.
pub const AHEADS_MAX: usize = 4;
/// Blocks of one mapped segment whose bodies are known.
pub const BODIES_MAX: usize = 256;
/// Questions of standbys that wait for shards; more are dropped.
pub const ASKS_MAX: usize = 320;
/// Memory of what is compressed, with room for the next one before it is.
pub const COMPRESSED_BYTES_MAX: u64 = 4032 << 10;
/// Chunks that are known to be compressed, or not to get smaller.
pub const COMPRESSED_COUNT_MAX: usize = 512;
/// Records below this are not compressed: heads and checksums are most of them.
pub const COMPRESS_BYTES_MIN: usize = 256;
/// A chunk that does not get smaller by this part of it goes as it is.
pub const COMPRESS_GAIN: usize = 32;
/// No compressed chunk has groups that start on both sides of a multiple of this, so that readers
/// that began at different positions get the same chunks.
pub const COMPRESS_GRID_BYTES: u64 = 128 << 10;
/// Tables of maps and of what is compressed, and questions of standbys.
const SMALL_BYTES: u64 = 1088 << 10;
/// Time after which a connection that acknowledges nothing may be ended while memory is short.
pub const PRESSURE_NS: u64 = 250_000_000;
/// Time between two that are.
pub const PRESSURE_TICK_NS: u64 = PRESSURE_NS / 4;

/// Bytes of recent records kept for readers, over all streams.
pub const TAIL_BYTES_MAX: usize = 4 << 20;
/// Runs of recent records kept, over all streams.
pub const TAIL_RUNS_MAX: usize = 4096;

/// Files and sockets that a node needs besides readers and each of its shards.
const FILES_BASE: u64 = 128;
/// Those of each shard.
const FILES_PER_SHARD: u64 = 16;
/// Those of each connection of a reader.
const FILES_PER_READER: u64 = 2;

/// Files and sockets that a node with so many shards has to be able to open, so that all its
/// readers that have room are served.
pub const fn files_needed(shards: u16) -> u64 {
    let readers = READERS_ROOM as u64 * FILES_PER_READER + MAPS_MAX as u64;
    FILES_BASE + shards as u64 * FILES_PER_SHARD + readers
}

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
/// Turns in a row of one reader that catches up: what is in memory for it is used.
pub const BEHIND_TURNS_MAX: u32 = 4;
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
/// Longest that a segment, or memory of a shard, is kept for one chunk, or one answer about where
/// bytes stand.
pub const LEASE_NS_MAX: u64 = 60_000_000_000;
/// A connection that takes no byte for this long while it has credit is ended.
pub const STALL_NS: u64 = 30_000_000_000;

const _: () = {
    assert!(CHUNK_BYTES_TARGET <= CHUNK_BYTES_MAX);
    assert!(CHUNK_BYTES_MAX as usize <= palisade_netio::limits::FRAME_BODY_MAX);
    assert!(LOCATES_MAX < REQUESTS_MAX);
    assert!(TAIL_BYTES_MAX > CHUNK_BYTES_MAX as usize);
    assert!(OUTPUT_SHARED_BYTES > CHUNK_BYTES_MAX as u64);
    assert!(OUTPUT_OWN_BYTES >= 2 * READ_BYTES && JOIN_MAPPED_BYTES <= JOIN_BYTES);
    assert!(READERS_MAX as u64 * READER_BYTES <= PEERS_BYTES_MAX);
    // Who waits for nothing is listened to, whatever others hold.
    assert!(ANSWERS_BYTES <= OUTPUT_OWN_BYTES);
    assert!(size_of::<super::queue::SealedExtent>() as u64 <= EXTENT_BYTES);
    // Each read takes the windows of a block.
    let block = palisade_wal::limits::BLOCK_BYTES_MAX.div_ceil(PREFAULT_BYTES) + 1;
    assert!(block * LOADS_MAX + AHEADS_MAX < WINDOWS_MAX);
    let windows = (WINDOWS_MAX * PREFAULT_BYTES) as u64;
    let compressed = COMPRESSED_COUNT_MAX * 2 * 64;
    let asks = ASKS_MAX * CONTROL_BODY_MAX as usize;
    let tables = (MAPS_MAX * BODIES_MAX * 64 + compressed + asks) as u64;
    let extents = EXTENTS_HELD_MAX as u64 * EXTENT_BYTES;
    assert!(tables <= SMALL_BYTES);
    let output = PEERS_BYTES_MAX + OUTPUT_SHARED_BYTES + COMPRESSED_BYTES_MAX;
    // The largest group can be compressed.
    assert!(get_maximum_output_size(CHUNK_BYTES_MAX as usize) as u64 <= COMPRESSED_BYTES_MAX);
    assert!(TAIL_BYTES_MAX as u64 + output + windows + extents + SMALL_BYTES <= FORWARD_BYTES_MAX);
};
/// Part of a sealed segment that is read from the disk at once, off the forwarder's thread.
pub const PREFAULT_BYTES: usize = 1 << 20;
/// Cursors that take their turn before the executor looks at other tasks.
pub const TURNS_MAX: usize = 16;
/// Events taken from one shard before the readers take their turns.
pub const EVENTS_PER_TURN: usize = 256;
/// Frames below this are joined into one write.
pub const JOIN_BYTES: usize = 8 << 10;
/// Bodies of a segment that are smaller are copied to join them; larger ones go from the map.
pub const JOIN_MAPPED_BYTES: usize = 4 << 10;
/// Bytes of a segment that are sent at once.
pub const SEND_BYTES: usize = 256 << 10;
/// Bytes of a segment that wait for a socket that is full.
pub const PIECE_BYTES: usize = 4 << 10;
/// Bytes of control frames read at once from a connection.
pub const CONTROL_BYTES: usize = 4 << 10;
/// Time that readers have to take their last frames when the forwarder stops.
pub const STOP_NS: u64 = 250_000_000;

const _: () = assert!(CONTROL_BYTES >= CONTROL_BODY_MAX as usize + 64);

/// Bounds of [`Readers`](super::Readers), where they are not the usual ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub readers: usize,
    /// Streams of one connection.
    pub streams_per_reader: usize,
    /// Cursors over all connections.
    pub cursors: usize,
    /// Bytes on their way to one connection, beyond which it gets no further chunk.
    pub output_bytes: u64,
    /// Memory of frames that all connections share, beyond what each has for itself.
    pub shared_bytes: u64,
    /// Memory of what is compressed.
    pub compressed_bytes: u64,
    /// Bytes of records in one chunk, unless one group is larger.
    pub chunk_bytes: u32,
    /// Bytes of recent records kept.
    pub tail_bytes: usize,
    /// Open questions at one shard.
    pub locates: usize,
    /// Bytes of chunks per second for all readers together, as they are sent; 0: no cap.
    pub rate: u64,
    /// The same for the readers of one other cluster; 0: no cap.
    pub cluster_rate: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            readers: READERS_MAX,
            streams_per_reader: STREAMS_PER_READER_MAX,
            cursors: CURSORS_MAX,
            output_bytes: OUTPUT_BYTES_MAX.into(),
            shared_bytes: OUTPUT_SHARED_BYTES,
            compressed_bytes: COMPRESSED_BYTES_MAX,
            chunk_bytes: CHUNK_BYTES_TARGET,
            tail_bytes: TAIL_BYTES_MAX,
            locates: LOCATES_MAX,
            rate: 0,
            cluster_rate: 0,
        }
    }
}
