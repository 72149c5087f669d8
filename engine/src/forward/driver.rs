//! The forwarding shard's thread: moves events, bytes and answers, and decides nothing.
//!
//! One executor. Its tasks: the pump (queues of the shards, turns of the readers), the clock, one
//! per connection, and one per read of a sealed segment that may wait for the disk. When it stops,
//! every task is awaited and every socket closed before the executor returns.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_lite::AsyncRead;
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use palisade_netio::{FileMap, Hello, Identity, Nanos, Refusal, RefusalCode, Welcome};

use super::connection::{Bell, Body, Outbox, Report, serve};
use super::cursor::Source;
use super::cut::NoCut;
use super::doorbell::Doorbell;
use super::limits::{EVENTS_PER_TURN, STALL_NS, STOP_NS, TURNS_MAX};
use super::maps::{Mapped, Maps};
use super::queue::{ForwardEvent, ForwardRequest, ForwarderSide, SealedExtent, Socket};
use super::sender::{Effect, Limits, ReaderId, Readers, Route, Stats};
use super::wire::FromReader;

/// Bytes that the executor's own buffers take; the forwarder uses none of them.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Entries of each of the executor's three rings.
const RING_DEPTH: usize = 128;

/// Why a forwarder does not run.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Its thread or executor cannot start.
    #[error("the forwarding shard cannot start (locked memory needs 512 KiB): {0}")]
    Start(String),
    /// Its thread ended by a panic.
    #[error("the forwarding shard failed: {0}")]
    Failed(String),
}

/// What a forwarder needs to know.
#[derive(Clone, Debug)]
pub struct ForwarderConfig {
    /// Who this node is, for the welcome of connections that were not welcomed yet.
    pub identity: Identity,
    /// Which of the ports owns a stream.
    pub route: Route,
    /// The CPU to run on, if any.
    pub cpu: Option<usize>,
    /// Bounds.
    pub limits: Limits,
}

/// Makes forwarders.
#[derive(Debug)]
pub struct Forwarder;

impl Forwarder {
    /// Starts the forwarding thread over one port per log shard, in the order of the shards.
    ///
    /// # Errors
    /// When the thread, its rings or its descriptors cannot be made.
    pub fn spawn(
        mut ports: Vec<ForwarderSide>,
        config: ForwarderConfig,
    ) -> Result<ForwarderHandle, ForwardError> {
        let start = |error: &dyn std::fmt::Display| ForwardError::Start(error.to_string());
        let (bell, heard) = Doorbell::new().map_err(|error| start(&error))?;
        let bell = Arc::new(bell);
        ports.iter_mut().for_each(|port| port.set_bell(bell.clone()));
        let shared = Arc::new(Shared::default());
        let (ready, started) = crossbeam::channel::bounded(1);
        let (thread_bell, thread_shared) = (bell.clone(), shared.clone());
        let placement = config.cpu.map_or(Placement::Unbound, Placement::Fixed);
        let thread = LocalExecutorBuilder::new(placement)
            .name("palisade-fwd")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .spawn(move || async move {
                let _ = ready.send(());
                run(ports, config, thread_bell, heard, thread_shared).await;
            })
            .map_err(|error| start(&error))?;
        if started.recv().is_err() {
            let why = thread.join().err().map_or("ended".into(), |error| error.to_string());
            return Err(start(&why));
        }
        Ok(ForwarderHandle { bell, shared, thread: Some(thread) })
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    stats: Mutex<Stats>,
}

/// A running forwarder. Dropping it stops it.
pub struct ForwarderHandle {
    bell: Arc<Doorbell>,
    shared: Arc<Shared>,
    thread: Option<ExecutorJoinHandle<()>>,
}

impl ForwarderHandle {
    /// Ends all streams and connections, and waits for the thread.
    ///
    /// # Errors
    /// When the thread had failed.
    pub fn stop(mut self) -> Result<(), ForwardError> {
        self.join()
    }

