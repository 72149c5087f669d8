//! What is registered with the kernel: the ring's own descriptor, and the pool's arena.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    if is_limited() { REGISTER_BYTES_MODEST } else { REGISTER_BYTES_MAX }
}

/// The part of each of `rings` rings of this process.
pub(super) fn register_bytes_of(rings: usize) -> usize {
    if is_limited() { part(REGISTER_BYTES_MODEST, rings) } else { REGISTER_BYTES_MAX }
}

/// Whole steps, at least one: who comes late may then find nothing left.
fn part(bytes: usize, rings: usize) -> usize {
    (bytes / rings.max(1) / REGISTERED_STEP).max(1) * REGISTERED_STEP
}

fn is_limited() -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    limit.current.is_some() && !may_lock()
}

/// What all rings of this process may register together where locked memory is limited.
static BUDGET: Budget = Budget::new(REGISTER_BYTES_MODEST);

/// Bytes that are left of a common bound.
struct Budget(AtomicUsize);

impl Budget {
    const fn new(bytes: usize) -> Budget {
        Budget(AtomicUsize::new(bytes))
    }

    /// Takes at most `bytes`, in whole steps.
    fn take(&'static self, bytes: usize) -> Share {
        let mut taken = 0;
        let rest = |left: usize| {
            taken = bytes.min(left) / REGISTERED_STEP * REGISTERED_STEP;
            Some(left - taken)
        };
        // The closure always gives a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
        Share { bytes: taken, of: Some(self) }
    }
}

/// What one ring has of a common bound; given back when it is dropped.
pub(super) struct Share {
    bytes: usize,
    of: Option<&'static Budget>,
}

impl Share {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what is not needed.
    pub(super) fn keep(&mut self, bytes: usize) {
        assert!(bytes <= self.bytes);
        let surplus = std::mem::replace(&mut self.bytes, bytes) - bytes;
        if let Some(budget) = self.of {
            budget.0.fetch_add(surplus, Ordering::Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
    }
}

/// A ring's part of what this process may register: `bytes`, or what is left of the bound.
pub(super) fn share(bytes: usize) -> Share {
    if is_limited() { BUDGET.take(bytes) } else { Share { bytes, of: None } }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ring_has_its_part() {
        let parts = [1, 2, 3, 4, 5, 65].map(|rings| part(1 << 20, rings) >> 10);
        assert_eq!(parts, [1024, 512, 256, 256, 256, 256]);
    }

    #[test]
    fn rings_share_one_bound_and_give_back() {
        static SMALL: Budget = Budget::new(3 * REGISTERED_STEP);
        let mut first = SMALL.take(2 * REGISTERED_STEP + 5);
        let second = SMALL.take(64 << 20);
        let third = SMALL.take(REGISTERED_STEP);
        let steps = [&first, &second, &third].map(|share| share.bytes() / REGISTERED_STEP);
        assert_eq!(steps, [2, 1, 0]);
        // The kernel took less than was granted.
        first.keep(REGISTERED_STEP);
        assert_eq!(SMALL.take(64 << 20).bytes(), REGISTERED_STEP);
        drop((first, second, third));
        assert_eq!(SMALL.take(64 << 20).bytes(), 3 * REGISTERED_STEP);
    }
}
