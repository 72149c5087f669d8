//! A log stream as its embedder sees it, and the queue to the shard that owns it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::ThreadId;

use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use palisade_netio::Wake;
use palisade_wal::{Lsn, RECORD_BYTES_MAX};

use crate::append::{AppendFuture, Promise, promise};
use crate::control::{Controlled, RegistryView, Request};
use crate::error::{Error, ErrorKind};
use crate::limits::{COMMANDS_MAX, READ_BYTES_MAX};
use crate::stream::mark::Mark;

/// A record to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// The bytes.
    pub payload: Bytes,
    /// Who appends it; 0 for nobody. A producer's records are in the log at most once each, as
    /// long as the stream remembers it: a repetition is answered with the original place, or
    /// [`ErrorKind::Unknown`] when that is forgotten. 17,408 producers with newer records push it
    /// out, and so does a record of another that is a week of SCN newer: then it counts as new,
    /// and its sequence 1 would be taken again.
    pub producer: u64,
    /// The producer's number for it, from 1: one more than its last.
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
pub struct ReadPart {
    /// Committed records, in order.
    pub records: Vec<Record>,
    /// Where to go on.
    pub next: Lsn,
    /// The committed end when it was answered.
    pub committed: Lsn,
    /// The chain at `next`, where it is known: what stands there has to follow it.
    pub chain: Option<u64>,
}

/// An answer of a shard that its asker polls.
#[derive(Debug)]
pub struct Answer<T>(Receiver<Result<T, Error>>);

impl<T> Answer<T> {
    /// The answer, if it is there. It is given out once.
    ///
    /// # Errors
    /// In the option: what the shard says, or [`ErrorKind::Shutdown`] when it stopped before it
    /// answered.
    pub fn try_take(&self) -> Option<Result<T, Error>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(gone())),
        }
    }
}

/// What an embedder asks of a shard.
pub(crate) enum Command {
    Append {
        stream: u64,
        record: NewRecord,
        promise: Promise,
    },
    Report {
        reply: SyncSender<Result<(), Error>>,
    },
    Truncate {
        stream: u64,
        to: Lsn,
        reply: SyncSender<Result<(), Error>>,
    },
    Transfer {
        stream: u64,
        to: u32,
        reply: SyncSender<Result<u64, Error>>,
    },
    Create {
        count: usize,
        reply: SyncSender<Result<Vec<u64>, Error>>,
    },
    Mark {
        stream: u64,
        mark: Mark,
        reply: SyncSender<Result<(), Error>>,
    },
    Read {
        stream: u64,
        from: Lsn,
        /// The chain at `from`, if the asker has read what is below.
        after: Option<u64>,
        follow: bool,
        reply: SyncSender<Result<ReadPart, Error>>,
    },
    Control {
        request: Box<Request>,
        dry_run: bool,
        reply: SyncSender<Result<Controlled, Error>>,
    },
    Registry {
        reply: SyncSender<Result<RegistryView, Error>>,
    },
}

impl Command {
    /// Answers that it was not taken: nothing of it was, or will be, done.
    fn refuse(self, error: Error) {
        // Who no longer listens needs no answer.
        let _ = match self {
            Command::Append { promise, .. } => {
                promise.settle(Err(error));
                Ok(())
            }
            Command::Report { reply }
            | Command::Truncate { reply, .. }
            | Command::Mark { reply, .. } => reply.send(Err(error)).map_err(drop),
            Command::Transfer { reply, .. } => reply.send(Err(error)).map_err(drop),
            Command::Create { reply, .. } => reply.send(Err(error)).map_err(drop),
            Command::Read { reply, .. } => reply.send(Err(error)).map_err(drop),
            Command::Control { reply, .. } => reply.send(Err(error)).map_err(drop),
            Command::Registry { reply } => reply.send(Err(error)).map_err(drop),
        };
    }
}

/// The way from any thread to one shard: a bounded queue and a doorbell.
pub struct ShardPort {
    queue: ArrayQueue<Command>,
    waker: OnceLock<Arc<dyn Wake>>,
    stopping: AtomicBool,
    closed: AtomicBool,
    /// The thread that drives the shard, if its owner does.
    driver: OnceLock<ThreadId>,
    /// Nothing new is taken: the node is about to stop.
    refusing: AtomicBool,
    /// Who waits until what was taken has its outcome.
    drained: Mutex<Option<SyncSender<()>>>,
    /// Why it is closed; set before that.
    why: OnceLock<Error>,
}

impl Default for ShardPort {
    fn default() -> ShardPort {
        ShardPort::new()
    }
}

