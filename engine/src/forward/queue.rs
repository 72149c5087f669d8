//! The bounded queues between a log shard and the forwarder.
//!
//! The shard (a plain thread) holds a [`ForwardPort`], the forwarder the [`ForwarderSide`]. A
//! full queue never stops the shard: a `Tail` that does not fit is dropped, and the forwarder
//! asks for the bytes later; a `Committed` or `StreamGone` that does not fit is remembered in
//! the port, merged by stream, until it fits. Only streams that somebody reads are published.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam::queue::ArrayQueue;
use palisade_netio::{Handle, Hello, SlotView, Wake};
use palisade_wal::{Ballot, Expect, Lsn};

use super::limits::{EVENTS_MAX, FACTS_MAX, LOCATES_MAX, REQUESTS_MAX};
use super::sender::ReaderId;
use crate::control::Registry;
use crate::paxos::Closed;
use crate::status::CompressionStatus;
use crate::transfer::{Facts, Question};

/// A socket that is handed over; whoever holds it closes it.
#[derive(Debug)]
pub enum Socket {
    /// Accepted by a ring.
    Ring(Handle),
    /// Accepted by the standard library.
    Std(std::net::TcpStream),
}

/// What a shard tells the forwarder.
#[derive(Debug)]
pub enum ForwardEvent {
    /// A reader connected and said its hello.
    Connection {
        /// The connection; exactly the hello was read from it.
        socket: Socket,
        /// What it said.
        hello: Hello,
    },
    /// The committed end of a stream moved.
    Committed {
        /// The stream.
        stream: u64,
        /// The committed end.
        upto: Lsn,
        /// Readers of no other cluster see what is below; none: all that is committed.
        shown: Option<Lsn>,
        /// First byte still kept.
        base: Lsn,
    },
    /// Records that were just committed.
    Tail(Recent),
    /// The stream is no longer here, or committed bytes of it were voided: readers start again.
    StreamGone {
        /// The stream.
        stream: u64,
    },
}

/// Committed records of one stream, in order and without a gap, as they stand in a block body.
#[derive(Clone, Debug)]
pub struct Recent {
    /// The stream.
    pub stream: u64,
    /// Start of the first group.
    pub start: Lsn,
    /// End of the last group.
    pub end: Lsn,
    /// Record headers, groups and pads.
    pub records: SlotView,
}

/// What the forwarder asks of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardRequest {
    /// Where are these bytes?
    Locate(LocateRequest),
    /// A standby's question about streams of this shard.
    Ask {
        /// Who is to get the answer.
        reader: ReaderId,
        /// What it asks.
        question: Box<Question>,
    },
    /// Somebody reads this stream: publish it.
    Watch {
        /// The stream.
        stream: u64,
    },
    /// Nobody reads this stream any more.
    Unwatch {
        /// The stream.
        stream: u64,
    },
}

/// "Where are the bytes of `stream` from `from` on?"
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocateRequest {
    /// Comes back in the answer.
    pub id: u64,
    /// The stream.
    pub stream: u64,
    /// The group that holds this byte, and what follows it.
    pub from: Lsn,
    /// About so many bytes are wanted; at least one group is.
    pub max_bytes: u32,
    /// Where they should be they are not, or are damaged: the shard looks itself, and repairs.
    pub missed: bool,
    /// What is wanted where they are let go.
    pub depth: Depth,
    /// The chain at `from` in the log that a base is for; else 0.
    pub chain: u64,
}

/// How far down a log is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Depth {
    /// As far as readers are shown it.
    #[default]
    Shown,
    /// As far as it is kept: by standbys.
    Kept,
    /// Further: what is not kept any more a base stands for.
    Based,
}

/// The answer to a [`LocateRequest`].
#[derive(Clone, Debug)]
pub struct Reply {
    /// Of the request.
    pub id: u64,
    /// Of the request.
    pub stream: u64,
    /// Committed end, also when the bytes are not here.
    pub committed: Lsn,
    /// Readers of no other cluster see what is below; none: all that is committed.
    pub shown: Option<Lsn>,
    /// First byte still kept.
    pub base: Lsn,
    /// Where the bytes are.
    pub located: Located,
}

