//! The doorbell: an eventfd that the ring always reads, written only when the shard sleeps.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::utils::CachePadded;

use crate::ring::Wake;

pub(super) struct Bell {
    event: OwnedFd,
    sleeping: CachePadded<AtomicBool>,
}

impl Bell {
    pub(super) fn new() -> std::io::Result<Arc<Bell>> {
        use rustix::event::{EventfdFlags, eventfd};
        // Blocking: the ring polls it, and a write blocks only at 2^64 unread rings.
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Bell { event, sleeping: CachePadded::new(AtomicBool::new(false)) }))
    }

    pub(super) fn raw(&self) -> i32 {
        self.event.as_raw_fd()
    }

    pub(super) fn arm(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        // Pairs with the fence in `wake`: either the shard sees what was queued, or the one who
        // queued it sees the flag.
        fence(Ordering::SeqCst);
    }

    pub(super) fn disarm(&self) {
        // A load first: while nobody armed it, the line stays shared.
        if self.sleeping.load(Ordering::Relaxed) {
            self.sleeping.store(false, Ordering::Relaxed);
        }
    }
}

impl Wake for Bell {
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            let one = 1u64.to_ne_bytes();
            while let Err(rustix::io::Errno::INTR) = rustix::io::write(&self.event, &one) {}
        }
    }
}
