//! Walking the blocks of one segment through a window of one slot.

use palisade_netio::{Completion, Handle, Op, Pool, Run, SlotId};
use zerocopy::FromBytes;

use crate::block::{BLOCK_MAGIC, BadBlock, BlockHead, Expect, parse};
use crate::config::WalError;
use crate::limits::{
    BLOCK_ALIGN, BLOCK_BYTES_MAX, RETRIES_MAX, SCAN_READ_BYTES, SEGMENT_HEADER_BYTES,
};

/// What fills a page that the device could not read: no block, and not zero.
const UNREADABLE: u8 = 0xFF;

const _: () = assert!(UNREADABLE != 0, "what cannot be read is no end of the log");
const _: () = assert!(BLOCK_MAGIC.to_le_bytes()[0] != UNREADABLE, "nor is it a block");

/// What the scan met. Lives on the stack for one step.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Met {
    /// Bytes must be read first.
    Read,
    /// A valid head; the whole block is in the window.
    Block { offset: u64, head: BlockHead },
    /// No block starts at this page.
    Page(Page),
    /// The end of the part of the segment that can hold blocks.
    End,
}

/// A page where no block starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// Zeros.
    Zero,
    /// Part of a block of an earlier life of the file.
    Stale,
    /// Anything else.
    Torn,
}

/// The walk over one segment.
#[derive(Debug)]
pub(crate) struct Scanner {
    handle: Handle,
    expect: Expect,
    slot: SlotId,
    /// First byte after what can hold blocks.
    end: u64,
    /// Segment offset of the first byte of the window, and bytes in it.
    base: u64,
    filled: usize,
    pos: u64,
    stale_until: u64,
    /// Bytes that must be in the window from `pos` on.
    need: usize,
    in_flight: usize,
    /// Set after a read error: pages are read one by one.
    careful: bool,
    retries: u32,
    /// Pages that the device could not read.
    pub(crate) unreadable: u64,
}

impl Scanner {
    /// `slot` holds at least [`BLOCK_BYTES_MAX`] bytes.
    pub(crate) fn new(handle: Handle, expect: Expect, slot: SlotId, end: u64) -> Scanner {
        assert!(expect.offset == 0, "a scan walks a whole segment");
        let start = SEGMENT_HEADER_BYTES as u64;
        let end = end / BLOCK_ALIGN as u64 * BLOCK_ALIGN as u64;
        let scanner = Scanner {
            handle,
            expect,
            slot,
            end: end.max(start),
            base: start,
            filled: 0,
            pos: start,
            stale_until: 0,
            need: BLOCK_ALIGN,
            in_flight: 0,
            careful: false,
            retries: 0,
            unreadable: 0,
        };
        scanner.assert_invariants();
        scanner
    }

    fn assert_invariants(&self) {
        let align = BLOCK_ALIGN as u64;
        assert!(self.pos.is_multiple_of(align) && self.base.is_multiple_of(align));
        assert!(self.filled.is_multiple_of(BLOCK_ALIGN) && self.need.is_multiple_of(BLOCK_ALIGN));
        assert!(self.base <= self.pos, "what was passed is not met again");
        assert!(self.pos <= self.base + self.filled as u64, "nothing is passed unread");
        assert!(self.base + self.filled as u64 <= self.end, "the index is not taken for a block");
        assert!(self.filled + self.in_flight <= BLOCK_BYTES_MAX, "a read stays within the window");
        assert!(self.need >= BLOCK_ALIGN && self.need <= BLOCK_BYTES_MAX, "need {}", self.need);
        assert!(self.retries <= RETRIES_MAX, "retries are bounded");
    }

    fn held(&self) -> usize {
        let before = (self.pos - self.base) as usize;
        assert!(before <= self.filled, "the scan stays within its window");
        self.filled - before
    }

    /// The next thing in the segment.
    pub(crate) fn step(&mut self, pool: &Pool) -> Met {
        assert!(self.in_flight == 0, "a read is in flight");
        if self.pos >= self.end {
            return Met::End;
        }
        if self.pos + self.need as u64 > self.end {
            // The file turned out shorter: what is there is judged by its first page.
            self.need = BLOCK_ALIGN;
        }
        assert!(self.pos + self.need as u64 <= self.end, "no more is asked for than there is");
        if self.held() < self.need {
            return Met::Read;
        }
        let bytes = &pool.bytes(self.slot)[(self.pos - self.base) as usize..self.filled];
        let offset = self.pos;
        match parse(bytes, &self.expect.at(offset)) {
            Ok(head) if offset + head.bytes() as u64 > self.end => self.pass(Page::Torn),
            Ok(head) if bytes.len() < head.bytes() => {
                self.need = head.bytes();
                Met::Read
            }
            Ok(head) => {
                self.pos += head.bytes() as u64;
                self.need = BLOCK_ALIGN;
                self.assert_invariants();
                Met::Block { offset, head }
            }
            Err(why) => {
                let page = self.class(why, &bytes[..BLOCK_ALIGN]);
                self.pass(page)
            }
        }
    }

