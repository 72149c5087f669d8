//! A log stream as its embedder sees it, and the queue to the shard that owns it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use palisade_netio::Wake;
use palisade_wal::{Lsn, RECORD_BYTES_MAX};

use crate::append::{AppendFuture, Promise, promise};
use crate::error::{Error, ErrorKind};
use crate::limits::{COMMANDS_MAX, READ_BYTES_MAX};

/// A record to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// The bytes.
    pub payload: Bytes,
    /// Who appends it; 0 for nobody. A producer's records are in the log at most once each.
    pub producer: u64,
    /// The producer's number for it: one more than its last.
    pub sequence: u64,
    /// Its SCN is at least this.
    pub scn_floor: u64,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub lsn: Lsn,
    /// First position after it.
    pub end_lsn: Lsn,
    /// Its timestamp.
    pub scn: u64,
    /// Who appended it; 0 for nobody.
    pub producer: u64,
    /// The producer's number for it.
    pub sequence: u64,
    /// The bytes.
    pub payload: Bytes,
}

/// What one read brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReadPart {
    pub(crate) records: Vec<Record>,
    /// Where to go on.
    pub(crate) next: Lsn,
    /// The committed end when it was answered.
    pub(crate) committed: Lsn,
}

/// What an embedder asks of a shard.
pub(crate) enum Command {
    Append { stream: u64, record: NewRecord, promise: Promise },
    Report { reply: SyncSender<Result<(), Error>> },
    Create { count: usize, reply: SyncSender<Result<Vec<u64>, Error>> },
    Read { stream: u64, from: Lsn, follow: bool, reply: SyncSender<Result<ReadPart, Error>> },
}

/// The way from any thread to one shard: a bounded queue and a doorbell.
pub(crate) struct ShardPort {
    queue: ArrayQueue<Command>,
    waker: OnceLock<Arc<dyn Wake>>,
}

impl ShardPort {
    pub(crate) fn new() -> ShardPort {
        ShardPort { queue: ArrayQueue::new(COMMANDS_MAX), waker: OnceLock::new() }
    }

    /// Called once by the shard when its ring is up.
    pub(crate) fn attach(&self, waker: Arc<dyn Wake>) {
        assert!(self.waker.set(waker).is_ok(), "one shard serves a port");
    }

    pub(crate) fn push(&self, command: Command) -> Result<(), Command> {
        self.queue.push(command)?;
        self.wake();
        Ok(())
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    pub(crate) fn pop(&self) -> Option<Command> {
        self.queue.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Asks and blocks for the answer.
    pub(crate) fn ask<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer): (_, Receiver<Result<T, Error>>) = sync_channel(1);
        if self.push(command(reply)).is_err() {
            return Err(Error::new(ErrorKind::Busy, "the shard's queue is full; try again"));
        }
        let gone = |_| Error::new(ErrorKind::Shutdown, "the shard stopped before it answered");
        answer.recv().map_err(gone)?
    }
}

/// An ordered, independent, replicated log. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Stream {
    id: u64,
    port: Arc<ShardPort>,
}

impl Stream {
    pub(crate) fn new(id: u64, port: Arc<ShardPort>) -> Stream {
        Stream { id, port }
    }

    /// The stream's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Appends one record of at most 1 MiB. The future says when it is durable on a majority.
    ///
    /// Never blocks: a full queue answers [`ErrorKind::Busy`] and nothing was appended.
    pub fn append(&self, payload: impl Into<Bytes>) -> AppendFuture {
        self.append_record(NewRecord { payload: payload.into(), ..NewRecord::default() })
    }

    /// Appends a record whose SCN is at least `scn`: it comes after whatever has that SCN in any
    /// stream. More than an hour above the node's clock is refused.
    pub fn append_after(&self, payload: impl Into<Bytes>, scn: u64) -> AppendFuture {
        let payload = payload.into();
        self.append_record(NewRecord { payload, scn_floor: scn, ..NewRecord::default() })
    }

    /// Appends several records; each has its own outcome, and they stand in this order.
    pub fn append_batch(&self, payloads: impl IntoIterator<Item = Bytes>) -> Vec<AppendFuture> {
        payloads.into_iter().map(|payload| self.append(payload)).collect()
    }

    /// Appends a record with everything that can be said about it.
    pub fn append_record(&self, record: NewRecord) -> AppendFuture {
        let (promise, future) = promise();
        if record.payload.len() > RECORD_BYTES_MAX {
            let text = format!(
                "a record of {} bytes is above the limit of {RECORD_BYTES_MAX}; split it",
                record.payload.len()
            );
            promise.settle(Err(Error::new(ErrorKind::TooLarge, text)));
            return future;
        }
        if let Err(Command::Append { promise, .. }) =
            self.port.push(Command::Append { stream: self.id, record, promise })
        {
            let text = format!("{COMMANDS_MAX} appends wait for the shard; try again");
            promise.settle(Err(Error::new(ErrorKind::Busy, text)));
        }
        future
    }

    /// Reads committed records from `from` on, up to what is committed when it gets there.
    pub fn reader(&self, from: Lsn) -> Reader {
        Reader::new(self.clone(), from, false)
    }

    /// Reads committed records from `from` on, for ever: at the end it waits for more.
    pub fn subscribe(&self, from: Lsn) -> Reader {
        Reader::new(self.clone(), from, true)
    }

    fn read(&self, from: Lsn, follow: bool) -> Result<ReadPart, Error> {
        let stream = self.id;
        self.port.ask(|reply| Command::Read { stream, from, follow, reply })
    }
}

/// Committed records of a stream, in order. Holds at most 256 KiB of them at a time.
pub struct Reader {
    stream: Stream,
    next: Lsn,
    follow: bool,
    ready: std::vec::IntoIter<Record>,
}

impl Reader {
    fn new(stream: Stream, from: Lsn, follow: bool) -> Reader {
        const { assert!(READ_BYTES_MAX <= 256 << 10) };
        Reader { stream, next: from, follow, ready: Vec::new().into_iter() }
    }

    /// Where the next read starts.
    pub fn position(&self) -> Lsn {
        self.ready.as_slice().first().map_or(self.next, |record| record.lsn)
    }
}

impl Iterator for Reader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Result<Record, Error>> {
        loop {
            if let Some(record) = self.ready.next() {
                return Some(Ok(record));
            }
            match self.stream.read(self.next, self.follow) {
                Err(error) => return Some(Err(error)),
                Ok(part) => {
                    let stuck = part.next == self.next && part.records.is_empty();
                    self.next = part.next;
                    self.ready = part.records.into_iter();
                    if stuck && !self.follow {
                        return None;
                    }
                }
            }
        }
    }
}
