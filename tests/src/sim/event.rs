//! What happens at a point of virtual time without a shard asking.

use palisade_netio::{Errno, Payload};

/// A completion on its way to its ring.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Carry the file operation out when the ring takes the completion, then complete it.
    Work,
    /// The outcome is known.
    Done {
        result: Result<u32, Errno>,
        more: bool,
        payload: Payload,
        copied: bool,
        /// Received bytes, to be put into the slot.
        fill: Option<Vec<u8>>,
    },
}

impl Step {
    /// The last completion of an operation, with nothing but a result.
    pub(crate) fn last(result: Result<u32, Errno>) -> Step {
        Step::Done { result, more: false, payload: Payload::None, copied: false, fill: None }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A completion reaches its ring.
    Post { operation: u64, step: Step },
    /// A connection attempt reaches the other host.
    Connect { operation: u64 },
    /// A send reaches its socket.
    Send { operation: u64 },
    /// A receive reaches its socket.
    Receive { operation: u64 },
    /// A multishot accept ends by itself.
    EndAccept { operation: u64 },
    /// The oldest bytes that `end` sent may arrive.
    Arrive { connection: u64, end: usize },
    /// `end` hears a reset from its peer, if there is a way.
    Reset { connection: u64, end: usize },
    /// `end` gives up, if its bytes are still blocked or `surely`.
    TimeOut { connection: u64, end: usize, surely: bool },
    /// `end` is reset, whatever lies between it and its peer.
    Break { connection: u64, end: usize },
}
