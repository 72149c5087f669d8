//! A node in this process: its data directory, its threads, and the way to its streams.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use palisade_netio::{Identity, Pool, Uring, UringConfig, ZeroCopyMode, limits};
use palisade_wal::SyncPath;

use crate::config::{Config, Role, ZeroCopy};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::forward::{ForwardPort, Forwarder, ForwarderConfig, ForwarderHandle, ForwarderSide};
use crate::handle::{Command, ShardPort, Stream};
use crate::paxos::{Member, Tuning};
use crate::shard::{
    Board, Format, Halt, Mesh, Shard, ShardConfig, Shared, halt_error, quotas, shard_of,
};
use crate::status::Status;

/// Name of the file that keeps two processes out of one directory.
const LOCK: &str = "lock";
/// Submission entries of a shard's ring.
const RING_ENTRIES: u32 = 1024;
/// Durable writes in flight of a shard.
const WRITES_IN_FLIGHT: usize = 2;

/// A running node. Dropping it stops it.
///
/// ```
/// use palisade::{Config, Node};
///
/// let dir = tempfile::tempdir_in("/var/tmp")?;
/// let config = Config::embedded(dir.path().join("n1"));
/// palisade::format(&config)?;
/// let node = Node::open(config)?;
/// let stream = node.stream(node.create_stream()?);
/// let appended = stream.append("the first record").wait()?;
/// let record = stream.reader(appended.lsn).next().expect("it is committed")?;
/// assert_eq!(record.payload, "the first record");
/// node.stop()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Node {
    config: Config,
    ports: Vec<Arc<ShardPort>>,
    threads: Vec<JoinHandle<()>>,
    board: Arc<Board>,
    stopping: bool,
    failed: Arc<Mutex<Option<Error>>>,
    listening: Option<SocketAddr>,
    identity: Identity,
    buffers: Buffers,
    forwarder: Option<ForwarderHandle>,
    _lock: File,
}

/// How much of a node's buffers the kernel has registered; what goes through others costs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Buffers {
    /// Bytes of all shards that are registered.
    pub registered_bytes: u64,
    /// Bytes that would be with enough locked memory (RLIMIT_MEMLOCK).
    pub wanted_bytes: u64,
}

/// A shard serves.
struct Ready {
    listening: Option<SocketAddr>,
    identity: Identity,
    registered_bytes: usize,
}

/// A shard that its owner drives, for a node with one: no thread, no hop between two.
pub struct ShardDriver {
    shard: Shard<Uring>,
}

/// Makes the data directory of a node: identity, and the first records of its log.
///
/// # Errors
/// The directory is not empty or cannot be used.
pub fn format(config: &Config) -> Result<(), Error> {
    probe()?;
    make_dirs(config)?;
    let made = write_first_records(config);
    if made.is_err() {
        // So that the next attempt finds the directory empty; a failure leaves it as it is.
        let _ = unmake_dirs(config);
    }
    made
}

fn write_first_records(config: &Config) -> Result<(), Error> {
    let data = &config.node.data;
    let _lock = lock(data)?;
    let incarnation = random_incarnation()?;
    for shard in 0..config.node.shards {
        let mut shard_config = shard_config(config, shard);
        shard_config.listen = None;
        shard_config.format = Some(first_records(config, incarnation));
        let shared =
            Shared { board: Arc::new(Board::new(config.node.shards)), mesh: None, forward: None };
        let mut shard = open_shard(shard_config, Arc::new(ShardPort::new()), shared)?;
        while shard.turn(true) {}
        if let Some(halt) = shard.halted().filter(|halt| **halt != Halt::Done) {
            return Err(halt_error(halt));
        }
    }
    sync_dir(data)
}

impl Node {
    /// Recovers the node in `config.node.data` and serves. Returns when it has recovered and
    /// listens; a leader may not exist yet.
    ///
    /// # Errors
    /// The directory is in use ([`ErrorKind::InUse`]), belongs to another node or cluster or lies
    /// on an unfit file system ([`ErrorKind::Config`]), is damaged ([`ErrorKind::Corrupt`]), or
    /// the kernel lacks something.
    pub fn open(config: Config) -> Result<Node, Error> {
        check_formatted(&config.node.data)?;
        let lock = lock(&config.node.data)?;
        let mut node = Node::prepare(config, lock)?;
        let (mut sides, shared) = node.share();
        let (ready, is_ready) = sync_channel(usize::from(node.config.node.shards));
        for (shard, shared) in shared.into_iter().enumerate() {
            node.spawn(shard as u16, shared, ready.clone())?;
        }
        drop(ready);
        node.wait_ready(&is_ready)?;
        if !sides.is_empty() {
            let config = ForwarderConfig {
                identity: node.identity,
                route: |stream, shards| usize::from(shard_of(stream, shards as u16)),
                cpu: None,
                limits: crate::forward::Limits::default(),
            };
            let handle = Forwarder::spawn(std::mem::take(&mut sides), config);
            node.forwarder = Some(handle.map_err(|error| {
                Error::new(ErrorKind::Io, format!("the forwarding shard cannot start: {error}"))
            })?);
        }
        Ok(node)
    }

