//! The walk over one log: its blocks in order, what is missing, and what was promised.

use std::path::{Path, PathBuf};

use palisade_wal::limits::{BLOCK_ALIGN, SEGMENT_HEADER_BYTES};
use palisade_wal::{BadBody, BlockHead};

use super::chains::Chains;
use super::scan::{Checked, Found, Gap};
use crate::cli::InspectFiles;

/// Damaged places that are kept; the rest is counted.
const DAMAGED_MAX: usize = 100_000;

/// The end of a sound block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    pub(crate) path: PathBuf,
    /// First byte after the block.
    pub(crate) offset: u64,
    /// Its number; 0 for the start of the log.
    pub(crate) block: u64,
}

/// A place that is not as it was written.
#[derive(Debug)]
pub(crate) struct Damage {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    /// The first block that it concerns.
    pub(crate) block: u64,
    pub(crate) why: String,
    /// The last sound block before it.
    pub(crate) after: Position,
}

/// What is known of one log (one shard of one node) over its segments.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) blocks: u64,
    pub(crate) groups: u64,
    pub(crate) records: u64,
    pub(crate) body_bytes: u64,
    /// Highest block that anything sound says is durable.
    pub(crate) durable_upto: u64,
    /// In the order of the log.
    pub(crate) damaged: Vec<Damage>,
    /// Damaged places beyond the limit.
    pub(crate) more: u64,
    pub(crate) chains: Chains,
    /// Blocks below this are no part of the log; 0 when that is not known.
    first: u64,
    next: Option<u64>,
    last: Position,
    last_crc: u32,
    /// The first junk since the last sound block.
    junk: Option<(PathBuf, u64, String)>,
    stale: bool,
}

/// Why the sound part of a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nothing was written behind it.
    Zero,
    /// Blocks of an earlier life of the file.
    Stale,
    /// Something that was never promised.
    Torn,
    /// Damage to what was promised.
    Corrupt,
}

impl Stop {
    /// Its name in text and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stop::Zero => "zero",
            Stop::Stale => "stale",
            Stop::Torn => "torn",
            Stop::Corrupt => "corrupt",
        }
    }
}

impl Log {
    /// The log begins with `block`, in the segment at `path`.
    pub(crate) fn begin(&mut self, block: u64, path: PathBuf) {
        assert!(self.next.is_none() && block > 0, "a log begins once, with a block");
        (self.first, self.next) = (block, Some(block));
        self.last.path = path;
    }

    /// Something in a segment. Blocks above `limit` were discarded by a recovery.
    pub(crate) fn take(
        &mut self,
        options: &InspectFiles,
        path: &Path,
        limit: u64,
        found: &Found<'_>,
    ) {
        match found {
            Found::Gap { gap: Gap::Zero, .. } => {}
            Found::Gap { gap: Gap::Stale, .. } => self.stale = true,
            Found::Gap { offset, gap: Gap::Junk(why), .. } => {
                self.junk.get_or_insert_with(|| (path.to_owned(), *offset, why.to_string()));
            }
            Found::Block { head, .. } if head.seq() > limit || head.seq() < self.first => {}
            Found::Block { offset, head, body, records } => {
                self.block(options, path, *offset, head, body, records);
            }
        }
    }

    /// A segment header that is not readable, of a segment that holds blocks.
    pub(crate) fn on_bad_header(&mut self, path: &Path) {
        let block = self.next.unwrap_or(1);
        self.damage(path, 0, block, "no copy of the segment header is readable".to_owned());
    }

    /// The end of the last segment: promised blocks may be missing there.
    pub(crate) fn finish(&mut self) {
        let Some(next) = self.next.filter(|next| *next <= self.durable_upto) else { return };
        self.lose(next, self.durable_upto);
    }

    /// The last sound position, and why it is the last.
    pub(crate) fn stop(&self) -> (&Position, Stop) {
        if let Some(first) = self.corrupt().next() {
            return (&first.after, Stop::Corrupt);
        }
        if let Some(first) = self.damaged.first() {
            return (&first.after, Stop::Torn);
        }
        let stop = match (&self.junk, self.stale) {
            (Some(_), _) => Stop::Torn,
            (None, true) => Stop::Stale,
            (None, false) => Stop::Zero,
        };
        (&self.last, stop)
    }

