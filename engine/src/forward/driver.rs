//! The forwarding shard's thread: moves events, bytes and answers, and decides nothing.
//!
//! One executor. Its tasks: the pump (queues of the shards, turns of the readers), the clock, one
//! per connection, and one per read of a sealed segment that may wait for the disk. When it stops,
//! every task is awaited and every socket closed before the executor returns.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
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
use palisade_netio::{FileMap, Nanos};

use super::connection::{Bell, Outbox, Report, serve};
use super::doorbell::Doorbell;
use super::exchange::{Arrival, Exchange, ForwarderConfig, Load, Need, Work};
use super::limits::{STALL_NS, STOP_NS};
use super::queue::ForwarderSide;
use super::sender::{ReaderId, Stats};
use super::windows::Warming;
use super::wire::FromReader;

/// Bytes that the executor's own buffers take; the forwarder uses none of them.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Entries of each of the executor's three rings.
const RING_DEPTH: usize = 128;
/// Shortest sleep of the clock.
const CLOCK_NS_MIN: u64 = 1_000_000;

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

struct Inner {
    start: Instant,
    exchange: RefCell<Exchange<FileMap>>,
    outboxes: RefCell<BTreeMap<ReaderId, Rc<Outbox>>>,
    /// Wakes the pump.
    bell: Bell,
    /// Wakes the clock.
    clock_bell: Bell,
    /// When the clock wakes by itself.
    clock_until: Cell<Option<Nanos>>,
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
    let inner = Rc::new(Inner {
        start: Instant::now(),
        exchange: RefCell::new(Exchange::new(ports, &config)),
        outboxes: RefCell::default(),
        bell: Bell::default(),
        clock_bell: Bell::default(),
        clock_until: Cell::new(None),
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
        if !inner.exchange.borrow().has_events() && !inner.shared.stop.load(Ordering::SeqCst) {
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
        let now = inner.now();
        let until = inner.exchange.borrow().next_time(now);
        inner.clock_until.set(until);
        let heard = async {
            inner.clock_bell.heard().await;
            false
        };
        let rings = async {
            let Some(until) = until else { return std::future::pending().await };
            Timer::new(Duration::from_nanos(until.since(now).max(CLOCK_NS_MIN))).await;
            true
        };
        if futures_lite::future::or(rings, heard).await {
            inner.exchange.borrow_mut().on_time(inner.now());
            inner.bell.ring();
        }
    }
}

impl Inner {
    fn now(&self) -> Nanos {
        Nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// Takes what the shards sent. Returns whether there may be more.
    fn take_events(self: &Rc<Self>) -> bool {
        let mut arrivals = Vec::new();
        let more = self.exchange.borrow_mut().take_events(self.now(), &mut arrivals);
        arrivals.into_iter().for_each(|arrival| self.connect(arrival));
        more
    }

    fn connect(self: &Rc<Self>, arrival: Arrival) {
        let Arrival { socket, reader, answer } = arrival;
        let socket = socket.into_std();
        let Some(id) = reader else {
            // Best effort: a peer that does not take it finds a closed connection.
            let _ = socket.set_nonblocking(true);
            let _ = std::io::Write::write(&mut &socket, &answer);
            return;
        };
        // Segments are sent by a second handle of the same connection, and never wait there.
        let _ = socket.set_nonblocking(true);
        let sends = socket.try_clone().ok();
        let socket = socket2::Socket::from(socket);
        let _ = socket.set_nodelay(true);
        let _ = socket.set_tcp_user_timeout(Some(Duration::from_nanos(STALL_NS)));
        let outbox = Rc::new(Outbox::new(answer, sends));
        self.outboxes.borrow_mut().insert(id, outbox.clone());
        let inner = self.clone();
        self.spawn(async move {
            let stream = TcpStream::from(socket);
            serve(stream, outbox, Connected { inner: inner.clone(), id }).await;
            inner.outboxes.borrow_mut().remove(&id);
            inner.exchange.borrow_mut().on_closed(id);
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
        let (mut work, now) = (Vec::new(), self.now());
        let more = self.exchange.borrow_mut().turn(now, &mut work);
        work.into_iter().for_each(|work| self.apply(work));
        let exchange = self.exchange.borrow();
        let (next, until) = (exchange.next_time(now), self.clock_until.get());
        if next.is_some_and(|next| until.is_none_or(|until| next < until)) {
            self.clock_bell.ring();
        }
        *self.shared.stats.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
            exchange.stats();
        more
    }

    fn apply(self: &Rc<Self>, work: Work<FileMap>) {
        match work {
            Work::Push { reader, head, body } => {
                if let Some(outbox) = self.outboxes.borrow().get(&reader) {
                    outbox.push(head, body);
                }
            }
            Work::Ring { reader } => {
                self.outboxes
                    .borrow()
                    .get(&reader)
                    .into_iter()
                    .for_each(|outbox| outbox.bell.ring());
            }
            Work::Probe { reader } => {
                if let Some(outbox) = self.outboxes.borrow().get(&reader) {
                    let (bytes, now) = (outbox.unacknowledged(), self.now());
                    self.exchange.borrow_mut().on_probed(reader, bytes, now);
                }
            }
            Work::Abort { reader } => {
                if let Some(outbox) = self.outboxes.borrow().get(&reader) {
                    outbox.abort.set(true);
                    outbox.bell.ring();
                }
            }
            Work::Load(mut load) => {
                let inner = self.clone();
                self.spawn(async move {
                    if inner.load(&mut load).await.is_err() {
                        inner.exchange.borrow_mut().on_load_failed(&load);
                    }
                    inner.bell.ring();
                });
            }
            Work::Ahead(warming) => {
                let inner = self.clone();
                self.spawn(async move {
                    // A failure is met again by the reader that comes there.
                    let _ = inner.warm(&warming).await;
                });
            }
        }
    }

    /// Maps and reads on helper threads, so that a reader of cold bytes never stops the others.
    async fn load(&self, load: &mut Load<FileMap>) -> std::io::Result<()> {
        loop {
            let need = self.exchange.borrow_mut().load(load, self.now());
            match need {
                Need::Map(path) => {
                    let open = move || FileMap::open(&path);
                    let map = glommio::executor().spawn_blocking(open).await?;
                    self.exchange.borrow_mut().on_mapped(load, map, self.now());
                }
                Need::Warm(warming) => self.warm(&warming).await?,
                Need::Nothing => return Ok(()),
            }
        }
    }

    /// Reads from the disk on the executor's helper thread. An error here is what would be a
    /// signal when the bytes were touched.
    async fn warm(&self, warming: &Warming<FileMap>) -> std::io::Result<()> {
        let (map, range) = (warming.mapped.map.clone(), warming.range.clone());
        let old = warming.give_back.iter().map(|(old, range)| (old.map.clone(), range.clone()));
        let old: Vec<(Arc<FileMap>, Range<usize>)> = old.collect();
        let read = glommio::executor().spawn_blocking(move || {
            // Without it the kernel has the memory back when the map goes.
            old.into_iter().for_each(|(map, range)| drop(map.give_back(range)));
            map.prefault(range)
        });
        let read = read.await;
        self.exchange.borrow_mut().on_warmed(warming, read.is_ok());
        read
    }

    /// Ends every stream, connection and task.
    async fn stop(self: &Rc<Self>) {
        self.stopping.set(true);
        self.exchange.borrow_mut().on_shutdown();
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
        self.exchange.borrow_mut().let_go();
    }

    async fn no_tasks(&self) {
        while self.tasks.get() > 0 {
            self.done_bell.heard().await;
        }
    }
}

struct Connected {
    inner: Rc<Inner>,
    id: ReaderId,
}

impl Report for Connected {
    fn said(&self, said: FromReader) {
        self.inner.exchange.borrow_mut().on_said(self.id, said);
        self.inner.bell.ring();
    }

    fn listens(&self) -> bool {
        let listens = self.inner.exchange.borrow_mut().listens(self.id);
        if !listens {
            self.inner.bell.ring();
        }
        listens
    }

    fn blocked(&self) -> bool {
        let copies = self.inner.exchange.borrow_mut().on_blocked(self.id);
        if !copies {
            // Who holds memory for long is looked for.
            self.inner.bell.ring();
        }
        copies
    }

    fn sent(&self, bytes: u64, frames: usize) {
        self.inner.exchange.borrow_mut().on_sent(self.id, bytes, frames, self.inner.now());
        self.inner.bell.ring();
    }
}