/// Where bytes are. Taken from the shard's extents, so that a voided byte is never named.
#[derive(Clone, Debug)]
pub enum Located {
    /// In sealed segments: blocks in stream order, at most
    /// [`EXTENTS_MAX`](super::limits::EXTENTS_MAX), the first with the group that was asked for.
    Sealed(Vec<SealedExtent>),
    /// Committed records in memory, the first group the one that was asked for.
    Active(Recent),
    /// Not committed yet.
    NotYet,
    /// Below the base. What stands for it, if that was asked for.
    Recycled(Option<Recent>),
    /// No such stream.
    Unknown,
    /// The shard has no room for the answer now; ask again later.
    Busy,
    /// The bytes should be here and cannot be read.
    Damaged,
}

/// The part of a stream in one block of a sealed segment.
#[derive(Clone, Debug)]
pub struct SealedExtent {
    /// The file.
    pub path: Arc<Path>,
    /// Keeps the segment from being reused.
    pub lease: Lease,
    /// Whose block this is and where in the segment its head is.
    pub expect: Expect,
    /// Start of the first group.
    pub start: Lsn,
    /// End of the last group.
    pub end: Lsn,
    /// Ballot of the records' headers: other records of the stream in the block are void.
    pub ballot: Ballot,
}

/// Keeps a sealed segment in place while the forwarder may read it. The shard keeps one per
/// segment and clones it into answers; the segment may be reused when nobody else holds one.
#[derive(Clone, Debug, Default)]
pub struct Lease(Arc<()>);

impl Lease {
    /// A lease that nobody else holds.
    pub fn new() -> Lease {
        Lease::default()
    }

    /// Whether anybody else holds a clone. When false, everything they did is over.
    pub fn is_held(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_none()
    }
}

struct Shared {
    events: ArrayQueue<ForwardEvent>,
    replies: ArrayQueue<Reply>,
    requests: ArrayQueue<ForwardRequest>,
    facts: ArrayQueue<(ReaderId, Facts)>,
    /// Set by the port when something waits for room in `events`.
    overflow: AtomicBool,
    /// Tail events that did not fit.
    dropped: AtomicU64,
    /// Questions of standbys that the shard has not taken up.
    asks: AtomicUsize,
    role_epoch: AtomicU64,
    /// Who may be served, by the newest catalogue; counted, so that a look costs no lock.
    registry: Mutex<Arc<Registry>>,
    registry_set: AtomicU64,
    /// What is closed in the streams that somebody reads; counted too.
    scns: Mutex<Arc<BTreeMap<u64, Closed>>>,
    scns_set: AtomicU64,
    /// Other clusters take streams here.
    scns_wanted: AtomicBool,
    feeds: Mutex<(Vec<Feed>, Option<CompressionStatus>)>,
    /// The forwarder is gone.
    closed: AtomicBool,
    waker: OnceLock<Arc<dyn Wake>>,
    bell: OnceLock<Arc<dyn Wake>>,
}