    /// Recovers a node with one shard, no listener and no forwarding shard, whose shard the
    /// caller drives from its own thread with [`ShardDriver::turn`].
    ///
    /// # Errors
    /// As [`Node::open`]; also when the configuration asks for more than that.
    pub fn open_driven(config: Config) -> Result<(Node, ShardDriver), Error> {
        if config.node.shards != 1 || config.node.listen.is_some() || config.node.forwarding {
            let text = "a driven node has one shard, no listener and no forwarding shard";
            return Err(Error::new(ErrorKind::Config, text));
        }
        check_formatted(&config.node.data)?;
        let lock = lock(&config.node.data)?;
        let mut node = Node::prepare(config, lock)?;
        let port = Arc::new(ShardPort::new());
        node.ports.push(port.clone());
        let shared = Shared { board: node.board.clone(), mesh: None, forward: None };
        let mut shard = open_shard(shard_config(&node.config, 0), port, shared)?;
        while !shard.is_ready() {
            if !shard.turn(true) {
                return Err(halt_error(shard.halted().expect("it stopped")));
            }
        }
        shard.driven = true;
        Ok((node, ShardDriver { shard }))
    }

    fn prepare(config: Config, lock: File) -> Result<Node, Error> {
        probe()?;
        Ok(Node {
            board: Arc::new(Board::new(config.node.shards)),
            config,
            ports: Vec::new(),
            threads: Vec::new(),
            stopping: false,
            failed: Arc::new(Mutex::new(None)),
            listening: None,
            identity: Identity::default(),
            buffers: Buffers::default(),
            forwarder: None,
            _lock: lock,
        })
    }

    /// What each shard shares, and the forwarder's ends.
    fn share(&mut self) -> (Vec<ForwarderSide>, Vec<Shared>) {
        let shards = self.config.node.shards;
        let mesh = (shards > 1).then(|| Arc::new(Mesh::new(shards)));
        let mut sides = Vec::new();
        let shared = (0..shards).map(|_| {
            let port = self.config.node.forwarding.then(|| {
                let (port, side): (ForwardPort, ForwarderSide) = crate::forward::port();
                sides.push(side);
                port
            });
            Shared { board: self.board.clone(), mesh: mesh.clone(), forward: port }
        });
        let shared = shared.collect();
        (sides, shared)
    }

    fn spawn(&mut self, shard: u16, shared: Shared, ready: SyncSender<Ready>) -> Result<(), Error> {
        let port = Arc::new(ShardPort::new());
        self.ports.push(port.clone());
        let config = shard_config(&self.config, shard);
        let failed = self.failed.clone();
        let run = move || {
            let result = run_shard(config, port, shared, &ready);
            if let Err(error) = result {
                let mut failed = failed.lock().unwrap_or_else(|e| e.into_inner());
                failed.get_or_insert(error);
            }
        };
        let thread = std::thread::Builder::new().name(format!("palisade-shard-{shard}"));
        let thread = thread.spawn(run);
        self.threads.push(thread.map_err(|e| io_error("a shard's thread", &e))?);
        Ok(())
    }

