//! Chunks compressed with LZ4 for readers in other regions: each once, for all who want it.
//! No I/O.
//!
//! What is compressed stays here as long as there is room, the one used longest ago goes first. It
//! is counted as long as a frame holds it, so that all of it never takes more than
//! [`COMPRESSED_BYTES_MAX`](super::limits::COMPRESSED_BYTES_MAX); a copy for a reader that takes
//! nothing counts as its own. Where there is no room, and where a chunk hardly gets smaller, it
//! goes as it is.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use palisade_wal::Lsn;

use super::cut::Cut;
use super::limits::{COMPRESS_BYTES_MIN, COMPRESS_GAIN, COMPRESSED_COUNT_MAX};

/// The compressed body of a chunk. Its memory goes with the last of its clones.
#[derive(Clone, Debug)]
pub struct Compressed(Rc<Block>);

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    held: Rc<Cell<u64>>,
}

impl Compressed {
    /// The bytes that are sent.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes.capacity() as u64);
    }
}

/// Which records: the same positions may hold other groups after a flashback, and the same groups
/// other record headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    stream: u64,
    start: Lsn,
    end: Lsn,
    chain: u64,
    headers_crc: u32,
}

impl Key {
    fn of(stream: u64, cut: &Cut) -> Key {
        let Cut { start, end, headers_crc, chain, .. } = *cut;
        Key { stream, start, end, chain, headers_crc }
    }
}

/// Compresses chunks, and keeps what was asked for lately.
#[derive(Debug)]
pub(crate) struct Compressor {
    /// The one that was used longest ago first; none for those that do not get smaller.
    known: VecDeque<(Key, Option<Compressed>)>,
    /// Memory of all that is compressed, here and in frames.
    held: Rc<Cell<u64>>,
    bytes_max: u64,
    /// Chunks compressed so far.
    runs: u64,
}

impl Compressor {
    /// One that takes at most so much memory.
    pub(crate) fn new(bytes_max: u64) -> Compressor {
        Compressor { known: VecDeque::new(), held: Rc::default(), bytes_max, runs: 0 }
    }

    /// Memory of what is compressed.
    pub(crate) fn held(&self) -> u64 {
        self.held.get()
    }

    /// Chunks compressed so far.
    pub(crate) fn runs(&self) -> u64 {
        self.runs
    }

    /// Compresses the records of a cut, unless that was done before.
    pub(crate) fn compress(&mut self, stream: u64, cut: &Cut, records: &[u8]) {
        let key = Key::of(stream, cut);
        if records.len() < COMPRESS_BYTES_MIN || self.position(&key).is_some() {
            return;
        }
        let room = get_maximum_output_size(records.len());
        if !self.make_room(room as u64) {
            return;
        }
        self.runs += 1;
        let found = compress(records).map(|bytes| {
            self.held.set(self.held.get() + bytes.capacity() as u64);
            Compressed(Rc::new(Block { bytes, held: self.held.clone() }))
        });
        if self.known.len() >= COMPRESSED_COUNT_MAX {
            self.known.pop_front();
        }
        self.known.push_back((key, found));
    }

    /// What was made of a cut, if it is worth sending.
    pub(crate) fn find(&mut self, stream: u64, cut: &Cut) -> Option<Compressed> {
        let at = self.position(&Key::of(stream, cut))?;
        let entry = self.known.remove(at)?;
        let found = entry.1.clone();
        self.known.push_back(entry);
        found
    }

    /// Nobody wants any of it.
    pub(crate) fn clear(&mut self) {
        self.known = VecDeque::new();
    }

    /// Those asked for last are the most likely.
    fn position(&self, key: &Key) -> Option<usize> {
        self.known.iter().rposition(|(known, _)| known == key)
    }

    /// Lets go what no frame holds until so much fits. False when that is not enough.
    fn make_room(&mut self, bytes: u64) -> bool {
        let (held, bytes_max) = (self.held.clone(), self.bytes_max);
        let fits = || held.get() + bytes <= bytes_max;
        let mut at = 0;
        while let Some((_, found)) = self.known.get(at).filter(|_| !fits()) {
            match found.as_ref().is_none_or(|found| Rc::strong_count(&found.0) > 1) {
                true => at += 1,
                // What is dropped here is counted at once.
                false => drop(self.known.remove(at)),
            }
        }
        fits()
    }
}

/// Records compressed, unless they hardly get smaller.
pub fn compress(records: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; get_maximum_output_size(records.len())];
    let len = compress_into(records, &mut bytes).ok()?;
    (len <= records.len() - records.len() / COMPRESS_GAIN).then(|| {
        bytes.truncate(len);
        bytes.shrink_to_fit();
        bytes
    })
}