    /// Damage to what was promised.
    pub(crate) fn corrupt(&self) -> impl Iterator<Item = &Damage> {
        self.damaged.iter().filter(|damage| damage.block <= self.durable_upto)
    }

    /// Places that were being written when the node stopped.
    pub(crate) fn torn(&self) -> u64 {
        let damaged = self.damaged.len() - self.corrupt().count();
        damaged as u64 + u64::from(self.junk.is_some())
    }

    fn block(
        &mut self,
        options: &InspectFiles,
        path: &Path,
        offset: u64,
        head: &BlockHead,
        body: &[u8],
        records: &Result<Vec<Checked>, BadBody>,
    ) {
        let seq = head.seq();
        self.blocks += 1;
        self.body_bytes += body.len() as u64;
        self.durable_upto = self.durable_upto.max(head.durable_upto.get());
        let pages = offset.saturating_sub(SEGMENT_HEADER_BYTES as u64) / BLOCK_ALIGN as u64;
        let due = self.next.unwrap_or(seq.saturating_sub(pages).max(1));
        if seq < due {
            self.damage(path, offset, seq, format!("block {seq} again, {due} is due"));
            return;
        }
        if seq > due {
            self.lose(due, seq - 1);
        }
        let before = head.previous_header_crc.get();
        let is_next = self.last.block + 1 == seq && self.last_crc != 0;
        if is_next && before != 0 && before != self.last_crc {
            self.damage(path, offset, seq, "does not follow the block before it".to_owned());
        }
        (self.junk, self.stale) = (None, false);
        self.next = Some(seq + 1);
        let known = self.damaged.len() as u64 + self.more;
        match records {
            Err(why) => {
                self.damage(path, offset, seq, why.to_string());
                self.chains.on_loss();
            }
            Ok(records) => self.records(options, path, offset, seq, body, records),
        }
        self.last_crc = head.crc.get();
        if self.damaged.len() as u64 + self.more == known {
            let (path, offset) = (path.to_owned(), offset + head.bytes() as u64);
            self.last = Position { path, offset, block: seq };
        }
    }

    fn records(
        &mut self,
        options: &InspectFiles,
        path: &Path,
        offset: u64,
        seq: u64,
        body: &[u8],
        records: &[Checked],
    ) {
        for (meta, bad) in records {
            if let Some(why) = bad {
                let kind = format!("{:?}", meta.kind);
                let why = format!("{kind} of stream {} at {}: {why}", meta.stream, meta.lsn);
                self.damage(path, offset, seq, why);
                self.chains.on_loss();
                continue;
            }
            if let Err(why) = self.chains.take(meta, body) {
                self.damage(path, offset, seq, why);
            }
            let wanted = options.stream.is_none_or(|stream| stream == meta.stream);
            let reaches = meta.end.0 > options.from && options.to.is_none_or(|to| meta.lsn.0 < to);
            if meta.kind.is_group() && wanted && reaches {
                self.groups += 1;
                self.records += u64::from(meta.records);
            }
        }
    }

    /// Blocks that should be here are not.
    fn lose(&mut self, first: u64, last: u64) {
        let missing = match first == last {
            true => format!("block {first} is missing"),
            false => format!("blocks {first} to {last} are missing"),
        };
        let (path, offset, why) = match self.junk.take() {
            Some((path, offset, why)) => (path, offset, format!("{missing}: {why}")),
            None => (self.last.path.clone(), self.last.offset, missing),
        };
        self.damage(&path, offset, first, why);
        self.chains.on_loss();
        self.last_crc = 0;
    }

    fn damage(&mut self, path: &Path, offset: u64, block: u64, why: String) {
        if self.damaged.len() >= DAMAGED_MAX {
            self.more += 1;
            return;
        }
        let (path, after) = (path.to_owned(), self.last.clone());
        self.damaged.push(Damage { path, offset, block, why, after });
    }
}
