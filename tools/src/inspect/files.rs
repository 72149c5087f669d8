//! Which segment files are meant, and their bytes.

use std::path::{Path, PathBuf};

use palisade_wal::limits::{SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES};
use palisade_wal::{Expect, SEGMENT_COPIES, SEGMENT_COPY_BYTES, SegmentHeader, parse_segment_name};
use zerocopy::FromBytes;

use crate::exit::{Exit, Failure};

/// Directories below a named one that are looked into.
const DEPTH_MAX: usize = 4;

/// A segment file in memory.
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) bytes: Vec<u8>,
    /// Its header; absent when neither copy is readable or it was never written.
    pub(crate) header: Option<SegmentHeader>,
    /// Whose and which it is, by its header.
    pub(crate) expect: Expect,
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
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if parse_segment_name(name).is_some() {
            found.push(path);
        } else if depth < DEPTH_MAX && path.is_dir() {
            walk(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

/// Reads a segment file.
pub(crate) fn load(path: &Path) -> Result<SegmentFile, Failure> {
    let failed = |error| Failure::io(path.display(), &error);
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > SEGMENT_BYTES_MAX {
        let text = format!("{}: {len} bytes, a segment has at most 1 GiB", path.display());
        return Err(Failure::new(Exit::Failed, text));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let claim = claimed(&bytes);
    let header = claim.and_then(|expect| SegmentHeader::parse(&bytes, &expect).ok());
    let nobody =
        Expect { cluster: 0, node: 0, incarnation: 0, shard: 0, segment_seq: 0, offset: 0 };
    let expect = claim.filter(|_| header.is_some()).unwrap_or(nobody);
    Ok(SegmentFile { path: path.to_owned(), bytes, header, expect })
}

/// Whose segment it says it is; the reader then checks the rest against that.
fn claimed(bytes: &[u8]) -> Option<Expect> {
    let head = bytes.get(..SEGMENT_HEADER_BYTES)?;
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
