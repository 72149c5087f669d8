//! Sealed segments mapped for reading, each with its lease.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use palisade_netio::Nanos;

use super::cut::{Cut, NoCut, Want, block_body, cut};
use super::limits::{MAP_IDLE_NS, MAPS_MAX, PREFAULT_BYTES};
use super::queue::{Lease, SealedExtent};

/// One mapped segment. Dropped by its last user; the map goes before the lease.
#[derive(Debug)]
pub struct Mapped<M> {
    /// Its bytes.
    pub map: Arc<M>,
    _lease: Lease,
    /// Windows of [`PREFAULT_BYTES`] that are being read from the disk, or were (true).
    warm: RefCell<BTreeMap<usize, bool>>,
    /// Blocks whose headers were checked, and their bodies.
    bodies: RefCell<BTreeMap<u64, Range<usize>>>,
}

impl<M: Deref<Target = [u8]>> Mapped<M> {
    pub(crate) fn new(map: M, extent: &SealedExtent) -> Mapped<M> {
        Mapped {
            map: Arc::new(map),
            _lease: extent.lease.clone(),
            warm: RefCell::default(),
            bodies: RefCell::default(),
        }
    }

    /// Cuts a chunk out of a block; the range counts from the start of the segment.
    pub(crate) fn cut(&self, extent: &SealedExtent, want: &Want) -> Result<Cut, NoCut> {
        let known = self.bodies.borrow().get(&extent.expect.offset).cloned();
        let body = match known {
            Some(body) => body,
            None => {
                let body = block_body(&self.map, &extent.expect)?;
                self.bodies.borrow_mut().insert(extent.expect.offset, body.clone());
                body
            }
        };
        let mut found = cut(&self.map[body.clone()], want)?;
        found.range = found.range.start + body.start..found.range.end + body.start;
        Ok(found)
    }

    /// The part of the segment around a block that still has to be read from the disk. A block
    /// may reach into a second window.
    pub(crate) fn cold(&self, offset: u64) -> Option<Range<usize>> {
        let window = offset as usize / PREFAULT_BYTES;
        let warm = self.warm.borrow();
        let cold = |w: usize| w * PREFAULT_BYTES < self.map.len() && warm.get(&w) != Some(&true);
        (cold(window) || cold(window + 1))
            .then(|| window * PREFAULT_BYTES..(window + 2) * PREFAULT_BYTES)
    }

    /// The window after those around a block, if nobody reads it from the disk yet.
    pub(crate) fn ahead(&self, offset: u64) -> Option<Range<usize>> {
        let window = offset as usize / PREFAULT_BYTES + 2;
        let start = window * PREFAULT_BYTES;
        let mut warm = self.warm.borrow_mut();
        if start >= self.map.len() || warm.contains_key(&window) {
            return None;
        }
        warm.insert(window, false);
        Some(start..start + PREFAULT_BYTES)
    }

    /// A range of whole windows is in memory now.
    pub fn set_warm(&self, range: &Range<usize>) {
        for window in range.start / PREFAULT_BYTES..range.end / PREFAULT_BYTES {
            self.warm.borrow_mut().insert(window, true);
        }
    }
}

/// Path and number: a file name may come again.
type Key = (Arc<Path>, u64);

/// The maps in use lately.
#[derive(Debug)]
pub(crate) struct Maps<M> {
    maps: BTreeMap<Key, (Rc<Mapped<M>>, Nanos)>,
}

impl<M> Default for Maps<M> {
    fn default() -> Maps<M> {
        Maps { maps: BTreeMap::new() }
    }
}

impl<M> Maps<M> {
    pub(crate) fn get(&mut self, extent: &SealedExtent, now: Nanos) -> Option<Rc<Mapped<M>>> {
        let key = (extent.path.clone(), extent.expect.segment_seq);
        let (mapped, used) = self.maps.get_mut(&key)?;
        *used = now;
        Some(mapped.clone())
    }

    pub(crate) fn put(&mut self, extent: &SealedExtent, mapped: Rc<Mapped<M>>, now: Nanos) {
        if self.maps.len() >= MAPS_MAX {
            let oldest = self.maps.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.maps.remove(&key);
            }
        }
        self.maps.insert((extent.path.clone(), extent.expect.segment_seq), (mapped, now));
    }

    /// Gives back leases of segments that nobody reads.
    pub(crate) fn sweep(&mut self, now: Nanos) {
        self.maps.retain(|_, (_, used)| now.since(*used) < MAP_IDLE_NS);
    }

    pub(crate) fn clear(&mut self) {
        self.maps.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }
}
