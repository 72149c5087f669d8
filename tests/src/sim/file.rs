//! The bytes of one file: what is on the medium, and what only the device's cache knows.

use std::collections::BTreeMap;

use super::SECTOR_BYTES;
use super::random::Random;

pub(crate) const PAGE: u64 = 4096;
const SECTOR: u64 = SECTOR_BYTES as u64;
static ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

/// A page of the medium. Zeroes take no memory: segments are prepared by writing zeroes.
enum Page {
    Zero,
    Bytes(Box<[u8; PAGE as usize]>),
}

/// Bytes to be written; zeroes by their count.
#[derive(Clone)]
pub(crate) enum Data {
    Zero(u64),
    Bytes(Vec<u8>),
}

impl Data {
    pub(crate) fn new(bytes: Vec<u8>) -> Data {
        if bytes.chunks(ZEROES.len()).all(|part| part == &ZEROES[..part.len()]) {
            return Data::Zero(bytes.len() as u64);
        }
        Data::Bytes(bytes)
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Data::Zero(len) => *len,
            Data::Bytes(bytes) => bytes.len() as u64,
        }
    }

    pub(crate) fn part(&self, from: u64, to: u64) -> Data {
        match self {
            Data::Zero(_) => Data::Zero(to - from),
            Data::Bytes(bytes) => Data::Bytes(bytes[from as usize..to as usize].to_vec()),
        }
    }

    fn copy_to(&self, from: u64, out: &mut [u8]) {
        match self {
            Data::Zero(_) => out.fill(0),
            Data::Bytes(bytes) => out.copy_from_slice(&bytes[from as usize..][..out.len()]),
        }
    }
}

/// A completed write that no barrier covers yet.
struct Pending {
    sequence: u64,
    offset: u64,
    data: Data,
    /// A barrier over it failed: no later barrier makes it durable.
    lost: bool,
}

impl Pending {
    fn end(&self) -> u64 {
        self.offset + self.data.len()
    }
}

/// How a power cut treats sectors that were not synced.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Survival {
    /// All reach the medium.
    All,
    /// None does.
    None,
    /// Each by itself, with this probability in a million.
    Some(u32),
}

impl Survival {
    pub(crate) fn draw(random: &mut Random) -> Survival {
        match random.below(5) {
            0 => Survival::All,
            1 => Survival::None,
            2 => Survival::Some(100_000),
            3 => Survival::Some(500_000),
            _ => Survival::Some(900_000),
        }
    }

    pub(crate) fn spares(self, random: &mut Random) -> bool {
        match self {
            Survival::All => true,
            Survival::None => false,
            Survival::Some(ppm) => random.chance(ppm),
        }
    }
}

/// One file. Offsets and lengths of writes are multiples of a sector.
#[derive(Default)]
pub(crate) struct FileBody {
    size: u64,
    durable_size: u64,
    reserved: u64,
    pages: BTreeMap<u64, Page>,
    /// In the order of completion.
    pending: Vec<Pending>,
    sequence: u64,
}

impl FileBody {
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn durable_size(&self) -> u64 {
        self.durable_size
    }

    /// Bytes of the device that the file takes.
    pub(crate) fn allocated(&self) -> u64 {
        (self.pages.len() as u64 * PAGE).max(self.reserved)
    }

    /// Bytes of the device that a write would take in addition.
    pub(crate) fn growth(&self, offset: u64, len: u64) -> u64 {
        let (first, end) = (offset / PAGE, (offset + len).div_ceil(PAGE));
        let held = self.pages.range(first..end).count() as u64;
        let pages = self.pages.len() as u64 + (end - first) - held;
        (pages * PAGE).max(self.reserved) - self.allocated()
    }

    pub(crate) fn reserve(&mut self, len: u64) {
        self.reserved = self.reserved.max(len.next_multiple_of(PAGE));
        self.size = self.size.max(len);
    }

