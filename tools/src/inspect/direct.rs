//! A whole file past the page cache: what is still being written must not be cached.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use palisade_netio::{
    Completion, Errno, Handle, Op, OpenHow, Payload, Pool, Purpose, Quotas, Ring, Run, SlotId,
    Token, Uring, UringConfig, Wait,
};

/// Bytes of one read.
const READ_BYTES: usize = 1 << 20;
/// Reads in flight.
const READS: usize = 4;
/// What the file is padded to for direct reads.
const ALIGN: usize = 4096;

/// Reads the file; through the page cache where the file system has no direct reads.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let len = usize::try_from(std::fs::metadata(path)?.len()).map_err(Error::other)?;
    let mut reader = Reader::new()?;
    let handle = match reader.open(path) {
        Ok(handle) => handle,
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.0) => return std::fs::read(path),
        Err(error) => return Err(error),
    };
    let bytes = reader.read(handle, len);
    reader.finish(Op::Close { handle })?;
    bytes
}

struct Reader {
    ring: Uring,
    pool: Pool,
    done: Vec<Completion>,
}

fn failed(errno: Errno) -> Error {
    Error::from_raw_os_error(errno.0)
}

impl Reader {
    fn new() -> Result<Reader> {
        let (read, none) = (READS * READ_BYTES, ALIGN);
        let pool = Pool::new(Quotas { write: none, receive: none, tail: none, read })?;
        let ring = Uring::new(UringConfig::default(), &pool).map_err(Error::other)?;
        Ok(Reader { ring, pool, done: Vec::new() })
    }

    /// One operation from its start to its end.
    fn finish(&mut self, op: Op) -> Result<Payload> {
        self.ring.submit(&mut self.pool, Token(u64::MAX), op);
        while self.done.is_empty() {
            self.ring.enter(&mut self.pool, Wait::Until(None), &mut self.done);
        }
        let done = self.done.remove(0);
        done.result.map_err(failed)?;
        Ok(done.payload)
    }

    fn open(&mut self, path: &Path) -> Result<Handle> {
        match self.finish(Op::Open { path: path.to_owned(), how: OpenHow::Read })? {
            Payload::Handle(handle) => Ok(handle),
            _ => Err(Error::other("no handle of an open file")),
        }
    }

    fn read(&mut self, handle: Handle, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let take = |_| self.pool.take(Purpose::Read, READ_BYTES);
        let mut free: VecDeque<SlotId> = (0..READS).filter_map(take).collect();
        let mut open: Vec<(usize, SlotId)> = Vec::with_capacity(READS);
        let mut next = 0;
        while next < len || !open.is_empty() {
            while next < len
                && let Some(slot) = free.pop_front()
            {
                let want = (len - next).next_multiple_of(ALIGN).min(READ_BYTES);
                let run = Run { slot, at: 0, len: want as u32 };
                let op = Op::Read { handle, offset: next as u64, run };
                self.ring.submit(&mut self.pool, Token(next as u64), op);
                open.push((next, slot));
                next += READ_BYTES;
            }
            self.ring.enter(&mut self.pool, Wait::Until(None), &mut self.done);
            for done in std::mem::take(&mut self.done) {
                let from = done.token.0 as usize;
                let at = open.iter().position(|(offset, _)| *offset == from);
                let (_, slot) = open.swap_remove(at.ok_or(ErrorKind::InvalidData)?);
                let count = done.result.map_err(failed)? as usize;
                let to = (from + READ_BYTES).min(len);
                if count < to - from {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                bytes[from..to].copy_from_slice(&self.pool.bytes(slot)[..to - from]);
                free.push_back(slot);
            }
        }
        Ok(bytes)
    }
}
