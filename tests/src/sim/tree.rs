//! Names: which path leads to which file, now and after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use palisade_netio::Errno;

use super::random::Random;

const NOTDIR: Errno = Errno(20);
const ISDIR: Errno = Errno(21);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode(pub(crate) u64);

/// A change of names that no sync of its directory covers yet.
struct Change {
    sequence: u64,
    gone: Option<PathBuf>,
    made: Option<(PathBuf, Inode)>,
}

impl Change {
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.gone.iter().chain(self.made.iter().map(|(path, _)| path))
    }
}

/// One host's names. Paths are absolute; the root always exists.
pub(crate) struct Tree {
    names: BTreeMap<PathBuf, Inode>,
    durable: BTreeMap<PathBuf, Inode>,
    journal: Vec<Change>,
    directories: BTreeSet<Inode>,
    next: u64,
    sequence: u64,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        let root = BTreeMap::from([(PathBuf::from("/"), Inode(0))]);
        Tree {
            names: root.clone(),
            durable: root,
            journal: Vec::new(),
            directories: BTreeSet::from([Inode(0)]),
            next: 1,
            sequence: 0,
        }
    }

    pub(crate) fn find(&self, path: &Path) -> Option<Inode> {
        self.names.get(path).copied()
    }

    pub(crate) fn is_directory(&self, inode: Inode) -> bool {
        self.directories.contains(&inode)
    }

    /// All names of files, sorted.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&PathBuf, Inode)> {
        let files = self.names.iter().filter(|(_, inode)| !self.directories.contains(inode));
        files.map(|(path, &inode)| (path, inode))
    }

    pub(crate) fn list(&self, path: &Path) -> Result<Vec<String>, Errno> {
        let inode = self.find(path).ok_or(Errno::NOENT)?;
        if !self.is_directory(inode) {
            return Err(NOTDIR);
        }
        let children = self.names.keys().filter(|name| name.parent() == Some(path));
        let name = |child: &PathBuf| Some(child.file_name()?.to_string_lossy().into_owned());
        Ok(children.filter_map(name).collect())
    }

    pub(crate) fn create(&mut self, path: &Path, directory: bool) -> Result<Inode, Errno> {
        self.parent(path)?;
        if self.names.contains_key(path) {
            return Err(Errno::EXIST);
        }
        let inode = Inode(self.next);
        self.next += 1;
        if directory {
            self.directories.insert(inode);
        }
        self.change(None, Some((path.to_owned(), inode)));
        Ok(inode)
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let inode = self.find(from).ok_or(Errno::NOENT)?;
        self.parent(to)?;
        if self.is_directory(inode) {
            return Err(ISDIR);
        }
        if self.names.contains_key(to) {
            return Err(Errno::EXIST);
        }
        self.change(Some(from.to_owned()), Some((to.to_owned(), inode)));
        Ok(())
    }

    pub(crate) fn unlink(&mut self, path: &Path) -> Result<(), Errno> {
        let inode = self.find(path).ok_or(Errno::NOENT)?;
        if self.is_directory(inode) {
            return Err(ISDIR);
        }
        self.change(Some(path.to_owned()), None);
        Ok(())
    }

    /// The last change; a sync submitted now covers it and those before it.
    pub(crate) fn mark(&self) -> u64 {
        self.sequence
    }

    /// A sync of `directory` completed: the changes in it up to `mark` are durable, and with them
    /// the earlier changes of the same paths elsewhere.
    pub(crate) fn sync(&mut self, directory: &Path, mark: u64) {
        let mut needed = BTreeSet::new();
        let mut covered = vec![false; self.journal.len()];
        for (at, change) in self.journal.iter().enumerate().rev() {
            let here = change.paths().any(|path| path.parent() == Some(directory));
            let depended_on = change.paths().any(|path| needed.contains(path));
            if (here && change.sequence <= mark) || depended_on {
                covered[at] = true;
                needed.extend(change.paths().cloned());
            }
        }
        for (at, change) in std::mem::take(&mut self.journal).into_iter().enumerate() {
            if covered[at] {
                self.persist(change);
            } else {
                self.journal.push(change);
            }
        }
    }

    /// Makes every name durable, for the setup of a world.
    pub(crate) fn sync_all(&mut self) {
        for change in std::mem::take(&mut self.journal) {
            self.persist(change);
        }
    }

    /// Power is lost: a random prefix of the changes survives, or all where `keep` says so. True
    /// when a change is gone.
    pub(crate) fn power_cut(&mut self, keep: bool, random: &mut Random) -> bool {
        let all = self.journal.len() as u64;
        let survive = match random.below(4) {
            _ if keep => all,
            0 => 0,
            1 => all,
            _ => random.between(0, all),
        };
        let journal = std::mem::take(&mut self.journal);
        journal.into_iter().take(survive as usize).for_each(|change| self.persist(change));
        // A name whose directory did not survive leads nowhere. Parents sort before children.
        let mut reached = BTreeMap::new();
        for (path, inode) in std::mem::take(&mut self.durable) {
            let rooted = path.parent().is_none_or(|parent| reached.contains_key(parent));
            if rooted {
                reached.insert(path, inode);
            }
        }
        self.names = reached.clone();
        self.durable = reached;
        survive < all
    }

    /// Whether some name leads, or after a power cut may lead, to the file.
    pub(crate) fn is_named(&self, inode: Inode) -> bool {
        self.names.values().any(|&other| other == inode)
            || self.durable.values().any(|&other| other == inode)
            || self.journal.iter().any(|c| c.made.as_ref().is_some_and(|(_, i)| *i == inode))
    }

    fn parent(&self, path: &Path) -> Result<(), Errno> {
        let parent = path.parent().ok_or(Errno::EXIST)?;
        let inode = self.find(parent).ok_or(Errno::NOENT)?;
        if self.is_directory(inode) { Ok(()) } else { Err(NOTDIR) }
    }

    fn change(&mut self, gone: Option<PathBuf>, made: Option<(PathBuf, Inode)>) {
        if let Some(path) = &gone {
            self.names.remove(path);
        }
        if let Some((path, inode)) = &made {
            self.names.insert(path.clone(), *inode);
        }
        self.sequence += 1;
        self.journal.push(Change { sequence: self.sequence, gone, made });
    }

    fn persist(&mut self, change: Change) {
        if let Some(path) = &change.gone {
            self.durable.remove(path);
        }
        if let Some((path, inode)) = change.made {
            self.durable.insert(path, inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(tree: &mut Tree, seed: u64) {
        tree.power_cut(false, &mut Random::new(seed));
    }

    #[test]
    fn a_synced_name_survives_only_below_a_synced_directory() {
        let mut lost_parent = false;
        for seed in 0..32 {
            let mut tree = Tree::new();
            tree.create(Path::new("/d"), true).unwrap();
            tree.create(Path::new("/d/f"), false).unwrap();
            tree.sync(Path::new("/d"), tree.mark());
            let mut synced = Tree::new();
            synced.create(Path::new("/d"), true).unwrap();
            synced.create(Path::new("/d/f"), false).unwrap();
            synced.sync(Path::new("/d"), synced.mark());
            synced.sync(Path::new("/"), synced.mark());
            cut(&mut tree, seed);
            cut(&mut synced, seed);
            lost_parent |= tree.find(Path::new("/d/f")).is_none();
            assert!(synced.find(Path::new("/d/f")).is_some());
        }
        assert!(lost_parent);
    }

    #[test]
    fn a_rename_is_one_change() {
        for seed in 0..64 {
            let mut tree = Tree::new();
            tree.create(Path::new("/a"), false).unwrap();
            tree.sync_all();
            tree.rename(Path::new("/a"), Path::new("/b")).unwrap();
            assert_eq!(tree.rename(Path::new("/a"), Path::new("/c")), Err(Errno::NOENT));
            cut(&mut tree, seed);
            let (a, b) = (tree.find(Path::new("/a")), tree.find(Path::new("/b")));
            assert!(a.is_some() != b.is_some());
        }
    }

    #[test]
    fn a_sync_does_not_cover_changes_made_after_its_submission() {
        let mut kept = 0;
        for seed in 0..64 {
            let mut tree = Tree::new();
            tree.create(Path::new("/a"), false).unwrap();
            let mark = tree.mark();
            tree.create(Path::new("/b"), false).unwrap();
            tree.sync(Path::new("/"), mark);
            cut(&mut tree, seed);
            assert!(tree.find(Path::new("/a")).is_some());
            kept += usize::from(tree.find(Path::new("/b")).is_some());
        }
        assert!(kept > 0 && kept < 64);
    }
}
