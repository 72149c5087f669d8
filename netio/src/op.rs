//! The vocabulary of the seam: what a shard asks of the kernel ([`Op`]) and what comes back
//! ([`Completion`]). Plain data, so that the production ring and the simulator's virtual ring are
//! interchangeable.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::pool::SlotId;

/// Names one submitted operation. The owner chooses it; the ring hands it back unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// An open file or socket of this process (a file descriptor in production).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle(i32);

impl Handle {
    /// Wraps a raw descriptor. The ring that issued it is the only one to interpret it.
    pub const fn from_raw(raw: i32) -> Handle {
        Handle(raw)
    }

    /// The raw descriptor.
    pub const fn raw(self) -> i32 {
        self.0
    }
}

/// How a file is opened. Data files are always direct (`O_DIRECT`) and close-on-exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenHow {
    /// An existing file, for direct reads.
    Read,
    /// An existing file, for direct reads and writes.
    ReadWrite,
    /// A file that must not exist yet, for direct reads and writes.
    CreateNew,
    /// A directory, to be synced.
    Directory,
}

/// A run of bytes inside one slot of the [`Pool`](crate::Pool).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The slot.
    pub slot: SlotId,
    /// First byte, counted from the start of the slot.
    pub at: u32,
    /// Length in bytes.
    pub len: u32,
}

/// What a shard asks of the kernel. Every file operation of the log is one of these; nothing
/// else touches the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Opens `path`. Result: [`Payload::Handle`], which only this ring closes.
    Open {
        /// The path.
        path: PathBuf,
        /// Access and creation.
        how: OpenHow,
    },
    /// Closes a file or socket.
    Close {
        /// What to close.
        handle: Handle,
    },
    /// Facts about an open file or directory. Result: [`Payload::Facts`].
    Facts {
        /// The file.
        handle: Handle,
    },
    /// Writes the runs back to back at `offset`. The result counts the bytes written, which may
    /// be fewer: the rest is the caller's to submit again.
    Write {
        /// The file.
        handle: Handle,
        /// Byte offset in the file, a multiple of the direct-I/O alignment.
        offset: u64,
        /// What to write; each run aligned in memory and length.
        runs: Vec<Run>,
        /// Whether the completion also promises durability of these bytes (`RWF_DSYNC`).
        barrier: bool,
    },
    /// Reads up to `run.len` bytes at `offset` into `run`. The result counts the bytes read.
    Read {
        /// The file.
        handle: Handle,
        /// Byte offset in the file, aligned.
        offset: u64,
        /// Where to put the bytes, aligned in memory and length.
        run: Run,
    },
    /// A barrier: every write to this file that *completed* before the submission is durable
    /// when this completes (`fdatasync`; with `metadata`, `fsync`).
    Sync {
        /// The file or directory.
        handle: Handle,
        /// Also size, times and, for a directory, its entries.
        metadata: bool,
    },
    /// Reserves `len` bytes from the start of the file (`fallocate`).
    Allocate {
        /// The file.
        handle: Handle,
        /// Bytes to reserve.
        len: u64,
    },
    /// Renames `from` to `to`, replacing nothing. Durable after a sync of the directory.
    Rename {
        /// Old path.
        from: PathBuf,
        /// New path.
        to: PathBuf,
    },
    /// Removes a file.
    Unlink {
        /// The path.
        path: PathBuf,
    },
    /// Creates a directory.
    MakeDir {
        /// The path.
        path: PathBuf,
    },
    /// Names in a directory, sorted. Only used before a shard serves. Result: [`Payload::Names`].
    List {
        /// The directory.
        path: PathBuf,
    },
    /// Binds and listens. Result: [`Payload::Listening`].
    Listen {
        /// Address to bind; port 0 takes a free one.
        addr: SocketAddr,
    },
    /// Accepts connections until closed: one completion each ([`Payload::Accepted`]), `more` set
    /// while it goes on. The kernel may end it at any time; then it is submitted again.
    Accept {
        /// The listening socket.
        listener: Handle,
    },
    /// Connects to `addr`. Result: [`Payload::Handle`].
    Connect {
        /// The peer.
        addr: SocketAddr,
    },
    /// Sends `prefix`, then the runs. The result counts the bytes taken, which may be fewer.
    Send {
        /// The socket.
        socket: Handle,
        /// Bytes that are not in a slot; may be empty.
        prefix: Vec<u8>,
        /// Slot bytes that follow; may be empty.
        runs: Vec<Run>,
        /// Ask for a zero-copy send of the runs. The slots then stay pinned until the last
        /// completion (`more` unset), which may come long after the first.
        zero_copy: bool,
    },
    /// Receives at most `run.len` bytes. 0 means that the peer closed its side.
    Receive {
        /// The socket.
        socket: Handle,
        /// Where to put the bytes.
        run: Run,
    },
    /// Ends both directions of a socket; operations in flight on it complete with an error.
    Shutdown {
        /// The socket.
        socket: Handle,
    },
    /// Asks that the operation `target` ends early. `target` still completes by itself.
    Cancel {
        /// The operation to end.
        target: Token,
    },
}

