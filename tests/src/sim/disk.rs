//! One host's disk.

use std::collections::BTreeMap;

use palisade_netio::Nanos;

use super::fault::FaultKind;
use super::file::FileBody;
use super::tree::{Inode, Tree};

pub(crate) struct Disk {
    pub(crate) tree: Tree,
    pub(crate) files: BTreeMap<Inode, FileBody>,
    pub(crate) capacity: u64,
    /// Somebody else took what was free.
    pub(crate) full: bool,
    pub(crate) stalled_until: Nanos,
    /// Factor on every latency.
    pub(crate) slowness: u64,
    armed: BTreeMap<FaultKind, u32>,
}

impl Disk {
    pub(crate) fn new() -> Disk {
        Disk {
            tree: Tree::new(),
            files: BTreeMap::new(),
            capacity: u64::MAX / 2,
            full: false,
            stalled_until: Nanos(0),
            slowness: 1,
            armed: BTreeMap::new(),
        }
    }

    pub(crate) fn arm(&mut self, kind: FaultKind, times: u32) {
        self.armed.insert(kind, times);
    }

    pub(crate) fn disarm(&mut self) {
        self.armed.clear();
    }

    pub(crate) fn take_armed(&mut self, kind: FaultKind) -> bool {
        match self.armed.get_mut(&kind) {
            Some(times) if *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn free(&self) -> u64 {
        if self.full {
            return 0;
        }
        let used: u64 = self.files.values().map(FileBody::allocated).sum();
        self.capacity.saturating_sub(used)
    }

    pub(crate) fn forget_unnamed(&mut self, is_open: impl Fn(Inode) -> bool) {
        let tree = &self.tree;
        self.files.retain(|&inode, _| is_open(inode) || tree.is_named(inode));
    }
}
