//! Every bound of the log in one place. Mirrors FORMAT.md, "Limits".

use crate::group::{GROUP_BYTES_MAX, GROUP_HEADER_BYTES};
use crate::record::RECORD_HEADER_BYTES;

/// Blocks, segment headers and indexes start and end at multiples of this.
pub const BLOCK_ALIGN: usize = 4096;
/// Bytes of a block head, the first bytes of a block and of its slot.
pub const BLOCK_HEAD_BYTES: usize = 512;
/// Largest block: head, body and pad.
pub const BLOCK_BYTES_MAX: usize = 2 << 20;
/// Largest body.
pub const BODY_BYTES_MAX: usize = BLOCK_BYTES_MAX - BLOCK_HEAD_BYTES;
/// A waiting write of this size starts although another one is in flight.
pub const BLOCK_BYTES_TARGET: usize = 256 << 10;
/// A body below this joins the block that waits for the device, if its pad has room.
pub const SMALL_BODY_BYTES: usize = 16 << 10;
/// Blocks that go out as one vectored write.
pub const WRITE_RUNS_MAX: usize = 16;
/// Bytes of one vectored write; a single block may be larger.
pub const WRITE_BYTES_MAX: usize = 1 << 20;
/// Writes in flight at most.
pub const WRITES_IN_FLIGHT_MAX: usize = 4;
/// Blocks that wait to be written at most; beyond it an append finds no room.
pub const BLOCKS_WAITING_MAX: usize = 1024;
/// Batches whose write began and that are not yet part of the durable prefix, at most.
pub const BATCHES_MAX: usize = 64;
/// How often a transient error or an empty write is tried again before it counts as an error.
pub const RETRIES_MAX: u32 = 16;
/// Bytes of a segment header.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// Smallest segment. Products use 8 MiB and more; tests less.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Largest segment.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Segments of one shard at most.
pub const SEGMENTS_MAX: usize = 1 << 16;
/// A block with a higher number than this is none: what counts blocks does not wrap.
pub const BLOCK_SEQ_MAX: u64 = 1 << 61;
/// A segment being prepared becomes usable in steps of this size.
pub const PREPARE_STEP_BYTES: u64 = 8 << 20;
/// Bytes of one zero write of the preparation.
pub const PREPARE_WRITE_BYTES: usize = 256 << 10;
/// Time between two zero writes while nobody waits for the segment.
pub const PREPARE_PACE_NS: u64 = 1_000_000;
/// Time until the preparation is tried again after the disk was full.
pub const PREPARE_RETRY_NS: u64 = 1_000_000_000;
/// Time without a write after which the closing block is written.
pub const CLOSING_AFTER_NS: u64 = 10_000_000;
/// Above this part of the limit appends should slow down, in percent.
pub const SPACE_THROTTLE_PERCENT: u64 = 90;
/// Above this part of the limit appends without `hard_state` are refused, in percent.
pub const SPACE_REFUSE_PERCENT: u64 = 95;
/// Files kept ready for as many starts on a full file system: each needs a new segment.
pub const RESERVE_FILES: usize = 3;
/// Time after a start until they are looked to: first the node gets to serve.
pub const RESERVE_AFTER_NS: u64 = 50_000_000;
/// Bytes of each of them, without the header.
pub const RESERVE_BYTES: u64 = 1 << 20;
/// A recovery that finds no space takes a file of at least this again, without the header.
pub const RESERVE_BYTES_MIN: u64 = 64 << 10;
/// On a full file system, bytes of the active segment that only `hard_state` takes.
pub const FULL_RESERVE_BYTES: u64 = 1 << 20;
/// Bytes of one read of recovery.
pub const SCAN_READ_BYTES: usize = 1 << 20;
/// Corrupt ranges that a recovery report lists; the rest is counted.
pub const REPORT_RANGES_MAX: usize = 1024;
/// Lost ranges of one stream that are told apart; the last ones become one.
pub const HOLES_MAX: usize = 32;
/// Index at the end of a segment: at most one part in this many.
pub const INDEX_PART: u64 = 100;

const _: () = assert!(
    GROUP_BYTES_MAX + RECORD_HEADER_BYTES + BLOCK_HEAD_BYTES <= BLOCK_BYTES_MAX,
    "the largest group fits a block"
);
const _: () = assert!(BLOCK_BYTES_MAX <= palisade_netio::SLOT_BYTES_MAX);
const _: () = assert!(BLOCK_HEAD_BYTES == palisade_netio::HEAD_BYTES);
const _: () = assert!(BLOCK_ALIGN == palisade_netio::PAGE_BYTES);
const _: () = assert!(GROUP_HEADER_BYTES.is_multiple_of(8));

