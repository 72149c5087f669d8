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
/// First pause before the next dial.
pub const BACKOFF_FIRST_NS: u64 = 20_000_000;
/// Longest pause before the next dial.
pub const BACKOFF_LAST_NS: u64 = 2_000_000_000;

const _: () = {
    // Up to a quarter of a window is not granted again; the rest has to be enough for any chunk.
    assert!(WINDOW_BYTES_MAX - WINDOW_BYTES_MAX / 4 >= CHUNK_BYTES_MAX as u64);
    assert!(WINDOW_BYTES_FIRST <= WINDOW_BYTES_MAX && TOTAL_BYTES_MAX >= 2 * WINDOW_BYTES_MAX);
};
