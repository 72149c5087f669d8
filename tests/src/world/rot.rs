//! Where bits may flip in what is stored of a log so that recovery can tell it.
//!
//! A block that no later one calls durable cannot be told from a torn one when it is damaged
//! (wal/FORMAT.md, "Recovery"): a disk that lost it may not go on, as one that lost its start.

use std::ops::Range;
use std::path::{Path, PathBuf};

use palisade_wal::limits::BLOCK_ALIGN;
use palisade_wal::{BlockHead, Expect, parse_block};
use zerocopy::FromBytes;

/// The blocks of one log, by file.
#[derive(Default)]
pub struct Vouched {
    durable_upto: u64,
    blocks: Vec<(PathBuf, Range<u64>, u64)>,
}

impl Vouched {
    /// Takes what a segment of the log holds.
    pub fn take(&mut self, path: &Path, bytes: &[u8]) {
        for (at, page) in (0u64..).step_by(BLOCK_ALIGN).zip(bytes.chunks_exact(BLOCK_ALIGN)) {
            let Some(head) = sound(page) else { continue };
            self.durable_upto = self.durable_upto.max(head.durable_upto.get());
            let range = at..at + head.bytes() as u64;
            self.blocks.push((path.to_path_buf(), range, head.seq()));
        }
    }

    /// Whether a flip at `offset` of a file would be noticed for what it is.
    pub fn is_noticed(&self, path: &Path, offset: u64) -> bool {
        let mut last = self.blocks.iter().filter(|(_, _, seq)| *seq > self.durable_upto);
        !last.any(|(of, range, _)| of == path && range.contains(&offset))
    }
}

/// The head of a block that stands here, whoever wrote it.
fn sound(page: &[u8]) -> Option<BlockHead> {
    let (head, _) = BlockHead::read_from_prefix(page).ok()?;
    let expect = Expect {
        cluster: head.cluster.get(),
        node: head.node.get(),
        incarnation: head.incarnation.get(),
        shard: head.shard.get(),
        segment_seq: head.segment_seq.get(),
        offset: head.offset.get(),
    };
    parse_block(page, &expect).ok()
}