    /// Counters, as of the last turn.
    pub fn stats(&self) -> Stats {
        *self.shared.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn join(&mut self) -> Result<(), ForwardError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.shared.stop.store(true, Ordering::SeqCst);
        self.bell.ring_always();
        thread.join().map_err(|error| ForwardError::Failed(error.to_string()))
    }
}

impl Drop for ForwarderHandle {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

struct Port {
    side: ForwarderSide,
    /// Requests that found no room.
    backlog: VecDeque<ForwardRequest>,
}

struct Inner {
    config: ForwarderConfig,
    start: Instant,
    readers: RefCell<Readers>,
    ports: RefCell<Vec<Port>>,
    outboxes: RefCell<BTreeMap<ReaderId, Rc<Outbox>>>,
    maps: RefCell<Maps>,
    effects: RefCell<Vec<Effect>>,
    /// Wakes the pump.
    bell: Bell,
    /// Wakes the clock.
    clock_bell: Bell,
    /// Connections and reads that have a task.
    tasks: Cell<usize>,
    done_bell: Bell,
    stopping: Cell<bool>,
    shared: Arc<Shared>,
}

async fn run(
    ports: Vec<ForwarderSide>,
    config: ForwarderConfig,
    bell: Arc<Doorbell>,
    heard: UnixStream,
    shared: Arc<Shared>,
) {
    let count = ports.len();
    let backlog = VecDeque::new;
    let inner = Rc::new(Inner {
        readers: RefCell::new(Readers::new(config.limits, count, config.route)),
        config,
        start: Instant::now(),
        ports: RefCell::new(
            ports.into_iter().map(|side| Port { side, backlog: backlog() }).collect(),
        ),
        outboxes: RefCell::default(),
        maps: RefCell::default(),
        effects: RefCell::default(),
        bell: Bell::default(),
        clock_bell: Bell::default(),
        tasks: Cell::new(0),
        done_bell: Bell::default(),
        stopping: Cell::new(false),
        shared,
    });
    let clock = glommio::spawn_local(clock(inner.clone()));
    pump(&inner, &bell, heard).await;
    inner.stop().await;
    inner.clock_bell.ring();
    clock.await;
}

async fn pump(inner: &Rc<Inner>, bell: &Doorbell, heard: UnixStream) {
    let mut heard = TcpStream::from(socket2::Socket::from(heard));
    loop {
        let busy = inner.take_events();
        let more = inner.turn();
        if inner.shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if busy || more {
            glommio::executor().yield_task_queue_now().await;
            continue;
        }
        bell.arm();
        if inner.ports.borrow().iter().all(|port| port.side.is_empty())
            && !inner.shared.stop.load(Ordering::SeqCst)
        {
            let mut rings = [0; 64];
            poll_fn(|cx| {
                let rung = inner.bell.poll(cx);
                let rang = Pin::new(&mut heard).poll_read(cx, &mut rings).is_ready();
                if rung || rang { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        bell.disarm();
    }
}

async fn clock(inner: Rc<Inner>) {
    while !inner.stopping.get() {
        let wait = inner.next_delay();
        let heard = inner.clock_bell.heard();
        match wait {
            Some(delay) => {
                let rings = async {
                    Timer::new(delay).await;
                };
                futures_lite::future::or(rings, heard).await;
            }
            None => heard.await,
        }
        let now = inner.now();
        inner.readers.borrow_mut().on_time(now);
        inner.maps.borrow_mut().sweep(now);
        inner.bell.ring();
    }
}

impl Inner {
    fn now(&self) -> Nanos {
        Nanos(self.start.elapsed().as_nanos() as u64)
    }

    fn next_delay(&self) -> Option<Duration> {
        let now = self.now();
        let mut at = self.readers.borrow().next_time();
        if self.ports.borrow().iter().any(|port| !port.backlog.is_empty()) {
            at = Some(now.after(1_000_000));
        }
        if at.is_none() && !self.maps.borrow().is_empty() {
            at = Some(now.after(1_000_000_000));
        }
        at.map(|at| Duration::from_nanos(at.since(now).max(1_000_000)))
    }

    /// Takes what the shards sent. Returns whether there may be more.
    fn take_events(self: &Rc<Self>) -> bool {
        let mut more = false;
        let count = self.ports.borrow().len();
        for at in 0..count {
            loop {
                let reply = self.ports.borrow_mut()[at].side.pop_reply();
                let Some(reply) = reply else { break };
                self.readers.borrow_mut().on_located(&reply);
            }
            let epoch = self.ports.borrow()[at].side.role_epoch();
            self.readers.borrow_mut().on_role_epoch(epoch);
            let mut taken = 0;
            while taken < EVENTS_PER_TURN {
                let event = self.ports.borrow_mut()[at].side.pop_event();
                let Some(event) = event else { break };
                self.on_event(event);
                taken += 1;
            }
            more |= taken == EVENTS_PER_TURN;
        }
        more
    }

    fn on_event(self: &Rc<Self>, event: ForwardEvent) {
        match event {
            ForwardEvent::Connection { socket, hello, welcomed } => {
                self.connect(socket, &hello, welcomed);
            }
            ForwardEvent::Committed { stream, upto, base } => {
                self.readers.borrow_mut().on_committed(stream, upto, base);
            }
            ForwardEvent::Tail(recent) => self.readers.borrow_mut().on_tail(recent),
            ForwardEvent::StreamGone { stream } => self.readers.borrow_mut().on_gone(stream),
        }
    }

    fn connect(self: &Rc<Self>, socket: Socket, _hello: &Hello, welcomed: bool) {
        let socket = socket.into_std();
        let opened = self.readers.borrow_mut().on_open(self.now());
        let Some(id) = opened else {
            let refusal = Refusal::new(RefusalCode::Busy, "too many readers".to_owned()).encode();
            // Best effort: a peer that does not take it finds a closed connection.
            let _ = socket.set_nonblocking(true);
            let _ = std::io::Write::write(&mut &socket, &refusal);
            return;
        };
        let socket = socket2::Socket::from(socket);
        let _ = socket.set_nodelay(true);
        let _ = socket.set_tcp_user_timeout(Some(Duration::from_nanos(STALL_NS)));
        let welcome =
            if welcomed { Vec::new() } else { Welcome::new(self.config.identity).encode() };
        let outbox = Rc::new(Outbox::default());
        self.outboxes.borrow_mut().insert(id, outbox.clone());
        self.clock_bell.ring();
        let inner = self.clone();
        self.spawn(async move {
            let stream = TcpStream::from(socket);
            serve(stream, welcome, outbox, Connected { inner: inner.clone(), id }).await;
            inner.outboxes.borrow_mut().remove(&id);
            inner.readers.borrow_mut().on_closed(id);
            inner.bell.ring();
        });
    }

    fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let inner = self.clone();
        self.tasks.set(self.tasks.get() + 1);
        glommio::spawn_local(async move {
            task.await;
            inner.tasks.set(inner.tasks.get() - 1);
            inner.done_bell.ring();
        })
        .detach();
    }

    /// Lets readers take their turns and does what they want. Returns whether more is ready.
    fn turn(self: &Rc<Self>) -> bool {
        let mut effects = self.effects.take();
        let mut more = self.readers.borrow_mut().poll(TURNS_MAX, &mut effects);
        for effect in effects.drain(..) {
            more |= self.apply(effect);
        }
        self.effects.replace(effects);
        self.send_requests();
        *self.shared.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            self.readers.borrow().stats();
        more
    }

    /// Returns whether the readers have news at once.
    fn apply(self: &Rc<Self>, effect: Effect) -> bool {
        match effect {
            Effect::Send { reader, head, source } => {
                let body = match source {
                    Source::View { view, range } => Body::View(view, range),
                    Source::Mapped { extent, range } => match self.mapped(&extent) {
                        Ok(mapped) => Body::Mapped(mapped, range),
                        // The readers count it as sent; the connection cannot go on.
                        Err(_) => {
                            self.abort(reader);
                            return false;
                        }
                    },
                };
                self.push(reader, head.encode(), body);
                false
            }
            Effect::Say { reader, frame } => {
                self.push(reader, frame, Body::None);
                false
            }
            Effect::Ask { shard, request } => {
                self.ports.borrow_mut()[shard].backlog.push_back(request);
                false
            }
            Effect::Close { reader, .. } => {
                self.abort(reader);
                false
            }
            Effect::Read { .. } => self.read(effect),
        }
    }

    fn push(&self, reader: ReaderId, head: Vec<u8>, body: Body) {
        if let Some(outbox) = self.outboxes.borrow().get(&reader) {
            outbox.push(head, body);
        }
    }

    fn abort(&self, reader: ReaderId) {
        if let Some(outbox) = self.outboxes.borrow().get(&reader) {
            outbox.abort.set(true);
            outbox.bell.ring();
        }
    }

    /// The segment of an extent that was cut just now: it is mapped, except when too many other
    /// segments were read since.
    fn mapped(&self, extent: &SealedExtent) -> std::io::Result<Rc<Mapped>> {
        let now = self.now();
        if let Some(mapped) = self.maps.borrow_mut().get(extent, now) {
            return Ok(mapped);
        }
        let mapped = Rc::new(Mapped::new(FileMap::open(&extent.path)?, extent));
        self.maps.borrow_mut().put(extent, mapped.clone(), now);
        Ok(mapped)
    }

    /// Cuts at once what is in memory; the rest is read from the disk by a helper thread first,
    /// so that a reader of cold bytes never stops the others.
    fn read(self: &Rc<Self>, effect: Effect) -> bool {
        let Effect::Read { reader, stream, ticket, extent, want } = effect else { return false };
        let offset = extent.expect.offset;
        let mapped = self.maps.borrow_mut().get(&extent, self.now());
        if let Some(mapped) = mapped.as_ref().filter(|mapped| mapped.cold(offset).is_none()) {
            let found = mapped.cut(&extent, &want);
            self.readers.borrow_mut().on_read(reader, stream, ticket, found);
            if let Some(range) = mapped.ahead(offset) {
                let mapped = mapped.clone();
                self.spawn(async move {
                    // A failure is met again by the reader that comes there.
                    let _ = prefault(&mapped, range).await;
                });
            }
            return true;
        }
        let inner = self.clone();
        self.spawn(async move {
            let found = match inner.load(mapped, &extent).await {
                Ok(mapped) => mapped.cut(&extent, &want),
                Err(_) => Err(NoCut::Damaged),
            };
            inner.readers.borrow_mut().on_read(reader, stream, ticket, found);
            inner.bell.ring();
        });
        false
    }

    async fn load(
        &self,
        mapped: Option<Rc<Mapped>>,
        extent: &SealedExtent,
    ) -> std::io::Result<Rc<Mapped>> {
        let mapped = match mapped {
            Some(mapped) => mapped,
            None => {
                let path = extent.path.clone();
                let open = move || FileMap::open(&path);
                let map = glommio::executor().spawn_blocking(open).await?;
                let now = self.now();
                let known = self.maps.borrow_mut().get(extent, now);
                // Another reader may have been faster.
                let mapped = known.unwrap_or_else(|| Rc::new(Mapped::new(map, extent)));
                self.maps.borrow_mut().put(extent, mapped.clone(), now);
                self.clock_bell.ring();
                mapped
            }
        };
        if let Some(range) = mapped.cold(extent.expect.offset) {
            prefault(&mapped, range).await?;
        }
        Ok(mapped)
    }

    /// Ends every stream, connection and task.
    async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.readers.borrow_mut().on_shutdown();
        while self.turn() {}
        for outbox in self.outboxes.borrow().values() {
            outbox.finish.set(true);
            outbox.bell.ring();
        }
        let grace = async {
            Timer::new(Duration::from_nanos(STOP_NS)).await;
        };
        futures_lite::future::or(grace, self.no_tasks()).await;
        for outbox in self.outboxes.borrow().values() {
            outbox.abort.set(true);
            outbox.bell.ring();
        }
        self.no_tasks().await;
        self.maps.borrow_mut().clear();
    }

    async fn no_tasks(&self) {
        while self.tasks.get() > 0 {
            self.done_bell.heard().await;
        }
    }

    fn send_requests(&self) {
        let mut waiting = false;
        for port in self.ports.borrow_mut().iter_mut() {
            let mut sent = false;
            while let Some(&request) = port.backlog.front() {
                if port.side.request(request).is_err() {
                    waiting = true;
                    break;
                }
                port.backlog.pop_front();
                sent = true;
            }
            if sent {
                port.side.wake();
            }
        }
        if waiting {
            self.clock_bell.ring();
        }
    }
}

/// Reads from the disk on the executor's helper thread. An error here is what would be a signal
/// when the bytes were touched.
async fn prefault(mapped: &Mapped, range: Range<usize>) -> std::io::Result<()> {
    let (map, part) = (mapped.map.clone(), range.clone());
    glommio::executor().spawn_blocking(move || map.prefault(part)).await?;
    mapped.set_warm(&range);
    Ok(())
}

struct Connected {
    inner: Rc<Inner>,
    id: ReaderId,
}

impl Report for Connected {
    fn said(&self, said: FromReader) {
        let mut readers = self.inner.readers.borrow_mut();
        match said {
            FromReader::Fetch(fetch) => readers.on_fetch(self.id, &fetch),
            FromReader::Credit { stream, bytes } => readers.on_credit(self.id, stream, bytes),
            FromReader::Stop { stream } => readers.on_stop(self.id, stream),
        }
        self.inner.bell.ring();
    }

    fn sent(&self, bytes: u64, frames: usize) {
        self.inner.readers.borrow_mut().on_sent(self.id, bytes, frames, self.inner.now());
        self.inner.bell.ring();
    }
}
