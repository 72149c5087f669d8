//! Wakes the forwarder's thread, and costs one atomic read while it is awake.
//!
//! A pair of connected local sockets: the executor reads one end like any other connection.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use palisade_netio::Wake;

/// The ringing end.
#[derive(Debug)]
pub struct Doorbell {
    sleeping: AtomicBool,
    socket: UnixStream,
}

impl Doorbell {
    /// A bell, and the end that becomes readable when it rings.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new() -> std::io::Result<(Doorbell, UnixStream)> {
        let (socket, heard) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        Ok((Doorbell { sleeping: AtomicBool::new(false), socket }, heard))
    }

    /// Wakes the forwarder if it sleeps. After the queues were filled.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.send();
        }
    }

    /// Wakes the forwarder in any case.
    pub fn ring_always(&self) {
        self.sleeping.store(false, Ordering::Release);
        self.send();
    }

    fn send(&self) {
        // A full socket buffer means that it is awake, or about to be.
        let _ = (&self.socket).write(&[1]);
    }

    /// Says that the forwarder is about to sleep. It looks at its queues once more after this.
    pub fn arm(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the forwarder is awake.
    pub fn disarm(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        self.ring();
    }
}
