//! The bytes of one reader's connection: control frames in, queued frames out. No I/O.

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::rc::Rc;

use palisade_netio::{FrameError, FrameHead, SlotView};

use super::compress::Compressed;
use super::limits::{CONTROL_BYTES, JOIN_BYTES, JOIN_MAPPED_BYTES};
use super::maps::Mapped;
use super::memory::trim;
use super::wire::{FROM_READER, FromReader, WireError};

/// Room for joined frames grows by so much.
const JOIN_STEP_BYTES: usize = 1 << 10;

/// The body of a frame that waits to be written.
#[derive(Debug)]
pub enum Body<M> {
    /// There is none.
    None,
    /// In memory of a shard.
    View(SlotView, Range<usize>),
    /// In a sealed segment.
    Mapped(Rc<Mapped<M>>, Range<usize>),
    /// Compressed, in memory that others share.
    Compressed(Compressed),
}

impl<M: Deref<Target = [u8]>> Body<M> {
    fn bytes(&self) -> &[u8] {
        match self {
            Body::None => &[],
            Body::View(view, range) => &view[range.clone()],
            Body::Mapped(mapped, range) => &mapped.map[range.clone()],
            Body::Compressed(made) => made.bytes(),
        }
    }

    /// Whether its memory is others', who want it back.
    fn is_borrowed(&self) -> bool {
        matches!(self, Body::View(..) | Body::Compressed(_))
    }
}

/// What is to be written next.
#[derive(Debug)]
pub enum Part<'a, M> {
    /// These bytes; none when nothing is queued.
    Bytes(&'a [u8]),
    /// A part of a segment.
    Mapped(&'a Rc<Mapped<M>>, Range<usize>),
}

/// What is queued for a connection, and what is being written: small frames joined, then at most
/// one large body.
#[derive(Debug)]
pub struct Outflow<M> {
    frames: VecDeque<(Vec<u8>, Body<M>)>,
    bytes: Vec<u8>,
    body: Body<M>,
    at: usize,
    /// Bytes at the start that [`Readers`](super::sender::Readers) do not count.
    uncounted: usize,
    /// Frames in what is being written.
    writing: usize,
    /// The reader takes nothing: what is queued is copied.
    blocked: bool,
}

impl<M: Deref<Target = [u8]>> Outflow<M> {
    /// Nothing is queued but the answer to the greeting.
    pub fn new(answer: Vec<u8>) -> Outflow<M> {
        let (frames, body, uncounted) = (VecDeque::new(), Body::None, answer.len());
        Outflow { frames, bytes: answer, body, at: 0, uncounted, writing: 0, blocked: false }
    }

    /// Queues a frame. What is little of a segment is copied while it is in memory.
    pub fn push(&mut self, head: Vec<u8>, body: Body<M>) {
        let little = |range: &Range<usize>| range.len() < JOIN_MAPPED_BYTES;
        let copied = match &body {
            Body::None => false,
            Body::View(..) => self.blocked,
            // Its memory is counted where it is, and a copy would be nowhere.
            Body::Compressed(_) => false,
            Body::Mapped(_, range) => little(range),
        };
        let mut frame = (head, body);
        if copied {
            copy_body(&mut frame);
        }
        self.frames.push_back(frame);
    }

    /// The next bytes to be written; none when nothing is queued.
    pub fn next_bytes(&mut self) -> &[u8] {
        self.begin();
        self.rest()
    }

    /// The same, but for those of a segment that need not be touched.
    pub fn next_part(&mut self) -> Part<'_, M> {
        self.begin();
        match (&self.body, self.at.checked_sub(self.bytes.len())) {
            (Body::Mapped(mapped, range), Some(at)) if at < range.len() => {
                Part::Mapped(mapped, range.start + at..range.end)
            }
            _ => Part::Bytes(self.rest()),
        }
    }

    fn begin(&mut self) {
        if self.is_written() {
            (self.bytes, self.body, self.at) = (Vec::new(), Body::None, 0);
            self.join();
        }
    }

    /// So many of the next bytes were written. Returns what the readers' state machine is to be
    /// told of: bytes and whole frames.
    pub fn on_written(&mut self, len: usize) -> (u64, usize) {
        self.at += len;
        self.blocked &= len == 0;
        let skipped = self.uncounted.min(len);
        self.uncounted -= skipped;
        let frames = if self.is_written() { std::mem::take(&mut self.writing) } else { 0 };
        ((len - skipped) as u64, frames)
    }

    /// Whether the reader took nothing since what is queued was copied.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// The reader does not take its bytes at once: it does not hold memory of a shard, or what
    /// others share; what is queued is copied.
    pub fn on_blocked(&mut self) {
        if std::mem::replace(&mut self.blocked, true) {
            return;
        }
        let borrowed = self.frames.iter_mut().filter(|(_, body)| body.is_borrowed());
        borrowed.for_each(copy_body);
        if self.body.is_borrowed() {
            let body = std::mem::replace(&mut self.body, Body::None);
            append(&mut self.bytes, body.bytes());
        }
    }

    /// Memory that it holds, but for that of shards.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        let heads = self.frames.iter().map(|frame| frame.0.capacity()).sum::<usize>();
        let frames = self.frames.capacity() * size_of::<(Vec<u8>, Body<M>)>();
        self.bytes.capacity() + heads + frames
    }

    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.is_written() && self.frames.is_empty()
    }

    fn join(&mut self) {
        while matches!(self.body, Body::None) && self.bytes.len() < JOIN_BYTES {
            let Some((head, body)) = self.frames.pop_front() else { break };
            match self.bytes.is_empty() {
                true => self.bytes = head,
                false => join(&mut self.bytes, &head),
            }
            self.writing += 1;
            trim(&mut self.frames);
            match body {
                Body::View(view, range) if range.len() < JOIN_BYTES => {
                    join(&mut self.bytes, &view[range]);
                }
                Body::Compressed(made) if made.bytes().len() < JOIN_BYTES => {
                    join(&mut self.bytes, made.bytes());
                }
                body => self.body = body,
            }
        }
    }

    fn rest(&self) -> &[u8] {
        match self.at.checked_sub(self.bytes.len()) {
            Some(at) => &self.body.bytes()[at..],
            None => &self.bytes[self.at..],
        }
    }

    fn is_written(&self) -> bool {
        self.rest().is_empty()
    }
}