    fn wait_ready(&mut self, is_ready: &Receiver<Ready>) -> Result<(), Error> {
        for _ in 0..self.config.node.shards {
            match is_ready.recv() {
                Ok(Ready { listening, identity, registered_bytes }) => {
                    self.listening = self.listening.or(listening);
                    self.identity = identity;
                    self.buffers.registered_bytes += registered_bytes as u64;
                    self.buffers.wanted_bytes += limits::REGISTER_BYTES_MAX as u64;
                }
                Err(_) => {
                    let failed = self.failed().unwrap_or_else(|| {
                        Error::new(ErrorKind::Broken, "a shard ended before it was ready")
                    });
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// A stream of this node. Whether it exists is seen when it is used.
    pub fn stream(&self, id: u64) -> Stream {
        Stream::new(id, self.port_of(id))
    }

    /// Creates a stream, on every node of the cluster, and returns its id.
    ///
    /// # Errors
    /// This node does not lead the catalogue, or the outcome is unknown.
    pub fn create_stream(&self) -> Result<u64, Error> {
        Ok(self.create_streams(1)?[0])
    }

    /// Creates several streams at once.
    ///
    /// # Errors
    /// As [`create_stream`](Node::create_stream).
    pub fn create_streams(&self, count: usize) -> Result<Vec<u64>, Error> {
        let port = self.port_of(crate::stream::catalogue::CATALOGUE_STREAM);
        port.ask(|reply| Command::Create { count, reply })
    }

    /// What the node shows of itself.
    ///
    /// # Errors
    /// The node has stopped.
    pub fn status(&self) -> Result<Status, Error> {
        for port in &self.ports {
            port.ask(|reply| Command::Report { reply })?;
        }
        Ok(self.board.status())
    }

    /// Leadership events from now on. A listener that lets 1024 of them wait is dropped: its
    /// channel ends, and it asks for [`status`](Node::status) and a new one.
    pub fn events(&self) -> Receiver<Event> {
        self.board.listeners.add()
    }

    /// Where it listens.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.listening
    }

    /// How much of its buffers the kernel has registered; nothing for a driven node.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// Why it stopped by itself, if it did: [`ErrorKind::Poisoned`] after a failed write,
    /// [`ErrorKind::Broken`] after a broken invariant.
    pub fn failed(&self) -> Option<Error> {
        let failed = self.failed.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let ended = self.threads.iter().any(JoinHandle::is_finished);
        failed.or_else(|| {
            let text = "a shard ended; its panic message says which invariant broke";
            (ended && !self.stopping).then(|| Error::new(ErrorKind::Broken, text))
        })
    }

    /// Stops: appends that may be in the log and are not answered are *unknown*; what is in no log
    /// yet, or comes later, is refused with [`ErrorKind::Shutdown`].
    ///
    /// # Errors
    /// Why it had stopped by itself before.
    pub fn stop(mut self) -> Result<(), Error> {
        let failed = self.failed();
        self.halt();
        failed.map_or(Ok(()), Err)
    }

    fn halt(&mut self) {
        self.stopping = true;
        // The forwarder first: it reads what the shards own.
        if let Some(forwarder) = self.forwarder.take() {
            // Its failure was reported while it ran.
            let _ = forwarder.stop();
        }
        for port in &self.ports {
            port.stop();
        }
        for thread in self.threads.drain(..) {
            // A panic was reported by `failed`.
            let _ = thread.join();
        }
        for port in &self.ports {
            // A driven shard may have no turn any more in which it would see the request.
            port.close(Error::new(ErrorKind::Shutdown, "the node has stopped"));
        }
    }

    fn port_of(&self, stream: u64) -> Arc<ShardPort> {
        self.ports[usize::from(shard_of(stream, self.config.node.shards))].clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.halt();
    }
}

impl ShardDriver {
    /// One turn: takes what was asked, moves what is in flight. With `may_wait` it sleeps until
    /// something happens.
    ///
    /// # Errors
    /// Why the shard has stopped.
    pub fn turn(&mut self, may_wait: bool) -> Result<(), Error> {
        if self.shard.turn(may_wait) {
            return Ok(());
        }
        Err(halt_error(self.shard.halted().expect("it stopped")))
    }
}

fn run_shard(
    config: ShardConfig,
    port: Arc<ShardPort>,
    shared: Shared,
    ready: &SyncSender<Ready>,
) -> Result<(), Error> {
    let mut shard = open_shard(config, port, shared)?;
    let mut told = false;
    loop {
        if !shard.turn(true) {
            return match shard.halted().expect("it stopped") {
                Halt::Done => Ok(()),
                halt => Err(halt_error(halt)),
            };
        }
        if !told && shard.is_ready() {
            let (listening, identity) = (shard.listening(), shard.identity());
            let registered_bytes = shard.ring().registered_bytes();
            told = ready.send(Ready { listening, identity, registered_bytes }).is_ok();
        }
    }
}

fn open_shard(
    config: ShardConfig,
    port: Arc<ShardPort>,
    shared: Shared,
) -> Result<Shard<Uring>, Error> {
    let pool = Pool::new(quotas(config.segment_bytes)).map_err(|e| io_error("the pool", &e))?;
    let ring_config = UringConfig { entries: RING_ENTRIES, ..UringConfig::default() };
    let ring = Uring::new(ring_config, &pool)
        .map_err(|error| Error::new(ErrorKind::Config, error.to_string()))?;
    Ok(Shard::new(config, ring, pool, port, shared))
}

fn shard_config(config: &Config, shard: u16) -> ShardConfig {
    let shards = u64::from(config.node.shards);
    let ms = |duration: std::time::Duration| duration.as_nanos() as u64;
    let tuning = Tuning {
        heartbeat_ns: ms(config.timing.heartbeat),
        election_ns: ms(config.timing.election),
        retry_ns: Tuning::default().retry_ns.max(ms(config.timing.heartbeat)),
        ..Tuning::default()
    };
    ShardConfig {
        cluster: config.cluster.id,
        cluster_name: config.cluster.name.clone(),
        node: config.node.id,
        region: config.node.region.clone(),
        shard,
        shards: config.node.shards,
        dir: shard_dir(&config.node.data, shard),
        listen: config.node.listen.filter(|_| shard == 0),
        upstream: config.upstream.endpoints.clone(),
        segment_bytes: config.log.segment_bytes,
        log_bytes_max: (config.log.log_bytes_max / shards).max(2 * config.log.segment_bytes),
        sync_path: SyncPath::Dsync,
        writes_in_flight: WRITES_IN_FLIGHT,
        zero_copy: match config.network.zero_copy {
            ZeroCopy::Auto => ZeroCopyMode::Auto,
            ZeroCopy::Always => ZeroCopyMode::Always,
            ZeroCopy::Never => ZeroCopyMode::Never,
        },
        disk_stall_ns: ms(config.timing.disk_stall_soft),
        tuning,
        format: None,
    }
}

fn first_records(config: &Config, incarnation: u64) -> Format {
    let member = |member: &crate::config::Member| Member {
        node: member.id,
        incarnation: None,
        addr: member.addr.to_string(),
        region: member.region.clone(),
    };
    Format {
        role: match config.cluster.role {
            Role::Primary => Role::Primary,
            Role::Standby => Role::Standby,
        },
        members: config.members.iter().map(member).collect(),
        incarnation,
    }
}

fn shard_dir(data: &Path, shard: u16) -> PathBuf {
    data.join(format!("shard-{shard}"))
}

fn make_dirs(config: &Config) -> Result<(), Error> {
    let data = &config.node.data;
    let failed = |e: std::io::Error| io_error(&format!("{}", data.display()), &e);
    std::fs::create_dir_all(data).map_err(failed)?;
    if std::fs::read_dir(data).map_err(failed)?.next().is_some() {
        let text = format!("{} is not empty; name another directory", data.display());
        return Err(Error::new(ErrorKind::InUse, text));
    }
    for shard in 0..config.node.shards {
        std::fs::create_dir(shard_dir(data, shard)).map_err(failed)?;
    }
    sync_dir(data)
}

/// Takes back what [`make_dirs`] and a failed attempt made in a directory that was empty.
fn unmake_dirs(config: &Config) -> std::io::Result<()> {
    let data = &config.node.data;
    for shard in 0..config.node.shards {
        std::fs::remove_dir_all(shard_dir(data, shard))?;
    }
    std::fs::remove_file(data.join(LOCK))
}

/// Looks before anything is made in a directory that was never formatted.
fn check_formatted(data: &Path) -> Result<(), Error> {
    if shard_dir(data, 0).is_dir() {
        return Ok(());
    }
    let text = format!("{} is not formatted; run `palisade format` first", data.display());
    Err(Error::new(ErrorKind::Config, text))
}

fn probe() -> Result<(), Error> {
    let facts = palisade_netio::probe();
    facts.map(drop).map_err(|error| Error::new(ErrorKind::Config, error.to_string()))
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|e| io_error(&format!("{}", dir.display()), &e))
}

/// Takes the lock that keeps two processes out of one directory; it ends with the process.
fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join(LOCK);
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path).map_err(|e| {
        let text = format!("{}: {e}; run `palisade format` first", data.display());
        Error::new(ErrorKind::Config, text)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let text = format!(
                "{} is in use by another process; stop it, or use another directory",
                data.display()
            );
            Err(Error::new(ErrorKind::InUse, text))
        }
        Err(TryLockError::Error(e)) => Err(io_error(&format!("{}", path.display()), &e)),
    }
}

fn random_incarnation() -> Result<u64, Error> {
    use std::io::Read;
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| io_error("/dev/urandom", &e))?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

fn io_error(what: &str, error: &std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("{what}: {error}"))
}
