//! The one error of the library: a kind to act on, and a sentence that says what to do.

use std::fmt;

/// What went wrong, for programs. Never told apart by text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// This node does not lead the stream; [`Error::leader_hint`] may name who does.
    NotLeader,
    /// This cluster is a standby: it takes no appends.
    Standby,
    /// A queue or window is full; try again.
    Busy,
    /// The log disk is at its limit; nothing was appended.
    NoSpace,
    /// No such stream here.
    UnknownStream,
    /// A producer left numbers out; [`Error::expected_sequence`] is the next one.
    SequenceGap,
    /// The record is larger than a record may be.
    TooLarge,
    /// A timestamp is too far ahead of the node's clock.
    ScnTooFarAhead,
    /// It may or may not be in the log.
    Unknown,
    /// It is not in the log and never will be.
    Failed,
    /// A write or barrier failed: the shard stopped. What is refused with it was not appended.
    Poisoned,
    /// A broken invariant: the node stopped.
    Broken,
    /// Bad configuration.
    Config,
    /// The data directory belongs to another process.
    InUse,
    /// Data on disk is damaged.
    Corrupt,
    /// The operating system refused something.
    Io,
    /// The position is below the first one kept.
    Recycled,
    /// Nobody answers.
    Unreachable,
    /// The node is stopping.
    Shutdown,
    /// The node that should lead is no member of the stream.
    NotMember,
    /// The node that should lead is not heard, or its disk does not count.
    NotUp,
    /// The node that should lead is the leader.
    LeadsAlready,
    /// The node that should lead lacks too much of the log; it catches up.
    Behind,
    /// It did not happen in time.
    TimedOut,
    /// The calling thread drives the shard that would have to answer: ask through its
    /// [`ShardDriver`](crate::ShardDriver), or from another thread.
    WouldBlock,
    /// A rule forbids it: the text starts with its name, a lower-kebab word and a colon.
    Forbidden,
    /// Somebody else changed the same at the same time; nothing was done, ask again.
    Conflict,
}

/// An error: cheap to make, to clone and to pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    text: String,
    leader: Option<String>,
    expected: Option<u64>,
}

impl Error {
    /// An error of a kind, with a sentence for people.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, text: text.into(), leader: None, expected: None }))
    }

    /// Names who leads.
    #[must_use]
    pub fn with_leader(mut self, address: Option<String>) -> Error {
        self.0.leader = address;
        self
    }

    /// Names the sequence that a producer must use next.
    #[must_use]
    pub fn with_expected(mut self, sequence: u64) -> Error {
        self.0.expected = Some(sequence);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later or elsewhere without a change.
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::*;
        matches!(self.0.kind, NotLeader | Busy | Unreachable | NoSpace | Behind | Conflict)
    }

    /// Address of the node that leads the stream, if known.
    pub fn leader_hint(&self) -> Option<&str> {
        self.0.leader.as_deref()
    }

    /// The sequence that the producer must use next, for [`ErrorKind::SequenceGap`].
    pub fn expected_sequence(&self) -> Option<u64> {
        self.0.expected
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Error {}
