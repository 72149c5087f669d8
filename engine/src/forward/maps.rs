//! Sealed segments mapped for reading, each with its lease.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, Range};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use palisade_netio::Nanos;
use palisade_wal::limits::BLOCK_BYTES_MAX;

use super::cut::{Cut, NoCut, Want, block_body, cut};
use super::limits::{BODIES_MAX, MAP_IDLE_NS, MAPS_MAX, PREFAULT_BYTES};
use super::queue::{Lease, SealedExtent};

/// One mapped segment. Dropped by its last user; the map goes before the lease.
#[derive(Debug)]
pub struct Mapped<M> {
    /// Its bytes.
    pub map: Arc<M>,
    _lease: Lease,
    /// Windows of [`PREFAULT_BYTES`] that are in memory.
    warm: RefCell<BTreeSet<usize>>,
    /// Blocks whose headers were checked, and their bodies; not all of many.
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
                let mut bodies = self.bodies.borrow_mut();
                if bodies.len() >= BODIES_MAX {
                    bodies.clear();
                }
                bodies.insert(extent.expect.offset, body.clone());
                body
            }
        };
        let mut found = cut(&self.map[body.clone()], want)?;
        found.range = found.range.start + body.start..found.range.end + body.start;
        Ok(found)
    }

    /// The windows that hold a block; those that may, as long as its length is not known.
    pub(crate) fn windows(&self, offset: u64) -> Range<usize> {
        let start = offset as usize;
        let known = self.bodies.borrow().get(&offset).map(|body| body.end);
        let end = known.unwrap_or(start + BLOCK_BYTES_MAX).min(self.map.len());
        start / PREFAULT_BYTES..end.div_ceil(PREFAULT_BYTES)
    }

    /// The part of the segment with a block, if any of it still has to be read from the disk.
    pub(crate) fn cold(&self, offset: u64) -> Option<Range<usize>> {
        let (windows, warm) = (self.windows(offset), self.warm.borrow());
        let cold = windows.clone().any(|window| !warm.contains(&window));
        cold.then(|| windows.start * PREFAULT_BYTES..windows.end * PREFAULT_BYTES)
    }

    pub(crate) fn set_warm(&self, window: usize) {
        self.warm.borrow_mut().insert(window);
    }

    pub(crate) fn set_cold(&self, window: usize) {
        self.warm.borrow_mut().remove(&window);
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
                let oldest = self.maps.remove(&key);
                // Only what waits to be written keeps it.
                oldest.iter().for_each(|(mapped, _)| mapped.bodies.borrow_mut().clear());
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
