//! One connection: two ends, and a pipe of bytes each way.

use std::collections::VecDeque;
use std::net::SocketAddr;

use palisade_netio::{Errno, Nanos};

use super::SOCKET_BYTES_MAX;
use super::frames::Framer;
use super::state::HostId;

/// Bytes under way together; `fin` ends the pipe.
pub(crate) struct Segment {
    pub(crate) at: Nanos,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fin: bool,
}

/// The bytes that one end sent and the other has not taken.
#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) wire: VecDeque<Segment>,
    pub(crate) arrived: Vec<u8>,
    /// Bytes on the wire, arrived and not acknowledged.
    pub(crate) held: usize,
    /// Bytes taken by the receiver whose acknowledgement a partition holds up.
    pub(crate) unacked: usize,
    pub(crate) fin_sent: bool,
    pub(crate) fin_arrived: bool,
    pub(crate) last_arrival: Nanos,
    pub(crate) framer: Framer,
}

impl Pipe {
    pub(crate) fn space(&self) -> usize {
        SOCKET_BYTES_MAX.saturating_sub(self.held)
    }
}

pub(crate) struct End {
    pub(crate) host: HostId,
    pub(crate) address: SocketAddr,
    /// A process holds it, or it waits to be accepted.
    pub(crate) open: bool,
    /// Both directions were ended on this side.
    pub(crate) shut: bool,
    pub(crate) error: Option<Errno>,
    /// The error was reported once; from then on the end is merely closed.
    pub(crate) told: bool,
    /// A reset from the peer waits for a partition to heal.
    pub(crate) reset_held: bool,
    pub(crate) receivers: VecDeque<u64>,
    pub(crate) senders: VecDeque<u64>,
}

impl End {
    pub(crate) fn new(host: HostId, address: SocketAddr) -> End {
        End {
            host,
            address,
            open: true,
            shut: false,
            error: None,
            told: false,
            reset_held: false,
            receivers: VecDeque::new(),
            senders: VecDeque::new(),
        }
    }

    /// The error that the next operation reports: a broken connection says so once.
    pub(crate) fn take_error(&mut self) -> Option<Errno> {
        let errno = self.error.filter(|_| !self.told);
        self.told |= errno.is_some();
        errno
    }
}

/// Pipe 0 leads from end 0 (which connected) to end 1 (which accepted), pipe 1 back.
pub(crate) struct Connection {
    pub(crate) ends: [End; 2],
    pub(crate) pipes: [Pipe; 2],
}

impl Connection {
    pub(crate) fn between(&self, a: HostId, b: HostId) -> bool {
        let hosts = [self.ends[0].host, self.ends[1].host];
        hosts == [a, b] || hosts == [b, a]
    }
}