// Direct I/O: what is read or written starts and ends at a multiple of the alignment.
const _: () = assert!(BLOCK_ALIGN.is_power_of_two());
const _: () = assert!(BLOCK_HEAD_BYTES < BLOCK_ALIGN, "the smallest block has a body");
const _: () = assert!(BLOCK_BYTES_MAX.is_multiple_of(BLOCK_ALIGN));
const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(BLOCK_ALIGN));
const _: () = assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_ALIGN as u64));
const _: () = assert!(SEGMENT_BYTES_MAX.is_multiple_of(BLOCK_ALIGN as u64));
const _: () = assert!(SCAN_READ_BYTES.is_multiple_of(BLOCK_ALIGN));
const _: () = assert!(PREPARE_WRITE_BYTES.is_multiple_of(BLOCK_ALIGN));
const _: () = assert!(PREPARE_STEP_BYTES.is_multiple_of(PREPARE_WRITE_BYTES as u64));

// Writing.
const _: () = assert!(BLOCK_BYTES_MAX <= u32::MAX as usize, "the length of a run is a u32");
const _: () = assert!(BLOCK_BYTES_TARGET.is_multiple_of(BLOCK_ALIGN), "blocks reach the target");
const _: () = assert!(BLOCK_BYTES_TARGET <= WRITE_BYTES_MAX, "one write can reach the target");
const _: () = assert!(WRITE_BYTES_MAX <= BLOCK_BYTES_MAX);
const _: () = assert!(WRITES_IN_FLIGHT_MAX <= BATCHES_MAX, "more batches than writes in flight");
const _: () = assert!(WRITE_RUNS_MAX <= BLOCKS_WAITING_MAX, "a whole write can wait");

// Segments.
const _: () = assert!(SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX);
const _: () = assert!(
    SEGMENT_HEADER_BYTES + 2 * BLOCK_ALIGN <= SEGMENT_BYTES_MIN as usize,
    "the smallest segment has room for its header, a block and its index"
);
const _: () = assert!(
    SEGMENT_HEADER_BYTES <= PREPARE_WRITE_BYTES,
    "a segment header is written from the slot of the zeros"
);
const _: () = assert!(
    BLOCK_BYTES_MAX + SEGMENT_HEADER_BYTES <= PREPARE_STEP_BYTES as usize,
    "the largest block fits the first usable part of a segment"
);
const _: () = assert!(SCAN_READ_BYTES <= BLOCK_BYTES_MAX, "a read fits the window of a scan");
const _: () = assert!(PREPARE_PACE_NS < PREPARE_RETRY_NS, "a full disk is asked less often");

// Space.
const _: () = assert!(RESERVE_BYTES_MIN <= RESERVE_BYTES, "what is kept ready is enough");
const _: () = assert!(RESERVE_BYTES.is_multiple_of(PREPARE_WRITE_BYTES as u64));
const _: () = assert!(RESERVE_BYTES + SEGMENT_HEADER_BYTES as u64 <= PREPARE_STEP_BYTES);
const _: () = assert!(SPACE_THROTTLE_PERCENT < SPACE_REFUSE_PERCENT, "slower before refused");
const _: () = assert!(SPACE_REFUSE_PERCENT < 100, "hard state has a reserve");
const _: () = assert!(
    (SEGMENTS_MAX as u64 + 1).checked_mul(SEGMENT_BYTES_MAX * 100).is_some(),
    "percentages of the space do not overflow"
);

/// Room kept for the index at the end of a segment of `bytes`.
pub fn index_reserve(bytes: u64) -> u64 {
    let align = BLOCK_ALIGN as u64;
    let part = bytes / INDEX_PART / align * align;
    let reserve = part.clamp(align, BLOCK_BYTES_MAX as u64);
    assert!(reserve.is_multiple_of(align), "an index is a block");
    assert!(reserve < bytes, "the index leaves room for blocks");
    reserve
}

/// Bytes of the smallest file that a start on a full file system can do with.
pub(crate) fn reserve_min(segment_bytes: u64) -> u64 {
    let least = (SEGMENT_HEADER_BYTES as u64 + RESERVE_BYTES_MIN).min(segment_bytes);
    assert!(least > SEGMENT_HEADER_BYTES as u64, "a start needs room for a block");
    assert!(least.is_multiple_of(BLOCK_ALIGN as u64), "files end aligned");
    least
}

/// First byte of the index of a segment of `bytes`: blocks end at or before it.
pub fn data_end(bytes: u64) -> u64 {
    let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
    assert!(range.contains(&bytes), "segment of {bytes} bytes");
    assert!(bytes.is_multiple_of(BLOCK_ALIGN as u64));
    let end = bytes - index_reserve(bytes);
    assert!(end > SEGMENT_HEADER_BYTES as u64, "blocks stand between header and index");
    end
}

/// Bytes of a block with a body of `body_len`: head, body and pad.
pub fn block_bytes(body_len: usize) -> usize {
    assert!(body_len <= BODY_BYTES_MAX, "body of {body_len} bytes");
    let bytes = (BLOCK_HEAD_BYTES + body_len).next_multiple_of(BLOCK_ALIGN);
    assert!(bytes <= BLOCK_BYTES_MAX && bytes - body_len < BLOCK_HEAD_BYTES + BLOCK_ALIGN);
    bytes
}