impl ShardPort {
    /// A port that its shard takes at [`Shard::new`](crate::shard::Shard::new).
    pub fn new() -> ShardPort {
        let (queue, waker) = (ArrayQueue::new(COMMANDS_MAX), OnceLock::new());
        ShardPort {
            queue,
            waker,
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            driver: OnceLock::new(),
            refusing: AtomicBool::new(false),
            drained: Mutex::new(None),
            why: OnceLock::new(),
        }
    }

    /// Asks the shard to stop. It looks at this after arming its doorbell, so that a wake just
    /// before that is not lost.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// From now on nothing new is taken. What comes back hears when everything that was taken
    /// before has its outcome, or ends when the shard does.
    pub(crate) fn drain(&self) -> Receiver<()> {
        let (told, hears) = sync_channel(1);
        *self.waiting() = Some(told);
        self.refusing.store(true, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            *self.waiting() = None;
        }
        self.wake();
        hears
    }

    /// Whether nothing new is taken.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::SeqCst)
    }

    /// Whether somebody waits until what was taken has its outcome.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_refusing() && self.waiting().is_some()
    }

    /// Everything that was taken has its outcome.
    pub(crate) fn tell_drained(&self) {
        if let Some(told) = self.waiting().take() {
            let _ = told.try_send(());
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<SyncSender<()>>> {
        self.drained.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The calling thread drives the shard.
    pub(crate) fn set_driver(&self) {
        let _ = self.driver.set(std::thread::current().id());
    }

    /// Asks for committed records of a stream from `from` on: at most 256 KiB, what is committed
    /// when the shard gets there.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the queue is full.
    pub fn read(&self, stream: u64, from: Lsn) -> Result<Answer<ReadPart>, Error> {
        let (after, follow) = (None, false);
        self.request(|reply| Command::Read { stream, from, after, follow, reply })
    }

    /// Says that nothing of a stream below `to` is needed on this node, as
    /// [`Stream::truncate_to`] does.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the queue is full.
    pub fn truncate_to(&self, stream: u64, to: Lsn) -> Result<Answer<()>, Error> {
        self.request(|reply| Command::Truncate { stream, to, reply })
    }

    /// Asks for `count` new streams. Only the shard of the catalogue on the node that leads it
    /// can make them.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the queue is full.
    pub fn create_streams(&self, count: usize) -> Result<Answer<Vec<u64>>, Error> {
        self.request(|reply| Command::Create { count, reply })
    }

    /// Asks the leader of a stream, which must be this node, to hand over to the node `to`: the
    /// round of its ballot, once that leads.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the queue is full.
    pub fn transfer_leader(&self, stream: u64, to: u32) -> Result<Answer<u64>, Error> {
        self.request(|reply| Command::Transfer { stream, to, reply })
    }

    /// Asks for a change of the registry of clusters or of the protection mode. Only the shard of
    /// the catalogue on the node that leads it at the primary can make one.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the queue is full.
    pub fn control(&self, request: Request) -> Result<Answer<Controlled>, Error> {
        let request = Box::new(request);
        self.request(|reply| Command::Control { request, dry_run: false, reply })
    }

    /// Called once by the shard when its ring is up.
    pub(crate) fn attach(&self, waker: Arc<dyn Wake>) {
        assert!(self.waker.set(waker).is_ok(), "one shard serves a port");
    }

    pub(crate) fn push(&self, command: Command) -> Result<(), Command> {
        if self.is_over() || self.is_refusing() {
            return Err(command);
        }
        self.queue.push(command)?;
        if self.closed.load(Ordering::SeqCst) {
            // The shard ended meanwhile, and nobody else may look into the queue again.
            self.refuse_queued();
        }
        self.wake();
        Ok(())
    }

    /// The shard takes nothing any more: who waits in the queue is answered, who comes is refused.
    /// The first reason stays.
    pub(crate) fn close(&self, why: Error) {
        let _ = self.why.set(why);
        self.closed.store(true, Ordering::SeqCst);
        self.refuse_queued();
        *self.waiting() = None;
    }

    fn refuse_queued(&self) {
        while let Some(command) = self.queue.pop() {
            command.refuse(self.refusal("the shard's queue is full; try again"));
        }
    }

    fn is_over(&self) -> bool {
        self.closed.load(Ordering::SeqCst) || self.is_stopping()
    }

    /// Why a command was not taken.
    fn refusal(&self, busy: &str) -> Error {
        match self.why.get() {
            Some(why) => why.clone(),
            None if self.is_over() || self.is_refusing() => {
                Error::new(ErrorKind::Shutdown, "the shard stops")
            }
            None => Error::new(ErrorKind::Busy, busy),
        }
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

    pub(crate) fn request<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T, Error>>) -> Command,
    ) -> Result<Answer<T>, Error> {
        let (reply, answer) = sync_channel(1);
        if self.push(command(reply)).is_err() {
            return Err(self.refusal("the shard's queue is full; try again"));
        }
        Ok(Answer(answer))
    }

    /// Asks and blocks for the answer.
    pub(crate) fn ask<T>(
        &self,
        command: impl FnOnce(SyncSender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        if self.driver.get().is_some_and(|driver| *driver == std::thread::current().id()) {
            let text = "this thread drives the shard, which could not answer while it waits: ask \
                        through the ShardDriver, or from another thread";
            return Err(Error::new(ErrorKind::WouldBlock, text));
        }
        self.request(command)?.0.recv().map_err(|_| gone())?
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Shutdown, "the shard stopped before it answered")
}

/// An ordered, independent, replicated log. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Stream {
    id: u64,
    port: Arc<ShardPort>,
}

impl Stream {
    /// A stream behind the port of the shard that owns it.
    pub fn new(id: u64, port: Arc<ShardPort>) -> Stream {
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
            promise.settle(Err(self.port.refusal(&text)));
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

    /// Says that this node's readers need nothing below `lsn` any more: reads below it are
    /// answered [`ErrorKind::Recycled`], also after a restart. Local to this replica, at most what
    /// its readers are shown; never goes back.
    ///
    /// # Errors
    /// `lsn` is above what readers are shown here, or no record can start there.
    pub fn truncate_to(&self, lsn: Lsn) -> Result<(), Error> {
        let stream = self.id;
        self.port.ask(|reply| Command::Truncate { stream, to: lsn, reply })
    }

    /// Hands the leadership of this stream from this node to the node `to`, and waits until that
    /// leads: the round of its ballot. Appends wait for milliseconds, or are refused with
    /// [`ErrorKind::NotLeader`]; what was taken keeps its outcome. The successor keeps what it
    /// leads although another member may be preferred.
    ///
    /// # Errors
    /// [`ErrorKind::NotLeader`] when this node does not lead; [`ErrorKind::NotMember`],
    /// [`ErrorKind::NotUp`], [`ErrorKind::Behind`] or [`ErrorKind::LeadsAlready`] for what is said
    /// of the successor; [`ErrorKind::Busy`] while it goes to another; [`ErrorKind::TimedOut`]
    /// when it does not lead in time.
    pub fn transfer_leader(&self, to: u32) -> Result<u64, Error> {
        let stream = self.id;
        self.port.ask(|reply| Command::Transfer { stream, to, reply })
    }

    /// Writes a sync mark into this stream, which this node must lead, before the records that
    /// wait for a group. For who decides on the level of protection, and for tests.
    ///
    /// # Errors
    /// [`ErrorKind::NotLeader`] or [`ErrorKind::Standby`] when this node does not take appends for
    /// the stream.
    #[doc(hidden)]
    pub fn write_mark(&self, mark: Mark) -> Result<(), Error> {
        let stream = self.id;
        self.port.ask(|reply| Command::Mark { stream, mark, reply })
    }

    fn read(&self, from: Lsn, after: Option<u64>, follow: bool) -> Result<ReadPart, Error> {
        let stream = self.id;
        self.port.ask(|reply| Command::Read { stream, from, after, follow, reply })
    }
}

/// Committed records of a stream, in order. Holds at most 256 KiB of them at a time.
pub struct Reader {
    stream: Stream,
    next: Lsn,
    /// The chain at `next`, once something was read.
    chain: Option<u64>,
    follow: bool,
    ready: std::vec::IntoIter<Record>,
    failed: bool,
}

impl Reader {
    fn new(stream: Stream, from: Lsn, follow: bool) -> Reader {
        const { assert!(READ_BYTES_MAX <= 256 << 10) };
        let ready = Vec::new().into_iter();
        Reader { stream, next: from, chain: None, follow, ready, failed: false }
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
            if self.failed {
                return None;
            }
            match self.stream.read(self.next, self.chain, self.follow) {
                Err(error) => {
                    // Another try would end the same way, unless the error says otherwise.
                    self.failed = !error.is_retryable();
                    return Some(Err(error));
                }
                Ok(part) => {
                    let stuck = part.next == self.next && part.records.is_empty();
                    (self.next, self.chain) = (part.next, part.chain);
                    self.ready = part.records.into_iter();
                    if stuck && !self.follow {
                        return None;
                    }
                }
            }
        }
    }
}
