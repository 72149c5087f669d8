//! Which segment files are meant, what their headers say, and their bytes.

use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use palisade_netio::FileMap;
use palisade_wal::limits::{
    BLOCK_ALIGN, BLOCK_HEAD_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES,
    data_end,
};
use palisade_wal::{
    Expect, SEGMENT_COPIES, SEGMENT_COPY_BYTES, SegmentHeader, parse_block, parse_segment_name,
};
use zerocopy::FromBytes;

use super::direct;
use super::scan::{Found, Gap};
use crate::exit::{Exit, Failure};

/// Directories below a named one that are looked into.
const DEPTH_MAX: usize = 4;

/// A segment file by its first page and its index.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    /// Its header; absent when neither copy is readable or it was never written.
    pub(crate) header: Option<SegmentHeader>,
    /// Neither readable nor zeros.
    pub(crate) is_header_damaged: bool,
    /// Whose and which it is, by its header; else by its name and what a neighbour says.
    pub(crate) expect: Option<Expect>,
    /// `durable_upto` in the head of its index, which only a complete segment has.
    pub(crate) sealed: Option<u64>,
}

/// What was met first of all in a segment, but for zeros and an earlier life of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nothing.
    Nothing,
    /// A block with a sound head.
    Block,
    /// Something else, and no block after it either.
    Junk,
}

impl Met {
    /// After one more thing.
    pub(crate) fn and(self, found: &Found<'_>) -> Met {
        match found {
            Found::Block { .. } => Met::Block,
            Found::Gap { gap: Gap::Junk(_), .. } if self == Met::Nothing => Met::Junk,
            Found::Gap { .. } => self,
        }
    }
}

