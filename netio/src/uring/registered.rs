//! What is registered with the kernel: the ring's own descriptor, and the pool's arena.

use std::io;

use io_uring::IoUring;

use crate::limits::{REGISTER_BYTES_MAX, REGISTER_BYTES_MODEST};
use crate::pool::{Memory, REGISTERED_STEP};

const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;
const CAP_IPC_LOCK: u32 = 14;

#[repr(C)]
struct Update {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// Bytes that may be registered without taking locked memory from other processes of the user.
pub(super) fn register_bytes_default() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    if limit.current.is_none() || may_lock() { REGISTER_BYTES_MAX } else { REGISTER_BYTES_MODEST }
}

/// Registers the arena's first steps, as many as fit `bytes_max` and the kernel takes. Gives how
/// many, and the error that ended a larger attempt.
pub(super) fn arena(ring: &IoUring, memory: &Memory, bytes_max: usize) -> (u16, Option<io::Error>) {
    let mut steps = (memory.len().min(bytes_max) / REGISTERED_STEP).min(1 << 14);
    let mut refused = None;
    while steps > 0 {
        let step = |at: usize| libc::iovec {
            iov_base: memory.address(at * REGISTERED_STEP).cast(),
            iov_len: REGISTERED_STEP,
        };
        let iovecs: Vec<libc::iovec> = (0..steps).map(step).collect();
        // SAFETY: the steps lie in the arena, which the ring keeps mapped as long as it lives.
        match unsafe { ring.submitter().register_buffers(&iovecs) } {
            Ok(()) => return (steps as u16, refused),
            Err(error) => refused = Some(error),
        }
        steps /= 2;
    }
    (0, refused)
}

/// Registers the ring's descriptor for this thread: `enter` then looks nothing up. None when the
/// kernel has no place left.
pub(super) fn ring_fd(fd: i32) -> Option<i32> {
    let mut update = Update { offset: u32::MAX, reserved: 0, data: fd as u64 };
    register(fd, REGISTER_RING_FDS, &mut update).then_some(update.offset as i32)
}

/// Ends [`ring_fd`], on the same thread.
pub(super) fn forget_ring_fd(fd: i32, index: i32) {
    let mut update = Update { offset: index as u32, reserved: 0, data: 0 };
    register(fd, UNREGISTER_RING_FDS, &mut update);
}

fn register(fd: i32, what: libc::c_uint, update: &mut Update) -> bool {
    let update: *mut Update = update;
    // SAFETY: the kernel reads and writes one update, which outlives the call.
    unsafe { libc::syscall(libc::SYS_io_uring_register, fd, what, update, 1) == 1 }
}

fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|effective| effective >> CAP_IPC_LOCK & 1 == 1)
}
