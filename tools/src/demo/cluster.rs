//! Clusters of child processes: directories, ports, start, kill, restart.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use palisade::Config;
use palisade::config::{Compression, Member, Role, TimingConfig, ZeroCopy};
use palisade_netio::{Sample, SyncPath, Timing, decide, probe_sync};
use rustix::process::{Pid, Signal, kill_process};

use crate::exit::{Exit, Failure};
use crate::host::UNREGISTERED;
use crate::signals::Interrupt;

/// How long a node may take to say `ready`.
const READY_MAX: Duration = Duration::from_secs(15);
/// How long `format` may take.
const FORMAT_MAX: Duration = Duration::from_secs(15);
/// Ports are looked for here: below the range that the kernel gives to outgoing connections, so
/// that nobody takes the port of a node while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Size of a segment of these nodes: each prepares one ahead, perhaps all on one slow disk.
const SEGMENT_BYTES: u64 = 8 << 20;

/// One node to be.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Name in tables and of its directory.
    pub(crate) name: &'static str,
    /// Its region.
    pub(crate) region: &'static str,
}

/// One cluster to be.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// The cluster.
    pub(crate) id: u32,
    /// Its name.
    pub(crate) name: &'static str,
    /// Its role.
    pub(crate) role: Role,
    /// Its nodes, numbered from 1.
    pub(crate) places: Vec<Place>,
    /// Where it fetches from.
    pub(crate) upstream: Vec<SocketAddr>,
    /// Space of each node.
    pub(crate) log_bytes_max: u64,
    /// Zero-copy sends.
    pub(crate) zero_copy: ZeroCopy,
    /// Of what goes to other regions.
    pub(crate) compression: Compression,
    /// Timers of its nodes.
    pub(crate) timing: TimingConfig,
}

/// A port that no other demo takes while this lives.
#[derive(Debug)]
struct Reservation {
    addr: SocketAddr,
    /// The same port of another protocol stands for the whole number among demos.
    _claim: UdpSocket,
}

/// A node process and what is needed to start it again.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    pub(crate) place: Place,
    pub(crate) id: u32,
    config: PathBuf,
    log: PathBuf,
    port: Reservation,
    child: Option<Child>,
}

/// The processes of one cluster; killed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) id: u32,
    pub(crate) nodes: Vec<NodeProcess>,
}

impl Cluster {
    /// Formats and starts every node below `dir`, and waits until all are ready.
    pub(crate) fn start(
        layout: &Layout,
        dir: &Path,
        interrupt: &Interrupt,
    ) -> Result<Cluster, Failure> {
        let sync_path = measured(dir);
        let mut ports = Vec::new();
        for _ in &layout.places {
            ports.push(reserve()?);
        }
        let members = layout.places.iter().zip(&ports).zip(1..);
        let members: Vec<Member> = members
            .map(|((place, port), id)| Member {
                id,
                addr: port.addr,
                region: place.region.to_owned(),
            })
            .collect();
        let mut nodes = Vec::new();
        for ((place, port), id) in layout.places.iter().zip(ports).zip(1..) {
            let home = dir.join(place.name);
            let path = home.join("node.toml");
            std::fs::create_dir_all(&home).map_err(|error| Failure::io(home.display(), &error))?;
            let mut config = node_config(layout, &members, id, &home);
            config.log.sync_path = Some(sync_path);
            std::fs::write(&path, config.to_toml())
                .map_err(|error| Failure::io(path.display(), &error))?;
            nodes.push(NodeProcess {
                place: place.clone(),
                id,
                config: path,
                log: home.join("node.log"),
                port,
                child: None,
            });
        }
        let mut cluster = Cluster { id: layout.id, nodes };
        for node in &mut cluster.nodes {
            node.format(interrupt)?;
            node.spawn()?;
        }
        for node in &mut cluster.nodes {
            node.wait_ready(interrupt)?;
        }
        Ok(cluster)
    }

    /// Addresses as the command line takes them.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addr().to_string()).collect()
    }

    /// The node with this id.
    pub(crate) fn node(&mut self, id: u32) -> Option<&mut NodeProcess> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }
}

/// How this disk is written best, measured once for all nodes: they stand on one disk, and each
/// would measure the others' starting.
pub(crate) fn measured(dir: &Path) -> SyncPath {
    static MEASURED: OnceLock<SyncPath> = OnceLock::new();
    *MEASURED.get_or_init(|| {
        // A disk that cannot be measured says why when it is used.
        let timings = probe_sync(dir).unwrap_or_default();
        let samples: Vec<Sample> = timings.iter().map(Timing::sample).collect();
        decide(&samples).map_or(SyncPath::default(), |verdict| verdict.path)
    })
}

