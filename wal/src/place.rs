//! Placeholder for the block address, see `segment`.

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Place {
    /// Sequence of the segment.
    pub segment: u64,
    /// Byte offset of the block in it.
    pub offset: u64,
    /// Sequence of the block in its shard.
    pub block: u64,
    /// Bytes of the block.
    pub len: u32,
}
