//! What the readers' state machine wants done.

use super::cursor::Source;
use super::cut::Want;
use super::queue::{ForwardRequest, SealedExtent};
use super::sender::ReaderId;
#[cfg(doc)]
use super::sender::Readers;
use super::wire::ChunkHead;

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// It acknowledged no byte for too long.
    Stalled,
    /// It takes bytes so slowly that a segment waits for it.
    Slow,
    /// It asks for more than it reads, and was not listened to.
    Flood,
    /// Its cluster may not be served any more.
    Unwanted,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Send a chunk: the encoded head, then the records of the source.
    Send {
        /// To whom.
        reader: ReaderId,
        /// What the head says.
        head: ChunkHead,
        /// The body.
        source: Source,
    },
    /// Send a small frame.
    Say {
        /// To whom.
        reader: ReaderId,
        /// The whole frame.
        frame: Vec<u8>,
    },
    /// Find records in a sealed segment: [`block_body`](super::cut::block_body), then
    /// [`cut`](super::cut::cut), and report by [`Readers::on_read`].
    Read {
        /// For whom.
        reader: ReaderId,
        /// The stream.
        stream: u64,
        /// Comes back with the result.
        ticket: u64,
        /// The block.
        extent: SealedExtent,
        /// What to cut out of it.
        want: Want,
    },
    /// Ask a shard; in the order of the effects.
    Ask {
        /// Which shard.
        shard: usize,
        /// What.
        request: ForwardRequest,
    },
    /// There may be room again: ask [`Readers::listens`] and [`Readers::on_blocked`] once more.
    Retry {
        /// For whom.
        reader: ReaderId,
    },
    /// Say by [`Readers::on_probed`] what a peer has acknowledged.
    Probe {
        /// Whose.
        reader: ReaderId,
    },
    /// End a connection, then say [`Readers::on_closed`].
    Close {
        /// Which.
        reader: ReaderId,
        /// Why.
        why: CloseReason,
    },
}