/// The bytes of a segment.
pub(crate) enum Bytes {
    /// Of a complete one, through the page cache.
    Map(FileMap),
    /// Of one that may still be written.
    Read(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Map(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}

/// Every segment file below the paths, by directory and sequence.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    for path in paths {
        let facts = std::fs::metadata(path).map_err(|e| Failure::io(path.display(), &e))?;
        if facts.is_dir() {
            let before = found.len();
            walk(path, 0, &mut found)?;
            if found.len() == before {
                let text = format!("{}: holds no segment file (*.seg)", path.display());
                return Err(Failure::new(Exit::Failed, text));
            }
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |error| Failure::io(dir.display(), &error);
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.sort();
    for path in paths {
        if sequence(&path).is_some() {
            found.push(path);
        } else if depth < DEPTH_MAX && path.is_dir() {
            walk(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// The sequence in the name of a segment file.
fn sequence(path: &Path) -> Option<u64> {
    parse_segment_name(path.file_name()?.to_str()?)
}

/// Looks at a segment; where its header does not say whose it is, those beside it do.
pub(crate) fn look_around(path: &Path) -> Result<SegmentFile, Failure> {
    let mut file = SegmentFile::look(path)?;
    if file.header.is_none() {
        for beside in neighbours(path)?.iter().filter(|beside| *beside != path) {
            // A neighbour that is no segment says nothing.
            if let Some(owner) = SegmentFile::look(beside).ok().and_then(|one| one.expect) {
                file.adopt(&owner);
                break;
            }
        }
    }
    Ok(file)
}

/// The segments that stand in the same directory, this one included.
pub(crate) fn neighbours(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    walk(dir, DEPTH_MAX, &mut found)?;
    Ok(found)
}

impl SegmentFile {
    /// Reads its header and the head of its index.
    pub(crate) fn look(path: &Path) -> Result<SegmentFile, Failure> {
        let failed = |error| Failure::io(path.display(), &error);
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        if len > SEGMENT_BYTES_MAX {
            let text =
                format!("{}: no segment: {len} bytes, a segment has at most 1 GiB", path.display());
            return Err(Failure::new(Exit::Corrupt, text));
        }
        let mut page = [0; SEGMENT_HEADER_BYTES];
        if len >= SEGMENT_HEADER_BYTES as u64 {
            file.read_exact_at(&mut page, 0).map_err(failed)?;
        }
        let expect = claimed(&page);
        let header = expect.and_then(|expect| SegmentHeader::parse(&page, &expect).ok());
        let is_header_damaged = header.is_none() && page.iter().any(|&byte| byte != 0);
        let mut sealed = None;
        if let (Some(header), Some(expect)) = (&header, expect) {
            let at = data_end(header.bytes.get());
            let mut head = [0; BLOCK_HEAD_BYTES];
            if len >= at + BLOCK_ALIGN as u64 {
                file.read_exact_at(&mut head, at).map_err(failed)?;
            }
            let head = parse_block(&head, &expect.at(at)).ok();
            sealed = head.map(|head| head.durable_upto.get());
        }
        Ok(SegmentFile { path: path.to_owned(), len, header, is_header_damaged, expect, sealed })
    }

    /// Its sequence: by its header, else by its name; 0 when neither says.
    pub(crate) fn seq(&self) -> u64 {
        let by_header = self.header.as_ref().map(|header| header.seq.get());
        by_header.or_else(|| sequence(&self.path)).unwrap_or(0)
    }

    /// Whether the file was about to be taken again under another name: nothing in it counts.
    pub(crate) fn is_taken_again(&self) -> bool {
        let named = sequence(&self.path);
        self.header.is_some() && named.is_some_and(|named| named < self.seq())
    }

    /// First byte after what can hold blocks.
    pub(crate) fn data_end(&self) -> u64 {
        let bytes = self.header.as_ref().map_or(self.len, |header| header.bytes.get());
        let bytes = bytes / BLOCK_ALIGN as u64 * BLOCK_ALIGN as u64;
        if bytes < SEGMENT_BYTES_MIN { 0 } else { data_end(bytes).min(self.len) }
    }

    /// With an unreadable header, zeros included: it belongs to who its neighbours belong to.
    pub(crate) fn adopt(&mut self, neighbour: &Expect) {
        if self.header.is_none() && self.seq() > 0 {
            self.expect = Some(Expect { segment_seq: self.seq(), offset: 0, ..*neighbour });
        }
    }

    /// Why it is no segment at all. In its bytes sound blocks were `met`, or junk first.
    pub(crate) fn stranger(&self, bytes: &[u8], met: Met) -> Option<&'static str> {
        if self.header.is_some() || met == Met::Block {
            return None;
        }
        let is_short = self.len < SEGMENT_BYTES_MIN;
        match (self.is_header_damaged, self.expect) {
            (true, None) => Some(
                "no segment: it starts with no readable header, and no segment beside it says \
                 whose it is",
            ),
            // A header that was being written when the node stopped has nothing behind it.
            (true, Some(_)) if is_short || met == Met::Junk => {
                Some("no segment: it holds neither a readable header nor a sound block")
            }
            (false, None) if sequence(&self.path).is_none() => {
                Some("no segment: zeros stand where its header should be")
            }
            (false, None) if bytes.iter().any(|&byte| byte != 0) => Some(
                "no segment that can be judged: zeros stand where its header should be, and no \
                 segment beside it says whose it is",
            ),
            _ => None,
        }
    }

    /// All its bytes.
    pub(crate) fn bytes(&self) -> Result<Bytes, Failure> {
        let failed = |error| Failure::io(self.path.display(), &error);
        if self.sealed.is_some() {
            let map = FileMap::open(&self.path).map_err(failed)?;
            map.prefault(0..map.len()).map_err(failed)?;
            return Ok(Bytes::Map(map));
        }
        Ok(Bytes::Read(direct::read(&self.path).map_err(failed)?))
    }
}

/// Whose segment it says it is; the reader then checks the rest against that.
fn claimed(head: &[u8]) -> Option<Expect> {
    SEGMENT_COPIES.into_iter().find_map(|at| {
        let copy = head.get(at..at + SEGMENT_COPY_BYTES)?;
        let header = SegmentHeader::read_from_bytes(copy).ok()?;
        let expect = Expect {
            cluster: header.cluster.get(),
            node: header.node.get(),
            incarnation: header.incarnation.get(),
            shard: header.shard.get(),
            segment_seq: header.seq.get(),
            offset: 0,
        };
        SegmentHeader::parse(head, &expect).is_ok().then_some(expect)
    })
}