    fn pass(&mut self, page: Page) -> Met {
        assert!(self.pos < self.end, "the index is not passed over");
        assert!(self.held() >= BLOCK_ALIGN, "a page is passed that was not read");
        self.pos += BLOCK_ALIGN as u64;
        self.need = BLOCK_ALIGN;
        self.assert_invariants();
        Met::Page(page)
    }

    fn class(&mut self, why: BadBlock, page: &[u8]) -> Page {
        assert!(page.len() == BLOCK_ALIGN, "a page is judged whole");
        assert!(self.pos < self.end, "the index is not judged");
        if why == BadBlock::Stale {
            let (head, _) = BlockHead::read_from_prefix(page).expect("a page holds a head");
            let len = head.bytes().min(BLOCK_BYTES_MAX) as u64;
            self.stale_until = self.stale_until.max(self.pos + len);
            return Page::Stale;
        }
        if self.pos < self.stale_until {
            return Page::Stale;
        }
        let zero = page.iter().all(|&byte| byte == 0);
        if zero { Page::Zero } else { Page::Torn }
    }

    /// The bytes of the block that [`step`](Scanner::step) met last.
    pub(crate) fn block<'a>(&self, pool: &'a Pool, offset: u64, head: &BlockHead) -> &'a [u8] {
        assert!(offset + head.bytes() as u64 == self.pos, "it is the block that was met last");
        assert!(offset >= self.base, "the window went on, and the block with it");
        let at = (offset - self.base) as usize;
        assert!(at + head.bytes() <= self.filled, "the block is in the window");
        &pool.bytes(self.slot)[at..at + head.bytes()]
    }

    /// The read that [`Met::Read`] asked for.
    pub(crate) fn read(&mut self, pool: &mut Pool) -> Op {
        assert!(self.in_flight == 0, "one read at a time");
        assert!(self.held() < self.need, "nothing is read that is there");
        let before = (self.pos - self.base) as usize;
        if before > 0 {
            pool.bytes_mut(self.slot).copy_within(before..self.filled, 0);
            self.filled -= before;
            self.base = self.pos;
        }
        let offset = self.base + self.filled as u64;
        assert!(offset < self.end, "nothing is read behind the end");
        let left = (self.end - offset) as usize;
        let most = if self.careful { BLOCK_ALIGN } else { SCAN_READ_BYTES };
        let len = most.min(left).min(BLOCK_BYTES_MAX - self.filled);
        assert!(len > 0 && len.is_multiple_of(BLOCK_ALIGN));
        self.in_flight = len;
        self.assert_invariants();
        let run = Run { slot: self.slot, at: self.filled as u32, len: len as u32 };
        Op::Read { handle: self.handle, offset, run }
    }

    pub(crate) fn on_read(&mut self, pool: &mut Pool, done: &Completion) -> Result<(), WalError> {
        let asked = std::mem::take(&mut self.in_flight);
        assert!(asked > 0, "a read is in flight");
        assert!(self.held() < self.need, "nothing was passed while bytes were read");
        let what = "reading a segment";
        match done.result {
            Ok(count) if count as usize > asked => return Err(WalError::BadAnswer { what }),
            Ok(count) => {
                let whole = count as usize / BLOCK_ALIGN * BLOCK_ALIGN;
                self.filled += whole;
                self.retries = 0;
                if whole == 0 {
                    // The file is shorter than it said.
                    self.end = self.base + self.filled as u64;
                }
                if self.careful && self.filled >= SCAN_READ_BYTES / 4 {
                    self.careful = false;
                }
            }
            // One page that was asked for twice.
            Err(errno) if errno.is_media() && asked == BLOCK_ALIGN && self.retries > 0 => {
                let (at, bytes) = (self.filled, pool.bytes_mut(self.slot));
                bytes[at..at + BLOCK_ALIGN].fill(UNREADABLE);
                self.filled += BLOCK_ALIGN;
                self.unreadable += 1;
                self.retries = 0;
            }
            Err(errno) if errno.is_transient() || errno.is_media() => {
                self.retries += 1;
                self.careful |= errno.is_media();
                if self.retries > RETRIES_MAX {
                    return Err(WalError::Stuck { what });
                }
            }
            Err(errno) => return Err(WalError::Io { what, errno }),
        }
        self.assert_invariants();
        Ok(())
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }
}
