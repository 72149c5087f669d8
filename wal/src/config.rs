//! What a log is told when it is opened, and what it says when something fails.

use std::path::PathBuf;

use palisade_netio::Errno;
pub use palisade_netio::SyncPath;

use crate::block::Expect;
use crate::limits::{
    BLOCK_ALIGN, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SEGMENTS_MAX,
    WRITES_IN_FLIGHT_MAX, data_end,
};
use crate::segment::{SEGMENT_SEQ_MAX, Started};

/// Settings of one shard's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of the shard; it exists.
    pub dir: PathBuf,
    /// The cluster.
    pub cluster: u32,
    /// This node.
    pub node: u32,
    /// This disk of the node.
    pub incarnation: u64,
    /// The shard.
    pub shard: u32,
    /// Bytes of a new segment, a multiple of 4096.
    pub segment_bytes: u64,
    /// Bytes that the segments may take together; at least two segments.
    pub log_bytes_max: u64,
    /// Writes in flight, 1 to 4.
    pub in_flight_max: usize,
    /// How a write is made durable. The ring behind must be made for the same path.
    pub sync_path: SyncPath,
    /// What the identity file says was started; a block goes into a later segment only once
    /// [`Wal::start_segment`](crate::Wal::start_segment) allows it. None for a log without an
    /// identity file: the loss of its last segment is not seen.
    pub started: Option<Started>,
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is out of bounds")]
pub struct BadConfig {
    /// Name of the setting.
    pub what: &'static str,
}

impl Config {
    /// Checks the bounds.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn validate(&self) -> Result<(), BadConfig> {
        let bytes = self.segment_bytes;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes)
            || !bytes.is_multiple_of(BLOCK_ALIGN as u64)
        {
            return Err(BadConfig { what: "segment_bytes" });
        }
        if !(2..=SEGMENTS_MAX as u64).contains(&(self.log_bytes_max / bytes)) {
            return Err(BadConfig { what: "log_bytes_max" });
        }
        if !(1..=WRITES_IN_FLIGHT_MAX).contains(&self.in_flight_max) {
            return Err(BadConfig { what: "in_flight_max" });
        }
        if !self.started.unwrap_or_default().is_sound() {
            return Err(BadConfig { what: "started" });
        }
        assert!(self.log_bytes_max >= 2 * bytes, "one segment is written, one prepared");
        assert!(data_end(bytes) > SEGMENT_HEADER_BYTES as u64, "a segment has room for blocks");
        Ok(())
    }

    /// Whose blocks are expected in segment `segment_seq` at `offset`.
    pub fn expect(&self, segment_seq: u64, offset: u64) -> Expect {
        assert!((1..=SEGMENT_SEQ_MAX).contains(&segment_seq), "segment {segment_seq}");
        assert!(offset < SEGMENT_BYTES_MAX && offset.is_multiple_of(BLOCK_ALIGN as u64));
        Expect {
            cluster: self.cluster,
            node: self.node,
            incarnation: self.incarnation,
            shard: self.shard,
            segment_seq,
            offset,
        }
    }

    /// Segments that may exist.
    pub(crate) fn segments_max(&self) -> usize {
        let most = (self.log_bytes_max / self.segment_bytes) as usize;
        assert!(most >= 2, "one segment is written while the next one is prepared");
        assert!(most <= SEGMENTS_MAX, "the settings were checked");
        most
    }
}

/// Why a log stopped for good. What was appended and not reported durable is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// An operation failed.
    #[error("{what} failed: {errno}")]
    Io {
        /// Which operation.
        what: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
    /// An operation made no progress although it was tried again.
    #[error("{what} made no progress")]
    Stuck {
        /// Which operation.
        what: &'static str,
    },
    /// A completion did not carry what its operation promises.
    #[error("{what} was answered with something else")]
    BadAnswer {
        /// Which operation.
        what: &'static str,
    },
    /// The file system is not fit for the log.
    #[error("the file system of the log is refused: {0}")]
    Refused(&'static str),
    /// A segment belongs to another cluster, node, disk or shard.
    #[error("segment {segment} belongs to another log")]
    Foreign {
        /// Its sequence, from the file name.
        segment: u64,
    },
    /// A setting cannot be.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The pool has no memory for what recovery needs.
    #[error("no memory for {0}")]
    NoMemory(&'static str),
}
