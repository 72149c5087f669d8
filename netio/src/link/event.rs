//! What a link tells its owner, and what the owner gives it.

use crate::frame::{FrameError, FrameHead};
use crate::hello::{Identity, Refusal};
use crate::limits::{BACKOFF_FIRST_NS, BACKOFF_LAST_NS, HANDSHAKE_NS, PIN_NS_MAX};
use crate::op::{Errno, Run};
use crate::pool::SlotId;

/// What happened on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Both sides have greeted each other; frames may be sent.
    Up {
        /// The other side.
        peer: Identity,
    },
    /// The connection is gone, or an attempt failed for another reason than the one before.
    /// What was queued is dropped.
    Down {
        /// Why.
        reason: DownReason,
    },
    /// A frame arrived, and its checksums are right.
    Frame(Frame),
}

/// How long a link waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTiming {
    /// First pause before it dials again; the real ones are spread between half of it and it.
    pub reconnect_min_ns: u64,
    /// Longest pause before it dials again, and the pause after a refusal.
    pub reconnect_max_ns: u64,
    /// Time for connecting and the greeting together.
    pub handshake_ns: u64,
    /// Time that the kernel may hold slots of a zero-copy send; as long as the
    /// [`user_timeout_ms`](crate::UringConfig::user_timeout_ms) of the ring.
    pub pin_ns_max: u64,
}

impl Default for LinkTiming {
    fn default() -> LinkTiming {
        LinkTiming {
            reconnect_min_ns: BACKOFF_FIRST_NS,
            reconnect_max_ns: BACKOFF_LAST_NS,
            handshake_ns: HANDSHAKE_NS,
            pin_ns_max: PIN_NS_MAX,
        }
    }
}

/// A frame that arrived. Its slot belongs to the link until the next
/// [`poll_event`](crate::Link::poll_event); who wants it longer retains it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The head.
    pub head: FrameHead,
    /// The slot. On a slotted link the frame starts at its first byte, and zeroes fill it from
    /// the end of the body to the next page.
    pub slot: SlotId,
    /// The sender's prefix of a bulk frame; empty for a plain one.
    pub prefix: Run,
    /// The body; of a bulk frame at byte 512 of the slot on a slotted link.
    pub body: Run,
}

/// Why a connection ended or did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The owner closed the link.
    #[error("closed here")]
    Closed,
    /// The peer closed its side.
    #[error("closed by the peer")]
    PeerClosed,
    /// The owner takes the other end for gone.
    #[error("ended here to dial again")]
    Redialled,
    /// Connecting failed.
    #[error("connecting: {0}")]
    Connect(Errno),
    /// Receiving failed.
    #[error("receiving: {0}")]
    Receive(Errno),
    /// Sending failed.
    #[error("sending: {0}")]
    Send(Errno),
    /// The peer refused the greeting.
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    /// The peer is not whom the greeting wanted.
    #[error("wrong peer: {0}")]
    WrongPeer(Refusal),
    /// A frame of this kind has no place here: no answer to a greeting, or a greeting when there
    /// is no more to greet.
    #[error("a frame of kind {0} has no place here")]
    Greeting(u16),
    /// The peer sent what is no frame.
    #[error("bad frame: {0}")]
    BadFrame(FrameError),
    /// A frame that can never fit the quota for receiving.
    #[error("a frame of {0} bytes is above the quota for receiving")]
    Quota(usize),
    /// Connecting or greeting took too long.
    #[error("no greeting in time")]
    HandshakeTimeout,
    /// A zero-copy send was not let go in time.
    #[error("the peer does not acknowledge what was sent")]
    Unacknowledged,
}

/// A frame to send.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outgoing {
    /// The head, and after it the body if that is small and in no slot.
    pub head: Vec<u8>,
    /// The rest of the body. The link keeps the slots until they are sent.
    pub runs: Vec<Run>,
}

impl Outgoing {
    /// A frame without slots, as [`FrameHead::encode`](crate::FrameHead::encode) makes it.
    pub fn inline(frame: Vec<u8>) -> Outgoing {
        Outgoing { head: frame, runs: Vec::new() }
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.head.len() + self.runs.iter().map(|run| run.len as usize).sum::<usize>()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The frame was not taken: the queue is full, or the link is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link takes no frame now")]
pub struct Full;

/// When slots are sent without copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroCopy {
    /// Least total of a frame's runs.
    pub threshold_bytes: u32,
    /// Whether.
    pub mode: ZeroCopyMode,
}

/// Whether slots are sent without copying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopyMode {
    /// Until the kernel reports on a connection that it copied after all.
    Auto,
    /// From the threshold on.
    Always,
    /// Not at all.
    Never,
}

/// How what arrives is laid out in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Many frames in one slot, plain or bulk. For small frames.
    Packed,
    /// Each frame at the start of its own slot, so that the body of a bulk frame can be written
    /// from there as a block.
    Slotted,
    /// One plain frame at a time and no byte beyond it. For greetings.
    Exact,
}