/// Whether `compressed` is exactly the bytes that fill `records`.
pub fn decompress(compressed: &[u8], records: &mut [u8]) -> bool {
    decompress_into(compressed, records).is_ok_and(|len| len == records.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testlog::mix;

    fn cut(start: u64) -> Cut {
        let (start, end) = (Lsn(start), Lsn(start + 8));
        Cut { range: 0..8, start, end, headers_crc: 1, chain: 2, base: false }
    }

    /// Bytes of which about every `among`th is random.
    fn bytes(len: usize, among: u64, seed: u64) -> Vec<u8> {
        let mut seed = seed;
        (0..len)
            .map(|at| match mix(&mut seed) {
                random if random.is_multiple_of(among) => (random >> 32) as u8,
                _ => at as u8 / 64,
            })
            .collect()
    }

    #[test]
    fn what_is_compressed_comes_back_and_is_made_once() {
        let mut compressor = Compressor::new(1 << 20);
        let records = bytes(50_000, 20, 3);
        for _ in 0..5 {
            compressor.compress(7, &cut(0), &records);
            let found = compressor.find(7, &cut(0)).unwrap();
            assert!(found.bytes().len() < records.len() / 2);
            let mut again = vec![0; records.len()];
            assert!(decompress(found.bytes(), &mut again) && again == records);
        }
        assert_eq!(compressor.runs(), 1);
        // Other records in the same place are others.
        let other = Cut { chain: 3, ..cut(0) };
        assert!(compressor.find(7, &other).is_none() && compressor.find(8, &cut(0)).is_none());
        // What does not get smaller is tried once.
        let random = bytes(50_000, 1, 3);
        for _ in 0..5 {
            compressor.compress(7, &other, &random);
            assert!(compressor.find(7, &other).is_none());
        }
        compressor.compress(7, &cut(16), &records[..COMPRESS_BYTES_MIN - 1]);
        assert!(compressor.find(7, &cut(16)).is_none());
        assert_eq!(compressor.runs(), 2);
        assert!(compressor.held() > 0);
        compressor.clear();
        assert_eq!(compressor.held(), 0);
    }

    #[test]
    fn the_one_used_longest_ago_goes_first_and_no_more_than_is_needed() {
        let records = bytes(20_000, 3, 5);
        let mut compressor = Compressor::new(100_000);
        for at in 0..20 {
            compressor.compress(7, &cut(8 * at), &records);
            assert!(compressor.find(7, &cut(0)).is_some(), "it was used last");
        }
        assert!(
            compressor.find(7, &cut(8)).is_none() && compressor.find(7, &cut(8 * 18)).is_some()
        );
        assert!(compressor.held() > 50_000, "most of the room is used: {}", compressor.held());
    }

    #[test]
    fn memory_is_bounded_whatever_frames_hold_and_comes_back() {
        let (max, mut frames) = (100_000, Vec::new());
        let mut compressor = Compressor::new(max);
        let records = bytes(20_000, 3, 5);
        for at in 0..50 {
            compressor.compress(7, &cut(at), &records);
            // Every second one waits for a reader that takes nothing.
            frames.extend(compressor.find(7, &cut(at)).filter(|_| at % 2 == 0));
            assert!(compressor.held() <= max);
        }
        assert!(frames.len() > 2 && compressor.find(7, &cut(49)).is_none(), "no room is left");
        let (before, stuck) = (compressor.known.len(), frames.len());
        frames.clear();
        compressor.compress(7, &cut(99), &records);
        assert!(compressor.find(7, &cut(99)).is_some() && compressor.held() <= max);
        // One went for it, and no more than are needed.
        assert_eq!(compressor.known.len(), before, "{stuck} were in frames");
        for at in 0..2000 {
            compressor.compress(7, &cut(100 + at), &bytes(COMPRESS_BYTES_MIN, 1, at));
            assert!(compressor.known.len() <= COMPRESSED_COUNT_MAX);
        }
    }

    #[test]
    fn junk_and_wrong_lengths_are_refused_and_never_panic() {
        let mut compressor = Compressor::new(1 << 20);
        let records = bytes(3000, 10, 9);
        compressor.compress(7, &cut(0), &records);
        let good = compressor.find(7, &cut(0)).unwrap().bytes().to_vec();
        for len in [0, 1, records.len() - 1, records.len() + 1, 2 * records.len()] {
            assert!(!decompress(&good, &mut vec![0; len]), "{len}");
        }
        let mut into = vec![0; records.len()];
        (0..good.len()).for_each(|len| assert!(!decompress(&good[..len], &mut into), "{len}"));
        let mut seed = 1;
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..1 + mix(&mut seed) % 4 {
                let at = mix(&mut seed) as usize % bad.len();
                bad[at] = mix(&mut seed) as u8;
            }
            bad.truncate(bad.len() - mix(&mut seed) as usize % 50);
            let _ = decompress(&bad, &mut into);
        }
    }
}
