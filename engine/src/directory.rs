//! The data directory of a node: made, found, locked.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::verdict;

/// Name of the file that keeps two processes out of one directory.
const LOCK: &str = "lock";

/// Where a shard keeps its log.
pub(crate) fn shard_dir(data: &Path, shard: u16) -> PathBuf {
    data.join(format!("shard-{shard}"))
}

/// Makes the directories of a node that is formatted.
pub(crate) fn make_dirs(config: &Config) -> Result<(), Error> {
    let data = &config.node.data;
    let failed = |e: std::io::Error| io_error(&format!("{}", data.display()), &e);
    std::fs::create_dir_all(data).map_err(failed)?;
    if std::fs::read_dir(data).map_err(failed)?.next().is_some() {
        let text = format!("{} is not empty; name another directory", data.display());
        return Err(Error::new(ErrorKind::InUse, text));
    }
    for shard in 0..config.node.shards {
        std::fs::create_dir(shard_dir(data, shard)).map_err(failed)?;
    }
    sync_dir(data)
}

/// Takes back what [`make_dirs`] and a failed attempt made in a directory that was empty.
pub(crate) fn unmake_dirs(config: &Config) -> std::io::Result<()> {
    let data = &config.node.data;
    for shard in 0..config.node.shards {
        std::fs::remove_dir_all(shard_dir(data, shard))?;
    }
    verdict::forget(data);
    std::fs::remove_file(data.join(LOCK))
}

/// Looks before anything is made in a directory that was never formatted.
pub(crate) fn check_formatted(data: &Path) -> Result<(), Error> {
    if shard_dir(data, 0).is_dir() {
        return Ok(());
    }
    let text = format!("{} is not formatted; run `palisade format` first", data.display());
    Err(Error::new(ErrorKind::Config, text))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| io_error(&format!("{}", dir.display()), &e))
}

/// Keeps other processes out of a directory while it lives; it ends with the process.
#[derive(Debug)]
pub(crate) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // A child that was forked and runs nothing of its own yet holds the file as well: closing
        // it here would not free the directory.
        let _ = self.0.unlock();
    }
}

/// Takes the lock that keeps two processes out of one directory.
pub(crate) fn lock(data: &Path) -> Result<DirLock, Error> {
    let path = data.join(LOCK);
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path).map_err(|e| {
        let text = format!("{}: {e}; run `palisade format` first", data.display());
        Error::new(ErrorKind::Config, text)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock(file)),
        Err(TryLockError::WouldBlock) => {
            let text = format!(
                "{} is in use by another process; stop it, or use another directory",
                data.display()
            );
            Err(Error::new(ErrorKind::InUse, text))
        }
        Err(TryLockError::Error(e)) => Err(io_error(&format!("{}", path.display()), &e)),
    }
}

/// What the operating system refused.
pub(crate) fn io_error(what: &str, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_free_as_soon_as_its_lock_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert_eq!(lock(dir.path()).unwrap_err().kind(), ErrorKind::InUse);
        // What a child has between fork and exec.
        let _inherited = held.0.try_clone().unwrap();
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }
}
