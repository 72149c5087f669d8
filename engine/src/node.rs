//! A node in this process: its data directory, its threads, and the way to its streams.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use palisade_netio::{
    Identity, Pool, SyncPath, Uring, UringConfig, allowed_cpus, limits, pin_thread,
    raise_open_files,
};

use crate::config::{Compression, Config, ConfigError};
use crate::control::{Controlled, RegistryView, Request};
use crate::directory::{
    DirLock, check_formatted, io_error, lock, make_dirs, sync_dir, unmake_dirs,
};
use crate::driver::ShardDriver;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::forward::limits::files_needed;
use crate::forward::{ForwardPort, Forwarder, ForwarderConfig, ForwarderHandle, ForwarderSide};
use crate::handle::{Command, ShardPort, Stream};
use crate::plan::{Plan, first_records, plan};
use crate::shard::{Board, Halt, Mesh, Shard, ShardConfig, Shared, halt_error, quotas, shard_of};
use crate::status::Status;
use crate::verdict::verdict;

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
    sync_path: SyncPath,
    ports: Vec<Arc<ShardPort>>,
    threads: Vec<JoinHandle<()>>,
    board: Arc<Board>,
    stopping: bool,
    failed: Arc<Mutex<Option<Error>>>,
    listening: Option<SocketAddr>,
    identity: Identity,
    buffers: Buffers,
    forwarder: Option<ForwarderHandle>,
    _lock: DirLock,
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
    // Now rather than at the first start, which somebody may wait for.
    let sync_path = verdict(config).path;
    for shard in 0..config.node.shards {
        let Plan { shard: mut shard_config, ring, .. } = plan(config, shard, sync_path);
        shard_config.listen = None;
        shard_config.format = Some(first_records(config, incarnation));
        let shared =
            Shared { board: Arc::new(Board::new(config.node.shards)), mesh: None, forward: None };
        let mut shard = open_shard(shard_config, ring, Arc::new(ShardPort::new()), shared)?;
        while shard.turn(true) {}
        if let Some(halt) = shard.halted().filter(|halt| **halt != Halt::Done) {
            return Err(halt_error(halt));
        }
    }
    sync_dir(data)
}