fn node_config(layout: &Layout, members: &[Member], id: u32, home: &Path) -> Config {
    let own = &members[id as usize - 1];
    let mut config = Config::embedded(home.join("data"));
    config.network.zero_copy = layout.zero_copy;
    config.network.forward_compression = layout.compression;
    config.cluster.id = layout.id;
    config.cluster.name = layout.name.to_owned();
    config.cluster.role = layout.role;
    config.node.id = id;
    config.node.region = own.region.clone();
    config.node.listen = Some(own.addr);
    config.node.advertise = Some(own.addr);
    config.members = members.to_vec();
    config.upstream.endpoints = layout.upstream.clone();
    config.log.segment_bytes = SEGMENT_BYTES;
    config.log.log_bytes_max = layout.log_bytes_max;
    config.timing = layout.timing.clone();
    config
}

/// Finds a port where nobody listens, and claims it.
fn reserve() -> Result<Reservation, Failure> {
    let count = u32::from(PORTS.end - PORTS.start);
    let start = std::process::id().wrapping_mul(37) % count;
    for step in 0..count {
        let port = PORTS.start + ((start + step) % count) as u16;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(claim) = UdpSocket::bind(addr) else { continue };
        if TcpListener::bind(addr).is_ok() {
            return Ok(Reservation { addr, _claim: claim });
        }
    }
    Err(Failure::new(Exit::Failed, format!("no free loopback port in {PORTS:?}; free one")))
}

impl NodeProcess {
    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.port.addr
    }

    /// Its process, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn command(&self, verb: &str) -> Result<Command, Failure> {
        let program = std::env::current_exe();
        let program = program.map_err(|error| Failure::io("this program", &error))?;
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| Failure::io(self.log.display(), &error))?;
        let mut command = Command::new(program);
        // A group of its own: Ctrl-C reaches the demo alone, which ends its children itself.
        command.arg(verb).arg("--config").arg(&self.config).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        Ok(command)
    }

    fn format(&self, interrupt: &Interrupt) -> Result<(), Failure> {
        let mut child = self.command("format")?.spawn().map_err(|e| Failure::io("format", &e))?;
        let deadline = Instant::now() + FORMAT_MAX;
        loop {
            let state = child.try_wait().map_err(|error| Failure::io("format", &error))?;
            match state {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.broken(&format!("format ended with {status}"))),
                None if interrupt.is_set() || Instant::now() > deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    interrupt.check()?;
                    return Err(self.broken("format takes too long"));
                }
                None => std::thread::park_timeout(Duration::from_millis(2)),
            }
        }
    }

    /// Starts the process; [`NodeProcess::wait_ready`] completes it.
    pub(crate) fn spawn(&mut self) -> Result<(), Failure> {
        let child = self.command("node")?.arg("--die-with-parent").spawn();
        self.child = Some(child.map_err(|error| Failure::io("node", &error))?);
        Ok(())
    }

    /// Waits until the process says `ready`.
    pub(crate) fn wait_ready(&mut self, interrupt: &Interrupt) -> Result<(), Failure> {
        let stdout = self.child.as_mut().and_then(|child| child.stdout.take());
        let Some(stdout) = stdout else { return Err(self.broken("not started")) };
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Goes on after `ready` so that the pipe never fills.
                let _ = send.send(line);
            }
        });
        let deadline = Instant::now() + READY_MAX;
        loop {
            interrupt.check()?;
            match receive.recv_timeout(Duration::from_millis(50)) {
                Ok(line) if line == "ready" => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.broken("not ready in time")),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.broken("ended before it was ready"));
                }
            }
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it keeps its connections and does nothing.
    pub(crate) fn pause(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on.
    pub(crate) fn resume(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let Some(child) = &self.child else { return Err(self.broken("it does not run")) };
        let failed = |error: rustix::io::Errno| Failure::io(self.place.name, &error.into());
        kill_process(Pid::from_child(child), signal).map_err(failed)
    }

    /// What it said of memory that the kernel does not let it register.
    pub(crate) fn notice(&self) -> Option<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains(UNREGISTERED))?;
        Some(line.strip_prefix("palisade: ").unwrap_or(line).to_owned())
    }

    fn broken(&self, what: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        let tail: Vec<_> = lines.into_iter().rev().map(|line| format!("\n  {line}")).collect();
        let text = format!("node {}: {what}; its log ends with:{}", self.place.name, tail.concat());
        Failure::new(Exit::Failed, text)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