/// What is known about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FileFacts {
    /// Size in bytes.
    pub size: u64,
    /// Direct-I/O alignment of file offsets; 0 when the file system reports none.
    pub offset_align: u32,
    /// Direct-I/O alignment of memory; 0 when the file system reports none.
    pub memory_align: u32,
    /// Preferred block of the file system.
    pub block: u32,
    /// What the device writes at once, its physical sector; 0 when it is not known.
    pub sector: u32,
    /// Free bytes on the file system, for space accounting.
    pub free: u64,
}

/// What a completion carries besides its result.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Payload {
    /// Nothing.
    #[default]
    None,
    /// A file or socket that is now open.
    Handle(Handle),
    /// A connection that was accepted, and from where.
    Accepted(Handle, SocketAddr),
    /// A listening socket and the address it really has.
    Listening(Handle, SocketAddr),
    /// File facts.
    Facts(FileFacts),
    /// Directory entries, sorted.
    Names(Vec<String>),
}

/// A failed operation: the kernel's error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// No such file or directory.
    pub const NOENT: Errno = Errno(2);
    /// Input/output error.
    pub const IO: Errno = Errno(5);
    /// File exists.
    pub const EXIST: Errno = Errno(17);
    /// Invalid argument.
    pub const INVAL: Errno = Errno(22);
    /// No space left on device.
    pub const NOSPC: Errno = Errno(28);
    /// Broken pipe.
    pub const PIPE: Errno = Errno(32);
    /// Connection aborted before it was accepted.
    pub const CONNABORTED: Errno = Errno(103);
    /// Connection reset by peer.
    pub const CONNRESET: Errno = Errno(104);
    /// Connection refused.
    pub const CONNREFUSED: Errno = Errno(111);
    /// Operation cancelled.
    pub const CANCELED: Errno = Errno(125);

    /// Whether the same operation, submitted again, may succeed (`EINTR`, `EAGAIN`).
    pub fn is_transient(self) -> bool {
        self.0 == 4 || self.0 == 11
    }

    /// What the kernel answers for bytes that the medium does not give back, by the status of
    /// the block device: `EIO`, `ENODATA` (a bad sector), `EILSEQ` (failed protection),
    /// `EREMOTEIO` (a bad target).
    pub const MEDIA: [Errno; 4] = [Errno::IO, Errno(61), Errno(84), Errno(121)];

    /// Whether the medium failed: what was asked for is unreadable, what stands beside it may not
    /// be.
    pub fn is_media(self) -> bool {
        Errno::MEDIA.contains(&self)
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Errno({}: {})", self.0, self)
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

/// The end of an operation, or one step of it while `more` is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The operation.
    pub token: Token,
    /// Bytes done (0 where no bytes are counted), or the error.
    pub result: Result<u32, Errno>,
    /// Another completion of the same operation follows; its slots stay pinned until the last.
    /// For a zero-copy send the first completion carries the result and the last one nothing.
    pub more: bool,
    /// What was opened, found or accepted.
    pub payload: Payload,
    /// Set on the last completion of a zero-copy send that the kernel copied after all.
    pub copied: bool,
}
