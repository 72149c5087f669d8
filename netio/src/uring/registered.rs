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
    let step = |at: usize| libc::iovec {
        iov_base: memory.address(at * REGISTERED_STEP).cast(),
        iov_len: REGISTERED_STEP,
    };
    let iovecs = (memory.len().min(bytes_max) / REGISTERED_STEP).min(1 << 14);
    let iovecs: Vec<libc::iovec> = (0..iovecs).map(step).collect();
    let mut refused = None;
    let steps = largest(iovecs.len(), |steps| {
        // None are there before the first; an error says so, and nothing else.
        let _ = ring.submitter().unregister_buffers();
        // SAFETY: the steps lie in the arena, which the ring keeps mapped as long as it lives.
        match unsafe { ring.submitter().register_buffers(&iovecs[..steps]) } {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        }
    });
    (steps as u16, refused)
}

/// The largest number up to `most` that is taken, where with one all below it are. It is taken
/// last; 0: none is.
fn largest(most: usize, mut take: impl FnMut(usize) -> bool) -> usize {
    let (mut taken, mut refused, mut next) = (0, most + 1, most);
    let mut stands = 0;
    while refused - taken > 1 {
        stands = if take(next) { next } else { 0 };
        if stands > 0 {
            taken = next
        } else {
            refused = next
        }
        next = (taken + refused) / 2;
    }
    // What somebody else took meanwhile is theirs.
    if stands == taken || take(taken) { taken } else { 0 }
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
    fn the_kernel_is_asked_for_as_much_as_it_takes() {
        for most in 0..40 {
            for bound in 0..40 {
                let (mut last, mut asked) = (0, 0);
                let found = largest(most, |steps| {
                    (last, asked) = (if steps <= bound { steps } else { 0 }, asked + 1);
                    steps <= bound
                });
                assert_eq!((found, last), (most.min(bound), found), "{most} of {bound}");
                assert!(asked <= 8 && (most > bound || asked <= 1), "{asked}");
            }
        }
    }

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