    /// What a reader sees, up to the end of the file.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len));
        let mut out = self.read_medium(offset, end.saturating_sub(offset));
        for write in &self.pending {
            let (from, to) = (write.offset.max(offset), write.end().min(end));
            if from < to {
                let part = &mut out[(from - offset) as usize..(to - offset) as usize];
                write.data.copy_to(from - write.offset, part);
            }
        }
        out
    }

    /// What is on the medium, whatever the size.
    pub(crate) fn read_medium(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut out = vec![0; len as usize];
        let end = offset + len;
        for (&page, bytes) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            if let Page::Bytes(bytes) = bytes {
                let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(
                    &bytes[(from - page * PAGE) as usize..(to - page * PAGE) as usize],
                );
            }
        }
        out
    }

    /// A write completed without a barrier.
    pub(crate) fn write_volatile(&mut self, offset: u64, data: Data) {
        if data.len() == 0 {
            return;
        }
        let end = offset + data.len();
        for page in offset / PAGE..end.div_ceil(PAGE) {
            self.pages.entry(page).or_insert(Page::Zero);
        }
        self.size = self.size.max(end);
        self.sequence += 1;
        self.pending.push(Pending { sequence: self.sequence, offset, data, lost: false });
    }

    /// A write completed with a barrier: its own bytes are on the medium, no others.
    pub(crate) fn write_durable(&mut self, offset: u64, data: &Data) {
        let end = offset + data.len();
        self.size = self.size.max(end);
        self.durable_size = self.durable_size.max(end);
        self.punch(offset, end, u64::MAX);
        self.store(offset, data);
    }

    /// The last completed write; a barrier submitted now covers it and all before it.
    pub(crate) fn mark(&self) -> u64 {
        self.sequence
    }

    /// A barrier over all writes up to `mark` completed.
    pub(crate) fn sync(&mut self, mark: u64) {
        let (covered, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|write| write.sequence <= mark && !write.lost);
        self.pending = rest;
        for write in covered {
            // A lost older write must not hide this one.
            self.punch(write.offset, write.end(), write.sequence);
            self.store(write.offset, &write.data);
        }
        self.durable_size = self.size;
    }

    /// A barrier over all writes up to `mark` failed: each of them is on the medium, or never
    /// will be although it can still be read.
    pub(crate) fn fail_sync(&mut self, mark: u64, random: &mut Random) {
        for write in &mut self.pending {
            write.lost |= write.sequence <= mark && random.coin();
        }
        if random.coin() {
            self.sync(mark);
        }
    }

    /// A write that the device pretended to do: the file is longer, its bytes are the old ones.
    pub(crate) fn extend(&mut self, end: u64) {
        self.size = self.size.max(end);
        self.durable_size = self.durable_size.max(end);
    }

    /// Power is lost, with `in_flight` writes under way that `torn` decides upon. Tells whether
    /// completed and whether unfinished bytes are gone.
    pub(crate) fn power_cut(
        &mut self,
        survival: Survival,
        in_flight: &[(u64, Data)],
        torn: Survival,
        random: &mut Random,
    ) -> (bool, bool) {
        let mut lost = self.size != self.durable_size;
        for write in std::mem::take(&mut self.pending) {
            let fate = if write.lost { Survival::None } else { survival };
            lost |= self.store_torn(write.offset, &write.data, fate, random);
        }
        let mut was_torn = false;
        for (offset, data) in in_flight {
            was_torn |= self.tear(*offset, data, torn, random);
        }
        let (low, high) = (self.durable_size, self.size.max(self.durable_size));
        self.size = match survival {
            Survival::All => high,
            Survival::None => low,
            Survival::Some(_) if high == low => low,
            Survival::Some(_) => {
                let between = random.between(low, high).next_multiple_of(PAGE);
                [low, high, between.min(high)][random.index(3)]
            }
        };
        self.durable_size = self.size;
        let beyond = self.pages.split_off(&self.size.div_ceil(PAGE));
        drop(beyond);
        (lost, was_torn)
    }

    /// A write in flight when power was lost: any subset of its sectors is on the medium. True
    /// when not all are.
    pub(crate) fn tear(
        &mut self,
        offset: u64,
        data: &Data,
        survival: Survival,
        random: &mut Random,
    ) -> bool {
        self.size = self.size.max(offset + data.len());
        self.store_torn(offset, data, survival, random)
    }

    /// Flips one bit on the medium. False when nothing is stored there.
    pub(crate) fn flip(&mut self, offset: u64, bit: u32) -> bool {
        let Some(page) = self.pages.get_mut(&(offset / PAGE)) else { return false };
        if let Page::Zero = page {
            *page = Page::Bytes(Box::new([0; PAGE as usize]));
        }
        let Page::Bytes(bytes) = page else { return false };
        bytes[(offset % PAGE) as usize] ^= 1 << (bit % 8);
        true
    }

    fn store_torn(
        &mut self,
        offset: u64,
        data: &Data,
        fate: Survival,
        random: &mut Random,
    ) -> bool {
        let mut missing = false;
        let mut at = 0;
        while at < data.len() {
            let to = (at + SECTOR).min(data.len());
            if fate.spares(random) {
                self.store(offset + at, &data.part(at, to));
            } else {
                missing = true;
            }
            at = to;
        }
        missing
    }

    /// Puts bytes on the medium.
    fn store(&mut self, offset: u64, data: &Data) {
        let end = offset + data.len();
        for page in offset / PAGE..end.div_ceil(PAGE) {
            let (from, to) = ((page * PAGE).max(offset), ((page + 1) * PAGE).min(end));
            let slot = self.pages.entry(page).or_insert(Page::Zero);
            match (&mut *slot, data) {
                (Page::Zero, Data::Zero(_)) => {}
                (_, Data::Zero(_)) if to - from == PAGE => *slot = Page::Zero,
                (Page::Zero, _) => {
                    let mut bytes = Box::new([0; PAGE as usize]);
                    let part = (from - page * PAGE) as usize..(to - page * PAGE) as usize;
                    data.copy_to(from - offset, &mut bytes[part]);
                    *slot = Page::Bytes(bytes);
                }
                (Page::Bytes(bytes), _) => {
                    let part = (from - page * PAGE) as usize..(to - page * PAGE) as usize;
                    data.copy_to(from - offset, &mut bytes[part]);
                }
            }
        }
    }

    /// Cuts `from..to` out of the pending writes older than `before`.
    fn punch(&mut self, from: u64, to: u64, before: u64) {
        if !self.pending.iter().any(|w| w.offset < to && from < w.end()) {
            return;
        }
        let mut kept = Vec::with_capacity(self.pending.len() + 1);
        for write in self.pending.drain(..) {
            if write.end() <= from || to <= write.offset || write.sequence >= before {
                kept.push(write);
                continue;
            }
            let Pending { sequence, offset, ref data, lost } = write;
            if offset < from {
                kept.push(Pending { sequence, offset, data: data.part(0, from - offset), lost });
            }
            if to < write.end() {
                let data = data.part(to - offset, data.len());
                kept.push(Pending { sequence, offset: to, data, lost });
            }
        }
        self.pending = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(byte: u8, len: usize) -> Data {
        Data::new(vec![byte; len])
    }

    #[test]
    fn a_barrier_write_replaces_the_middle_of_an_older_pending_write() {
        let mut file = FileBody::default();
        file.write_volatile(0, data(1, 12288));
        file.write_durable(4096, &data(2, 4096));
        let seen = file.read(0, 12288);
        assert!(seen[..4096].iter().chain(&seen[8192..]).all(|&b| b == 1));
        assert!(seen[4096..8192].iter().all(|&b| b == 2));
        file.power_cut(Survival::None, &[], Survival::None, &mut Random::new(1));
        let left = file.read(0, 12288);
        assert_eq!(left.len(), 8192);
        assert!(left[..4096].iter().all(|&b| b == 0) && left[4096..].iter().all(|&b| b == 2));
    }

    #[test]
    fn a_sync_covers_what_completed_before_its_mark() {
        let mut file = FileBody::default();
        file.write_volatile(0, data(1, 4096));
        let mark = file.mark();
        file.write_volatile(0, data(2, 4096));
        file.sync(mark);
        assert_eq!(file.read(0, 1), [2]);
        file.power_cut(Survival::None, &[], Survival::None, &mut Random::new(1));
        assert_eq!(file.read(0, 1), [1]);
    }

    #[test]
    fn what_a_failed_barrier_lost_no_later_barrier_brings_back() {
        let mut lost = 0;
        for seed in 0..64 {
            let mut random = Random::new(seed);
            let mut file = FileBody::default();
            file.write_volatile(0, data(1, 4096));
            file.fail_sync(file.mark(), &mut random);
            file.sync(file.mark());
            assert_eq!(file.read(0, 1), [1], "still readable");
            file.power_cut(Survival::All, &[], Survival::All, &mut random);
            lost += usize::from(file.read(0, 1) != [1]);
        }
        assert!(lost > 10 && lost < 54, "{lost}");
    }
}