impl Shared {
    fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

/// Both ends of the queues between one shard and the forwarder.
pub fn port() -> (ForwardPort, ForwarderSide) {
    let shared = Arc::new(Shared {
        events: ArrayQueue::new(EVENTS_MAX),
        replies: ArrayQueue::new(LOCATES_MAX),
        requests: ArrayQueue::new(REQUESTS_MAX),
        facts: ArrayQueue::new(FACTS_MAX),
        overflow: AtomicBool::new(false),
        dropped: AtomicU64::new(0),
        asks: AtomicUsize::new(0),
        role_epoch: AtomicU64::new(0),
        registry: Mutex::default(),
        registry_set: AtomicU64::new(0),
        scns: Mutex::default(),
        scns_set: AtomicU64::new(0),
        scns_wanted: AtomicBool::new(false),
        feeds: Mutex::default(),
        closed: AtomicBool::new(false),
        waker: OnceLock::new(),
        bell: OnceLock::new(),
    });
    let port = ForwardPort {
        shared: shared.clone(),
        watched: HashSet::new(),
        questions: VecDeque::new(),
        missed: BTreeMap::new(),
        tells_closed: false,
        rung: true,
    };
    (port, ForwarderSide { shared, registry_seen: 0, closed_seen: 0 })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Missed {
    gone: bool,
    committed: Option<Missing>,
}

/// The committed end, what is shown, and the base.
type Missing = (Lsn, Option<Lsn>, Lsn);

/// The shard's end.
pub struct ForwardPort {
    shared: Arc<Shared>,
    /// Streams that somebody reads; bounded by the forwarder's limit of cursors.
    watched: HashSet<u64>,
    /// Standbys' questions that were taken out and not answered yet; as many as there were.
    questions: VecDeque<(ReaderId, Question)>,
    /// What did not fit, of watched streams only.
    missed: BTreeMap<u64, Missed>,
    /// What is closed was told, of the streams that are read now.
    tells_closed: bool,
    rung: bool,
}

impl ForwardPort {
    /// Says how the forwarder wakes this shard. Once, when the shard's ring is made.
    pub fn set_waker(&mut self, waker: Arc<dyn Wake>) {
        let _ = self.shared.waker.set(waker);
    }

    /// Says the role epoch that chunks carry.
    pub fn set_role_epoch(&mut self, epoch: u64) {
        self.shared.role_epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Says which clusters may be served. Never lost, and only the newest counts.
    pub fn set_registry(&mut self, registry: Arc<Registry>) {
        *lock(&self.shared.registry) = registry;
        self.shared.registry_set.fetch_add(1, Ordering::SeqCst);
        self.rung = false;
        self.flush();
    }

    /// Whether another cluster wants to know what is closed, in streams of which it was not told:
    /// say it by [`set_closed`](ForwardPort::set_closed).
    pub fn lacks_closed(&self) -> bool {
        !self.tells_closed && self.tells_clusters()
    }

    /// Whether another cluster ever took streams here.
    pub fn tells_clusters(&self) -> bool {
        self.shared.scns_wanted.load(Ordering::Relaxed)
    }

    /// The streams that somebody reads.
    pub fn watched(&self) -> impl Iterator<Item = u64> {
        self.watched.iter().copied()
    }

    /// Says what is closed in the streams that somebody reads. Only the newest counts.
    pub fn set_closed(&mut self, closed: BTreeMap<u64, Closed>) {
        *lock(&self.shared.scns) = Arc::new(closed);
        self.shared.scns_set.fetch_add(1, Ordering::SeqCst);
        self.tells_closed = true;
        self.rung = false;
        self.flush();
    }

    /// What other clusters take here, as last reported.
    pub fn feeds(&self) -> Vec<Feed> {
        lock(&self.shared.feeds).0.clone()
    }

    /// What of that went compressed.
    pub fn compression(&self) -> Option<CompressionStatus> {
        lock(&self.shared.feeds).1
    }

    /// Whether anybody reads the stream; if not, publishing for it is a waste of time.
    pub fn wants(&self, stream: u64) -> bool {
        self.watched.contains(&stream)
    }

    /// Tells the forwarder something. Never waits. Call [`flush`](ForwardPort::flush) once at the
    /// end of the turn.
    ///
    /// # Errors
    /// A `Connection` comes back when there is no room or no forwarder; close it. Nothing else
    /// ever comes back.
    pub fn publish(&mut self, event: ForwardEvent) -> Result<(), ForwardEvent> {
        if self.shared.closed.load(Ordering::Acquire) {
            return match event {
                ForwardEvent::Connection { .. } => Err(event),
                _ => Ok(()),
            };
        }
        let stream = match &event {
            ForwardEvent::Connection { .. } => {
                self.rung = false;
                return self.shared.events.push(event);
            }
            ForwardEvent::Committed { stream, .. } | ForwardEvent::StreamGone { stream } => *stream,
            ForwardEvent::Tail(recent) => recent.stream,
        };
        if !self.wants(stream) {
            return Ok(());
        }
        self.rung = false;
        // Whatever waits already goes first, so that the events of a stream keep their order.
        if self.missed.contains_key(&stream) {
            self.miss(event);
        } else if let Err(event) = self.shared.events.push(event) {
            self.miss(event);
        }
        Ok(())
    }

    fn miss(&mut self, event: ForwardEvent) {
        match event {
            ForwardEvent::Connection { .. } => {}
            ForwardEvent::Committed { stream, upto, shown, base } => {
                self.missed.entry(stream).or_default().committed = Some((upto, shown, base));
            }
            ForwardEvent::StreamGone { stream } => {
                self.missed.insert(stream, Missed { gone: true, committed: None });
            }
            ForwardEvent::Tail(recent) => {
                let missed = self.missed.entry(recent.stream).or_default();
                // Readers see nothing of it before they are told how far.
                let (_, shown, base) =
                    missed.committed.unwrap_or((Lsn::ZERO, Some(Lsn::ZERO), Lsn::ZERO));
                missed.committed = Some((recent.end, shown, base));
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Sends what did not fit before and rings the forwarder if it sleeps. Once a turn.
    pub fn flush(&mut self) {
        while let Some((&stream, _)) = self.missed.iter().next() {
            let missed = self.missed.remove(&stream).expect("it was just found");
            if let Some(rest) = self.push_missed(stream, missed) {
                self.missed.insert(stream, rest);
                // The forwarder wakes this shard when it made room; look once more after saying
                // so, in case it made room just before.
                let asked = self.shared.overflow.swap(true, Ordering::SeqCst);
                if asked || self.shared.events.is_full() {
                    break;
                }
            }
        }
        if !std::mem::replace(&mut self.rung, true) {
            self.shared.ring();
        }
    }

    fn push_missed(&mut self, stream: u64, missed: Missed) -> Option<Missed> {
        self.rung = false;
        if missed.gone && self.shared.events.push(ForwardEvent::StreamGone { stream }).is_err() {
            return Some(missed);
        }
        let (upto, shown, base) = missed.committed?;
        let event = ForwardEvent::Committed { stream, upto, shown, base };
        self.shared.events.push(event).err().map(|_| Missed { gone: false, ..missed })
    }

    /// The next question of the forwarder; [`reply`](ForwardPort::reply) to each, in any order.
    /// Call until none, once a turn.
    pub fn poll_request(&mut self) -> Option<LocateRequest> {
        while let Some(request) = self.shared.requests.pop() {
            match request {
                ForwardRequest::Locate(request) => return Some(request),
                ForwardRequest::Ask { reader, question } => {
                    self.questions.push_back((reader, *question));
                }
                ForwardRequest::Watch { stream } => {
                    self.watched.insert(stream);
                    self.tells_closed = false;
                }
                ForwardRequest::Unwatch { stream } => {
                    self.watched.remove(&stream);
                    self.missed.remove(&stream);
                }
            }
        }
        self.flush();
        None
    }

    /// The next question of a standby, after [`poll_request`](ForwardPort::poll_request).
    pub fn poll_question(&mut self) -> Option<(ReaderId, Question)> {
        let question = self.questions.pop_front()?;
        self.shared.asks.fetch_sub(1, Ordering::Relaxed);
        Some(question)
    }

    /// Answers it. Without room the answer is dropped: the standby asks again.
    pub fn answer(&mut self, reader: ReaderId, facts: Facts) {
        let _ = self.shared.facts.push((reader, facts));
        self.rung = false;
    }

    /// Whether the forwarder asked something: to be looked at after arming, before sleeping.
    pub fn has_requests(&self) -> bool {
        !self.shared.requests.is_empty()
    }

    /// Answers a question. There is always room for an answer to an open question.
    pub fn reply(&mut self, reply: Reply) {
        let pushed = self.shared.replies.push(reply);
        assert!(pushed.is_ok() || self.is_closed(), "an answer without a question");
        self.rung = false;
        self.flush();
    }

    /// Whether the forwarder is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Tail events that were dropped because the forwarder was slow.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// What the forwarder sends to one other cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Feed {
    /// The cluster.
    pub cluster: u32,
    /// Its connections.
    pub connections: u32,
    /// Committed bytes of the streams that it reads here that were not sent to it yet.
    pub lag_bytes: u64,
    /// How long it has been behind, in microseconds.
    pub lag_us: u64,
}

/// The forwarder's end. Dropping it closes the port.
pub struct ForwarderSide {
    shared: Arc<Shared>,
    registry_seen: u64,
    closed_seen: u64,
}

impl ForwarderSide {
    /// Says what wakes the forwarder. Once.
    pub fn set_bell(&mut self, bell: Arc<dyn Wake>) {
        let _ = self.shared.bell.set(bell);
    }

    /// The next answer.
    pub fn pop_reply(&mut self) -> Option<Reply> {
        self.shared.replies.pop()
    }

    /// The next answer to a standby.
    pub fn pop_facts(&mut self) -> Option<(ReaderId, Facts)> {
        self.shared.facts.pop()
    }

    /// The next event.
    pub fn pop_event(&mut self) -> Option<ForwardEvent> {
        let event = self.shared.events.pop()?;
        if self.shared.overflow.load(Ordering::SeqCst) && self.shared.events.is_empty() {
            self.shared.overflow.store(false, Ordering::SeqCst);
            self.shared.wake();
        }
        Some(event)
    }

    /// Whether nothing waits here. To be looked at after arming the bell, before sleeping.
    pub fn is_empty(&self) -> bool {
        fence(Ordering::SeqCst);
        let seen = self.shared.registry_set.load(Ordering::SeqCst) == self.registry_seen;
        let Shared { events, replies, facts, .. } = &*self.shared;
        let closed_seen = self.shared.scns_set.load(Ordering::SeqCst) == self.closed_seen;
        let told = seen && closed_seen;
        events.is_empty() && replies.is_empty() && facts.is_empty() && told
    }

    /// The registry of clusters, if it was set since the last call.
    pub fn pop_registry(&mut self) -> Option<Arc<Registry>> {
        let set = self.shared.registry_set.load(Ordering::SeqCst);
        if set == self.registry_seen {
            return None;
        }
        self.registry_seen = set;
        Some(lock(&self.shared.registry).clone())
    }

    /// What is closed in the streams of the shard, if it was set since the last call.
    pub fn pop_closed(&mut self) -> Option<Arc<BTreeMap<u64, Closed>>> {
        let set = self.shared.scns_set.load(Ordering::SeqCst);
        if set == self.closed_seen {
            return None;
        }
        self.closed_seen = set;
        Some(lock(&self.shared.scns).clone())
    }

    /// Another cluster takes streams here: it is to hear what is closed.
    pub fn want_closed(&self) {
        if !self.shared.scns_wanted.swap(true, Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Says what other clusters take here, and what of that went compressed.
    pub fn set_feeds(&mut self, feeds: &[Feed], compression: Option<CompressionStatus>) {
        let mut known = lock(&self.shared.feeds);
        if known.0 != feeds {
            known.0 = feeds.to_vec();
        }
        known.1 = compression;
    }

    /// Asks the shard; call [`wake`](ForwarderSide::wake) after the last one.
    ///
    /// # Errors
    /// The request comes back when there is no room.
    pub fn request(&mut self, request: ForwardRequest) -> Result<(), ForwardRequest> {
        // Counted first: the shard may have it at once.
        let asks = usize::from(matches!(request, ForwardRequest::Ask { .. }));
        self.shared.asks.fetch_add(asks, Ordering::Relaxed);
        let pushed = self.shared.requests.push(request);
        if pushed.is_err() {
            self.shared.asks.fetch_sub(asks, Ordering::Relaxed);
        }
        pushed
    }

    /// Questions of standbys that the shard has not taken up.
    pub fn asks_waiting(&self) -> usize {
        self.shared.asks.load(Ordering::Relaxed)
    }

    /// Wakes the shard if it sleeps.
    pub fn wake(&self) {
        self.shared.wake();
    }

    /// The role epoch that the shard knows.
    pub fn role_epoch(&self) -> u64 {
        self.shared.role_epoch.load(Ordering::Relaxed)
    }

    /// Tail events that did not fit.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for ForwarderSide {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Views go back to their pool and sockets are closed now, not when the shard ends.
        while self.shared.replies.pop().is_some() {}
        while let Some(event) = self.shared.events.pop() {
            if let ForwardEvent::Connection { socket, .. } = event {
                socket.close();
            }
        }
        self.shared.wake();
    }
}

impl Socket {
    /// The connection as the standard library's type.
    pub fn into_std(self) -> std::net::TcpStream {
        match self {
            Socket::Ring(handle) => palisade_netio::adopt_tcp(handle),
            Socket::Std(stream) => stream,
        }
    }

    /// Closes it.
    pub fn close(self) {
        drop(self.into_std());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn committed(stream: u64, upto: u64) -> ForwardEvent {
        ForwardEvent::Committed { stream, upto: Lsn(upto), shown: None, base: Lsn(0) }
    }

    #[test]
    fn nothing_of_unwatched_streams_is_published() {
        let (mut port, mut side) = port();
        port.publish(committed(1, 8)).unwrap();
        assert!(side.pop_event().is_none());
        side.request(ForwardRequest::Watch { stream: 1 }).unwrap();
        assert_eq!(port.poll_request(), None);
        port.publish(committed(1, 16)).unwrap();
        assert!(matches!(side.pop_event(), Some(ForwardEvent::Committed { upto: Lsn(16), .. })));
    }

    #[test]
    fn a_full_queue_forgets_no_committed_end_and_wakes_the_shard() {
        let (mut port, mut side) = port();
        let count = Arc::new(Count::default());
        port.set_waker(count.clone());
        for stream in [1, 2] {
            side.request(ForwardRequest::Watch { stream }).unwrap();
        }
        assert_eq!(port.poll_request(), None);
        for upto in 0..EVENTS_MAX as u64 + 50 {
            port.publish(committed(1, upto * 8)).unwrap();
        }
        port.publish(ForwardEvent::StreamGone { stream: 2 }).unwrap();
        port.publish(committed(2, 8)).unwrap();
        port.flush();
        let mut last = Lsn(0);
        let mut seen = Vec::new();
        for _ in 0..2 {
            while let Some(event) = side.pop_event() {
                match event {
                    ForwardEvent::Committed { stream: 1, upto, .. } => {
                        assert!(upto >= last);
                        last = upto;
                    }
                    other => seen.push(format!("{other:?}")),
                }
            }
            port.flush();
        }
        assert_eq!(last, Lsn((EVENTS_MAX as u64 + 49) * 8));
        assert!(seen.len() == 2 && seen[0].starts_with("StreamGone"), "{seen:?}");
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_lease_is_held_until_the_last_clone_is_dropped() {
        let mut lease = Lease::new();
        let given = lease.clone();
        assert!(lease.is_held());
        std::thread::spawn(move || drop(given)).join().unwrap();
        assert!(!lease.is_held());
    }

    #[test]
    fn a_port_without_forwarder_refuses_connections_only() {
        let (mut port, side) = port();
        drop(side);
        assert!(port.is_closed());
        assert!(port.publish(committed(1, 8)).is_ok());
    }
}
