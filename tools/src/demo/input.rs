//! What the demo appends: records from a seed, or the bytes of files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::exit::{Exit, Failure};

/// Largest record cut from files.
const CHUNK_BYTES_MAX: u64 = 64 << 10;
/// Records that small files are cut into, so that there is something to append at each step.
const CHUNKS_MIN: u64 = 300;
/// Shortest and longest generated record: all nodes of a demo may share one slow disk.
const GENERATED_BYTES: std::ops::RangeInclusive<u64> = 16..=64;

/// What is appended, in order.
#[derive(Debug)]
pub(crate) enum Input {
    /// So many records from a seed.
    Generated {
        /// The seed.
        seed: u64,
        /// How many.
        records: u64,
    },
    /// Files, end to end.
    Files(Chunks),
}

impl Input {
    /// Opens the bytes of a file, or of a directory's files in name order.
    pub(crate) fn files(path: &Path) -> Result<Input, Failure> {
        let failed = |error| Failure::io(path.display(), &error);
        let mut files = Vec::new();
        if std::fs::metadata(path).map_err(failed)?.is_dir() {
            for entry in std::fs::read_dir(path).map_err(failed)? {
                let file = entry.map_err(failed)?.path();
                if file.is_file() {
                    files.push(file);
                }
            }
            files.sort();
        } else {
            files.push(path.to_owned());
        }
        let sizes = files.iter().map(|file| std::fs::metadata(file).map(|facts| facts.len()));
        let bytes = sizes.sum::<Result<u64, _>>().map_err(failed)?;
        if bytes == 0 {
            let text =
                format!("{}: no bytes to replicate; name files that have some", path.display());
            return Err(Failure::new(Exit::Failed, text));
        }
        files.reverse();
        let chunk = (bytes / CHUNKS_MIN).clamp(1, CHUNK_BYTES_MAX) as usize;
        Ok(Input::Files(Chunks { left: files, open: None, bytes, chunk, hasher: Sha256::new() }))
    }

    /// How many records there will be, about.
    pub(crate) fn records(&self) -> u64 {
        match self {
            Input::Generated { records, .. } => *records,
            Input::Files(chunks) => chunks.bytes.div_ceil(chunks.chunk as u64),
        }
    }

    /// How many bytes there will be, about.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Input::Generated { records, .. } => records * *GENERATED_BYTES.end(),
            Input::Files(chunks) => chunks.bytes,
        }
    }

    /// Record `index`; must be asked in order.
    pub(crate) fn record(&mut self, index: u64) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Input::Generated { seed, records } => {
                Ok((index < *records).then(|| generate(*seed, index)))
            }
            Input::Files(chunks) => chunks.next(),
        }
    }

    /// The digest of all bytes of files.
    pub(crate) fn sha256(&self) -> Option<String> {
        match self {
            Input::Generated { .. } => None,
            Input::Files(chunks) => Some(hex(&chunks.hasher.clone().finalize())),
        }
    }
}

/// Records cut from files.
#[derive(Debug)]
pub(crate) struct Chunks {
    /// Files not opened yet, the next one last.
    left: Vec<PathBuf>,
    open: Option<(PathBuf, File)>,
    bytes: u64,
    /// Bytes of a record.
    chunk: usize,
    hasher: Sha256,
}

impl Chunks {
    fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut record = Vec::with_capacity(self.chunk);
        while record.len() < self.chunk {
            if self.open.is_none() {
                let Some(path) = self.left.pop() else { break };
                let file = File::open(&path).map_err(|e| Failure::io(path.display(), &e))?;
                self.open = Some((path, file));
            }
            let Some((path, file)) = &mut self.open else { break };
            let room = (self.chunk - record.len()) as u64;
            let read = file.take(room).read_to_end(&mut record);
            if read.map_err(|error| Failure::io(path.display(), &error))? == 0 {
                self.open = None;
            }
        }
        self.hasher.update(&record);
        Ok((!record.is_empty()).then_some(record))
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn generate(seed: u64, index: u64) -> Vec<u8> {
    let mut state = seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let span = GENERATED_BYTES.end() - GENERATED_BYTES.start() + 1;
    let len = (GENERATED_BYTES.start() + mix(&mut state) % span) as usize;
    let mut record = Vec::with_capacity(len + 8);
    while record.len() < len {
        record.extend_from_slice(&mix(&mut state).to_le_bytes());
    }
    record.truncate(len);
    record
}

/// One step of splitmix64.
fn mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