impl Node {
    /// Recovers the node in `config.node.data` and serves. Returns when it has recovered and
    /// listens; a leader may not exist yet. A node with a forwarding shard raises this process's
    /// limit of open files as far as it may.
    ///
    /// # Errors
    /// The directory is in use ([`ErrorKind::InUse`]), belongs to another node or cluster or lies
    /// on an unfit file system ([`ErrorKind::Config`]), is damaged ([`ErrorKind::Corrupt`]), the
    /// limit of open files is too low for readers ([`ErrorKind::Config`]), or the kernel lacks
    /// something.
    pub fn open(config: Config) -> Result<Node, Error> {
        if config.node.forwarding {
            check_open_files(raise_open_files(), config.node.shards)?;
        }
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
                limits: crate::forward::Limits {
                    rate: node.config.network.forward_max,
                    cluster_rate: node.config.network.forward_max_per_standby,
                    ..crate::forward::Limits::default()
                },
                compressed_from: match node.config.network.forward_compression {
                    Compression::Off => None,
                    Compression::Lz4 => Some(node.config.node.region.clone()),
                },
            };
            let handle = Forwarder::spawn(std::mem::take(&mut sides), config);
            node.forwarder = Some(handle.map_err(|error| {
                Error::new(ErrorKind::Io, format!("the forwarding shard cannot start: {error}"))
            })?);
        }
        Ok(node)
    }

    /// Recovers a node with one shard, no listener and no forwarding shard, whose shard the
    /// caller drives from its own thread with [`ShardDriver::turn`]; see there for what may wait
    /// on that thread.
    ///
    /// # Errors
    /// As [`Node::open`]; also when the configuration asks for more than that.
    pub fn open_driven(config: Config) -> Result<(Node, ShardDriver), Error> {
        if config.node.shards != 1 || config.node.listen.is_some() || config.node.forwarding {
            let text = "a driven node has one shard, no listener and no forwarding shard";
            return Err(Error::new(ErrorKind::Config, text));
        }
        if !config.node.cpus.is_empty() {
            let text = "node.cpus pins the threads of shards, and a driven node has none: pin the \
                        driving thread, and leave node.cpus empty";
            return Err(Error::new(ErrorKind::Config, text));
        }
        check_formatted(&config.node.data)?;
        let lock = lock(&config.node.data)?;
        let mut node = Node::prepare(config, lock)?;
        let port = Arc::new(ShardPort::new());
        node.ports.push(port.clone());
        let shared = Shared { board: node.board.clone(), mesh: None, forward: None };
        let Plan { shard, ring, .. } = plan(&node.config, 0, node.sync_path);
        let mut shard = open_shard(shard, ring, port.clone(), shared)?;
        while !shard.is_ready() {
            if !shard.turn(true) {
                return Err(halt_error(shard.halted().expect("it stopped")));
            }
        }
        Ok((node, ShardDriver::new(shard, port)))
    }

    fn prepare(config: Config, lock: DirLock) -> Result<Node, Error> {
        probe()?;
        refuse(config.check_cpus(&allowed_cpus()))?;
        let verdict = verdict(&config);
        refuse(config.check_spin(&verdict.needs))?;
        Ok(Node {
            sync_path: verdict.path,
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
        let plan = plan(&self.config, shard, self.sync_path);
        let failed = self.failed.clone();
        let run = move || {
            let result = run_shard(plan, port, shared, &ready);
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

    /// Changes the registry of clusters or the protection mode, for this cluster and every
    /// standby.
    ///
    /// # Errors
    /// A rule forbids it ([`ErrorKind::Forbidden`]), somebody else was faster
    /// ([`ErrorKind::Conflict`]), this is a standby, this node does not lead the catalogue, or
    /// the outcome is unknown.
    pub fn control(&self, request: Request) -> Result<Controlled, Error> {
        let port = self.port_of(crate::stream::catalogue::CATALOGUE_STREAM);
        let request = Box::new(request);
        port.ask(|reply| Command::Control { request, dry_run: false, reply })
    }

    /// The registry of clusters and the protection mode, as this node knows them.
    ///
    /// # Errors
    /// The node has stopped.
    pub fn registry(&self) -> Result<RegistryView, Error> {
        let port = self.port_of(crate::stream::catalogue::CATALOGUE_STREAM);
        port.ask(|reply| Command::Registry { reply })
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

    /// Stops. Nothing new is taken from now on: it is refused with [`ErrorKind::Shutdown`]. Appends
    /// that were taken may still be acknowledged for `timing.shutdown`; after that those that may
    /// be in the log are *unknown*, and what is in no log yet is refused too. Dropping a node does
    /// not wait.
    ///
    /// # Errors
    /// Why it had stopped by itself before.
    pub fn stop(mut self) -> Result<(), Error> {
        let failed = self.failed();
        if failed.is_none() {
            self.drain();
        }
        self.halt();
        failed.map_or(Ok(()), Err)
    }

    /// Waits for the appends in flight, unless it is the caller who would have to move them.
    fn drain(&self) {
        if self.threads.is_empty() {
            return;
        }
        let deadline = Instant::now() + self.config.timing.shutdown;
        let drained: Vec<_> = self.ports.iter().map(|port| port.drain()).collect();
        for drained in drained {
            let left = deadline.saturating_duration_since(Instant::now());
            // Told, ended, or out of time: it stops now.
            let _ = drained.recv_timeout(left);
        }
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

fn run_shard(
    plan: Plan,
    port: Arc<ShardPort>,
    shared: Shared,
    ready: &SyncSender<Ready>,
) -> Result<(), Error> {
    let Plan { shard, ring, cpu } = plan;
    let mut shard = open_shard(shard, ring, port, shared)?;
    if let Some(cpu) = cpu {
        // After the ring: a helper of it does not run here.
        let pinned = pin_thread(cpu).map_err(|errno| format!("node.cpus: CPU {cpu}: {errno}"));
        pinned.map_err(|text| Error::new(ErrorKind::Config, text))?;
    }
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
    ring: UringConfig,
    port: Arc<ShardPort>,
    shared: Shared,
) -> Result<Shard<Uring>, Error> {
    let pool = Pool::new(quotas(config.segment_bytes)).map_err(|e| io_error("the pool", &e))?;
    let ring = Uring::new(ring, &pool)
        .map_err(|error| Error::new(ErrorKind::Config, error.to_string()))?;
    Ok(Shard::new(config, ring, pool, port, shared))
}

fn refuse(checked: Result<(), Vec<ConfigError>>) -> Result<(), Error> {
    checked.map_err(|errors| {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Error::new(ErrorKind::Config, texts.join("\n"))
    })
}

/// Without them readers would be refused at random, and the shards as well.
fn check_open_files(limit: Option<u64>, shards: u16) -> Result<(), Error> {
    let needed = files_needed(shards);
    let Some(limit) = limit.filter(|limit| *limit < needed) else { return Ok(()) };
    let text = format!(
        "a node with {shards} shards that serves readers opens up to {needed} files and sockets, \
         and this process may open {limit}: raise its hard limit (ulimit -Hn {needed}, or \
         LimitNOFILE={needed} of its service), or set node.forwarding to false"
    );
    Err(Error::new(ErrorKind::Config, text))
}

fn probe() -> Result<(), Error> {
    let facts = palisade_netio::probe();
    facts.map(drop).map_err(|error| Error::new(ErrorKind::Config, error.to_string()))
}

fn random_incarnation() -> Result<u64, Error> {
    use std::io::Read;
    let mut bytes = [0; 8];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|e| io_error("/dev/urandom", &e))?;
    Ok(u64::from_le_bytes(bytes) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_open_files_are_said_and_what_most_systems_give_is_enough() {
        assert!(check_open_files(Some(1024), 1).is_ok() && check_open_files(None, 64).is_ok());
        let error = check_open_files(Some(256), 2).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let needed = files_needed(2).to_string();
        let said = error.to_string();
        assert!(said.contains(&needed) && said.contains("may open 256"), "{said}");
        assert!(check_open_files(Some(files_needed(2) - 1), 2).is_err());
    }
}
