//! Every bound of this crate, named, with the relations between them checked by the compiler.

use crate::pool::{HEAD_BYTES, PAGE_BYTES, SLOT_BYTES_MAX};

/// Bytes of a plain frame head.
pub const FRAME_HEAD_BYTES: usize = 64;
/// Bytes of a bulk frame head; the body of a bulk frame starts where a slot's body starts.
pub const FRAME_BULK_HEAD_BYTES: usize = 512;
/// Bytes of a bulk frame head that belong to the user of the link.
pub const FRAME_PREFIX_BYTES: usize = FRAME_BULK_HEAD_BYTES - FRAME_HEAD_BYTES;
/// Largest body of a frame: a block of 2 MiB and what describes it.
pub const FRAME_BODY_MAX: usize = (2 << 20) + (64 << 10);
/// Largest body of a handshake frame.
pub const GREETING_BODY_MAX: usize = 512;
/// Longest text of a refusal, in bytes.
pub const REFUSAL_TEXT_MAX: usize = 200;

/// Bytes that a link may queue for sending, unless set otherwise.
pub const BACKLOG_BYTES_MAX: usize = 8 << 20;
/// Frames that a link may queue for sending.
pub const BACKLOG_FRAMES_MAX: usize = 16 << 10;
/// Bytes of small frames that are joined into one send.
pub const COALESCE_BYTES_MAX: usize = 256 << 10;
/// Runs in one send; the kernel takes 1024 pieces, one of them the prefix.
pub const SEND_RUNS_MAX: usize = 1000;
/// Zero-copy sends of one link whose slots the kernel still holds; above, sends are copied.
pub const ZERO_COPY_PENDING_MAX: usize = 32;
/// Total from which a zero-copy send pays, unless set otherwise.
pub const ZERO_COPY_THRESHOLD_BYTES: usize = 16 << 10;

/// Slot that a packed link receives into.
pub const INBOX_BYTES: usize = 64 << 10;
/// First slot of a frame on a slotted link, before its head is known.
pub const FIRST_SLOT_BYTES: usize = 8 << 10;
/// Bytes asked for beyond the end of a frame on a slotted link; only these are ever copied.
pub const SURPLUS_BYTES_MAX: usize = 4 << 10;

/// First pause before dialling again, unless set otherwise.
pub const BACKOFF_FIRST_NS: u64 = 20_000_000;
/// Longest pause before dialling again, and the pause after a refusal, unless set otherwise.
pub const BACKOFF_LAST_NS: u64 = 1_000_000_000;
/// Time for connecting and for the greeting of one connection, unless set otherwise.
pub const HANDSHAKE_NS: u64 = 5_000_000_000;
/// Time that a link which ends goes on sending what is queued.
pub const FAREWELL_NS: u64 = 5_000_000_000;
/// Time that sent bytes may stay unacknowledged before the kernel ends a connection, unless set
/// otherwise.
pub const USER_TIMEOUT_MS: u32 = 5_000;
/// Time that the kernel may hold slots of a zero-copy send, unless set otherwise.
pub const PIN_NS_MAX: u64 = USER_TIMEOUT_MS as u64 * 1_000_000;

/// Connections in the greeting, or being refused, at a time.
pub const GREETING_MAX: usize = 64;
/// Connections of one listener, unless set otherwise.
pub const CONNECTIONS_MAX: usize = 4096;
/// Connections that wait in the kernel to be accepted.
pub const LISTEN_BACKLOG: i32 = 1024;
/// Pause of accepting after the process ran out of descriptors.
pub const ACCEPT_PAUSE_NS: u64 = 100_000_000;

/// Bytes registered with the kernel when locked memory is limited: the limit counts all
/// processes of a user together.
pub const REGISTER_BYTES_MODEST: usize = 1 << 20;
/// Bytes registered with the kernel when locked memory is not limited.
pub const REGISTER_BYTES_MAX: usize = 64 << 20;
/// Files of one ring that are registered with the kernel. Not above the usual limit of
/// open files, with which the kernel compares it.
pub const REGISTER_FILES_MAX: usize = 1024;
/// Descriptors from this number on are not registered.
pub const REGISTER_FD_MAX: usize = 1 << 16;
/// Syncs that wait for the helper thread of a ring; more go through the ring.
pub const SYNCS_MAX: usize = 64;
/// Names in one listed directory.
pub const LIST_NAMES_MAX: usize = 1 << 20;
/// How long dropping a ring waits for operations that cannot be cancelled.
pub const DRAIN_NS_MAX: u64 = 2_000_000_000;

const _: () = {
    assert!(FRAME_BULK_HEAD_BYTES == HEAD_BYTES);
    assert!(FRAME_BULK_HEAD_BYTES + FRAME_BODY_MAX <= SLOT_BYTES_MAX);
    assert!(FRAME_BULK_HEAD_BYTES + SURPLUS_BYTES_MAX <= FIRST_SLOT_BYTES);
    assert!(SURPLUS_BYTES_MAX >= FRAME_BULK_HEAD_BYTES && SURPLUS_BYTES_MAX <= PAGE_BYTES);
    assert!(INBOX_BYTES > FRAME_BULK_HEAD_BYTES && INBOX_BYTES <= SLOT_BYTES_MAX);
    assert!(FRAME_HEAD_BYTES + GREETING_BODY_MAX <= PAGE_BYTES);
    assert!(REFUSAL_TEXT_MAX + 8 <= GREETING_BODY_MAX);
    assert!(FRAME_BODY_MAX + FRAME_BULK_HEAD_BYTES <= BACKLOG_BYTES_MAX);
    assert!(SEND_RUNS_MAX < 1024);
    assert!(REGISTER_FILES_MAX < u16::MAX as usize);
    // The low bits of a token hold a kind and one of these.
    assert!(GREETING_MAX < 1 << 12 && ZERO_COPY_PENDING_MAX < 1 << 12);
};
