//! Taking a ring's socket over into the standard library's ownership.

use std::net::TcpStream;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::op::Handle;

/// Makes a connection that a ring accepted or opened the caller's own: dropping the result closes
/// it. The ring must have no operation in flight on it and never gets the handle again.
///
/// # Panics
/// When the handle is no open descriptor number.
pub fn adopt_socket(handle: Handle) -> TcpStream {
    assert!(handle.raw() >= 0, "not a descriptor: {}", handle.raw());
    // SAFETY: a ring hands each descriptor out once, in a completion, and whoever received the
    // handle owns it; by calling this that owner gives it up for good.
    let owned = unsafe { OwnedFd::from_raw_fd(handle.raw()) };
    TcpStream::from(owned)
}
