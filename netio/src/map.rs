//! Read-only maps of files that nobody writes any more.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{Advice, Mmap, MmapOptions, UncheckedAdvice};

/// A whole file, mapped to be read through the page cache.
///
/// The owner of the file promises that it is neither written nor shortened while a map of it
/// lives: a sealed segment under a lease.
#[derive(Debug)]
pub struct FileMap {
    map: Mmap,
    file: File,
}

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
        Ok(FileMap { map, file })
    }

    /// Reads the bytes of `range` from the disk now, so that touching them later does not wait.
    /// Parts outside of the file are left out.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn prefault(&self, range: Range<usize>) -> std::io::Result<()> {
        let (start, len) = self.clip(range);
        if len == 0 {
            return Ok(());
        }
        self.map.advise_range(Advice::PopulateRead, start, len)
    }

    /// Lets the memory of a range go, which counts to this process. Its bytes stay in the page
    /// cache as long as the kernel likes, and come back when they are touched.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn give_back(&self, range: Range<usize>) -> std::io::Result<()> {
        let (start, len) = self.clip(range);
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the mapping is shared, read-only and of a file that nobody changes, so that the
        // same bytes are read again from the file; a reader at the same time sees them too.
        unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) }
    }

    /// Sends bytes of a range to a socket, without touching the map; how many left. An error
    /// "would block" says that a socket that does not wait is full.
    ///
    /// # Errors
    /// When the socket or the disk fails.
    pub fn send_to(&self, socket: impl AsFd, range: Range<usize>) -> std::io::Result<usize> {
        let (start, len) = self.clip(range);
        let mut offset = start as u64;
        Ok(rustix::fs::sendfile(socket, &self.file, Some(&mut offset), len)?)
    }

    /// Copies bytes from `offset` on, without touching the map; how many there were.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read_at(&self, bytes: &mut [u8], offset: usize) -> std::io::Result<usize> {
        self.file.read_at(bytes, offset as u64)
    }

    fn clip(&self, range: Range<usize>) -> (usize, usize) {
        let start = range.start.min(self.map.len());
        (start, range.end.clamp(start, self.map.len()) - start)
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
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
        map.give_back(0..8192).unwrap();
        map.give_back(1 << 30..1 << 31).unwrap();
        assert!(map.iter().all(|&byte| byte == 7), "what was given back comes again");
        let (socket, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(map.send_to(&socket, 9000..1 << 30).unwrap(), 1000);
        drop(socket);
        let mut sent = Vec::new();
        std::io::Read::read_to_end(&mut other, &mut sent).unwrap();
        assert_eq!(sent, [7; 1000]);
        assert_eq!(map.read_at(&mut [0; 100], 9950).unwrap(), 50);
        std::fs::write(&path, []).unwrap();
        assert!(FileMap::open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
