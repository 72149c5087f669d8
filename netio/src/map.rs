//! Read-only maps of files that nobody writes any more.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions};

/// A whole file, mapped to be read through the page cache.
///
/// The owner of the file promises that it is neither written nor shortened while a map of it
/// lives: a sealed segment under a lease.
#[derive(Debug)]
pub struct FileMap(Mmap);

impl FileMap {
    /// Maps the file at `path`. May wait for the disk.
    ///
    /// # Errors
    /// When it cannot be opened or mapped, or is empty.
    pub fn open(path: &Path) -> std::io::Result<FileMap> {
        let file = File::open(path)?;
        // SAFETY: a shared read-only mapping. The contract above keeps the bytes unchanged; they
        // are plain bytes, so that even a broken contract shows other bytes, or a signal for a
        // shortened file, and never an invalid value.
        let map = unsafe { MmapOptions::new().map(&file)? };
        if map.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(FileMap(map))
    }

    /// Reads the bytes of `range` from the disk now, so that touching them later does not wait.
    /// Parts outside of the file are left out.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn prefault(&self, range: Range<usize>) -> std::io::Result<()> {
        let start = range.start.min(self.0.len());
        let len = range.end.min(self.0.len()) - start;
        if len == 0 {
            return Ok(());
        }
        self.0.advise_range(Advice::PopulateRead, start, len)
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_shows_the_file_and_prefault_stays_inside() {
        let path = std::env::temp_dir().join(format!("palisade-map-{}", std::process::id()));
        std::fs::write(&path, vec![7; 10_000]).unwrap();
        let map = FileMap::open(&path).unwrap();
        map.prefault(4096..1 << 30).unwrap();
        map.prefault(1 << 30..1 << 31).unwrap();
        assert!(map.len() == 10_000 && map.iter().all(|&byte| byte == 7));
        std::fs::write(&path, []).unwrap();
        assert!(FileMap::open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