/// A body that is kept with its head.
fn copy_body<M: Deref<Target = [u8]>>((head, body): &mut (Vec<u8>, Body<M>)) {
    append(head, std::mem::replace(body, Body::None).bytes());
}

/// The same for many small pieces.
fn join(bytes: &mut Vec<u8>, more: &[u8]) {
    if bytes.capacity() - bytes.len() < more.len() {
        bytes.reserve_exact(more.len().max(JOIN_STEP_BYTES));
    }
    bytes.extend_from_slice(more);
}

/// Memory is counted, so that no more is taken than is needed.
fn append(bytes: &mut Vec<u8>, more: &[u8]) {
    bytes.reserve_exact(more.len());
    bytes.extend_from_slice(more);
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadControl {
    /// The bytes are no frame of a reader.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame says nothing valid.
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// What came from a reader and is no whole frame yet.
#[derive(Debug)]
pub struct Inflow {
    buffer: Vec<u8>,
    filled: usize,
}

impl Default for Inflow {
    fn default() -> Inflow {
        Inflow { buffer: vec![0; CONTROL_BYTES], filled: 0 }
    }
}

impl Inflow {
    /// Where the next bytes go; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes came. Gives every whole frame in them.
    ///
    /// # Errors
    /// When the reader broke the rules.
    pub fn on_read(
        &mut self,
        len: usize,
        mut said: impl FnMut(FromReader),
    ) -> Result<(), BadControl> {
        self.filled += len;
        let mut at = 0;
        while let Some((frame, len)) = control(&self.buffer[at..self.filled])? {
            said(frame);
            at += len;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }
}

/// The control frame at the start of `bytes`, if it is there whole.
fn control(bytes: &[u8]) -> Result<Option<(FromReader, usize)>, BadControl> {
    let head = match FrameHead::parse(bytes, &FROM_READER) {
        Ok(head) => head,
        Err(FrameError::Short { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(body) = bytes.get(usize::from(head.head_len)..head.frame_len()) else {
        return Ok(None);
    };
    head.check_body(body)?;
    let said = FromReader::parse(&head, body)?;
    Ok(Some((said, head.frame_len())))
}

#[cfg(test)]
mod tests {
    use palisade_wal::Lsn;

    use super::*;
    use crate::forward::compress::Compressor;
    use crate::forward::cut::Cut;
    use crate::forward::testlog::{TestLog, pool};

    /// Writes pieces of `step` bytes; with `blocks`, each write finds the socket full first.
    fn write_all(out: &mut Outflow<Vec<u8>>, step: usize, blocks: bool) -> (Vec<u8>, u64, usize) {
        let (mut bytes, mut counted, mut frames) = (Vec::new(), 0, 0);
        loop {
            if blocks {
                out.on_blocked();
            }
            let next = out.next_bytes();
            if next.is_empty() {
                assert!(out.is_empty());
                return (bytes, counted, frames);
            }
            let len = next.len().min(step);
            bytes.extend_from_slice(&next[..len]);
            let (more, done) = out.on_written(len);
            (counted, frames) = (counted + more, frames + done);
        }
    }

    #[test]
    fn every_byte_is_written_once_in_order_whatever_the_pieces() {
        let mut pool = pool();
        let mut log = TestLog::new(1);
        for len in [10, 20_000, 300, 40_000, 5] {
            log.push(&[len]);
        }
        for (step, blocks) in [(1 << 20, false), (7, true), (1000, false), (16 << 10, true)] {
            let mut out = Outflow::new(b"welcome".to_vec());
            let mut expected = b"welcome".to_vec();
            for pair in log.bounds().windows(2) {
                let view = log.view(&mut pool, pair[0], pair[1]);
                let head = format!("head {}", pair[0]).into_bytes();
                expected.extend_from_slice(&head);
                expected.extend_from_slice(log.records(pair[0], pair[1]));
                let range = 0..view.len();
                out.push(head, Body::View(view, range));
            }
            let (bytes, counted, frames) = write_all(&mut out, step, blocks);
            assert!(bytes == expected, "in steps of {step}");
            assert_eq!((counted, frames), (expected.len() as u64 - 7, 5));
            pool.collect();
            assert_eq!(pool.used(palisade_netio::Purpose::Tail), 0);
        }
    }

    #[test]
    fn what_is_compressed_is_not_copied_for_who_takes_nothing_already() {
        let (mut compressor, mut out) =
            (Compressor::new(1 << 20), Outflow::<Vec<u8>>::new(vec![1]));
        let cut =
            Cut { range: 0..8, start: Lsn(0), end: Lsn(8), headers_crc: 1, chain: 2, base: false };
        compressor.compress(7, &cut, &[7; 50_000]);
        let made = compressor.find(7, &cut).expect("it gets smaller");
        out.on_blocked();
        out.push(vec![2; 16], Body::Compressed(made));
        compressor.clear();
        assert!(compressor.held() > 0, "who makes it counts it as long as it is queued");
        write_all(&mut out, 100, false);
        drop(out);
        assert_eq!(compressor.held(), 0);
    }

    #[test]
    fn frames_come_out_whole_from_any_pieces_and_garbage_is_refused() {
        let credit = |bytes| FromReader::Credit { stream: 3, bytes };
        let sent: Vec<FromReader> = (1..200).map(credit).collect();
        let bytes: Vec<u8> = sent.iter().flat_map(FromReader::encode).collect();
        for step in [1, 63, 64, 100, 4096] {
            let (mut inflow, mut got, mut rest) = (Inflow::default(), Vec::new(), &bytes[..]);
            while !rest.is_empty() {
                let space = inflow.space();
                let len = rest.len().min(step).min(space.len());
                space[..len].copy_from_slice(&rest[..len]);
                rest = &rest[len..];
                inflow.on_read(len, |said| got.push(said)).unwrap();
            }
            assert_eq!(got, sent);
        }
        let mut inflow = Inflow::default();
        inflow.space()[..100].fill(0xAA);
        assert!(inflow.on_read(100, |_| ()).is_err());
    }
}
