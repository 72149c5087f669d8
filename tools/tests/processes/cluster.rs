//! Clusters of node processes below the target directory.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Condvar, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use palisade::Config;
use palisade::config::{Member, Role, SyncPath};
use palisade::status::Status;
use rustix::process::{Pid, Resource, Signal, getrlimit, getuid, kill_process};

use super::run::{Done, Guarded, eventually, palisade, run, within};

/// How long a node may take to recover and listen.
const READY_MAX: Duration = Duration::from_secs(60);
/// Below the range that the kernel gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const SEGMENT_BYTES: u64 = 8 << 20;
const LOG_BYTES_MAX: u64 = 512 << 20;

/// A port that no other test takes while this lives.
pub struct Port {
    pub addr: SocketAddr,
    _claim: UdpSocket,
}

/// Finds a port where nobody listens, and claims it.
pub fn port() -> Port {
    static STEP: AtomicU16 = AtomicU16::new(0);
    let count = u32::from(PORTS.end - PORTS.start);
    let start = std::process::id().wrapping_mul(37) + 6000;
    for _ in 0..count {
        let step = u32::from(STEP.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + (start.wrapping_add(step) % count) as u16;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(claim) = UdpSocket::bind(addr) else { continue };
        if TcpListener::bind(addr).is_ok() {
            return Port { addr, _claim: claim };
        }
    }
    panic!("no free loopback port in {PORTS:?}");
}

/// A directory of a test, gone when it ends.
pub fn directory(name: &str) -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix(name).tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Locked memory below which the nodes of one test at a time are enough for it: the limit of an
/// ordinary user counts over all processes, and the rings of each node take from it.
const MEMLOCK_SCARCE: u64 = 64 << 20;

/// The test whose clusters run, where memory that can be locked is scarce, and how many.
static TURN: (Mutex<Option<(ThreadId, usize)>>, Condvar) = (Mutex::new(None), Condvar::new());

/// The turn of a test: others wait until its last cluster is gone.
pub struct Turn {
    is_taken: bool,
}

impl Turn {
    /// Waits for it; a test that has it has it for every further cluster.
    fn take() -> Turn {
        let limit = getrlimit(Resource::Memlock).current;
        let is_scarce = limit.is_some_and(|bytes| bytes < MEMLOCK_SCARCE);
        if getuid().is_root() || !is_scarce {
            return Turn { is_taken: false };
        }
        let own = std::thread::current().id();
        let turn = TURN.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let others = |turn: &mut Option<(ThreadId, usize)>| turn.is_some_and(|(id, _)| id != own);
        let turn = TURN.1.wait_while(turn, others);
        let mut turn = turn.unwrap_or_else(|poisoned| poisoned.into_inner());
        turn.get_or_insert((own, 0)).1 += 1;
        Turn { is_taken: true }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_taken {
            return;
        }
        let mut turn = TURN.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *turn = turn.map(|(id, count)| (id, count - 1)).filter(|(_, count)| *count > 0);
        TURN.1.notify_all();
    }
}

/// Silence of a leader after which another one is elected.
const ELECTION: Duration = Duration::from_secs(1);
/// Ages of a write at which a node leads no more, and ends.
const STALLS: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));

/// A node: its configuration, and its process while it runs.
pub struct Node {
    pub config: Config,
    pub home: PathBuf,
    /// Words before the program's name, for instance `setpriv ..`.
    pub launcher: Vec<String>,
    child: Option<Guarded>,
    _port: Port,
}

/// The nodes of one cluster.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub dir: tempfile::TempDir,
    /// Given back after the nodes.
    _turn: Turn,
}

impl Cluster {
    /// A cluster of `count` nodes, not formatted yet.
    pub fn plan(name: &str, count: u32, role: Role) -> Cluster {
        let turn = Turn::take();
        let dir = directory(name);
        let ports: Vec<Port> = (0..count).map(|_| port()).collect();
        let member =
            |(port, id): (&Port, u32)| Member { id, addr: port.addr, region: "sh".to_owned() };
        let members: Vec<Member> = ports.iter().zip(1..).map(member).collect();
        let node = |(port, id): (Port, u32)| {
            let home = dir.path().join(format!("n{id}"));
            std::fs::create_dir(&home).expect("a new directory");
            let mut config = Config::embedded(home.join("data"));
            config.cluster.role = role;
            config.node.id = id;
            config.node.region = "sh".to_owned();
            config.node.listen = Some(port.addr);
            config.node.advertise = Some(port.addr);
            config.members = members.clone();
            config.log.segment_bytes = SEGMENT_BYTES;
            config.log.log_bytes_max = LOG_BYTES_MAX;
            // Measuring beside other tests says nothing.
            config.log.sync_path = Some(SyncPath::Dsync);
            // Leaders change when a test makes them, not when the disk stands still.
            (config.timing.election, config.timing.hand_over) = (ELECTION, Duration::ZERO);
            (config.timing.disk_stall_soft, config.timing.disk_stall_hard) = STALLS;
            Node { config, home, launcher: Vec::new(), child: None, _port: port }
        };
        let nodes = ports.into_iter().zip(1..).map(node).collect();
        Cluster { nodes, dir, _turn: turn }
    }

    /// A running cluster of `count` nodes.
    pub fn start(name: &str, count: u32) -> Cluster {
        let mut cluster = Cluster::plan(name, count, Role::Primary);
        cluster.format_and_start();
        cluster
    }

    /// Formats and starts every node.
    pub fn format_and_start(&mut self) {
        for node in &mut self.nodes {
            node.format().ok();
        }
        self.nodes.iter_mut().for_each(Node::spawn);
        self.nodes.iter_mut().for_each(Node::wait_ready);
        self.wait_votes(1);
    }

    /// Waits until every node that runs says that all members vote on a stream: before that, its
    /// first leader cannot be done without.
    pub fn wait_votes(&self, stream: u64) {
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.child.is_some()).collect();
        let all = running.len() == self.nodes.len();
        eventually("every member votes", Duration::from_secs(60), || {
            let votes = |node: &&Node| {
                let status = node.status()?;
                let seen = status.stream(stream)?;
                (seen.ballot.node != 0 && (seen.learners.is_empty() || !all)).then_some(())
            };
            running.iter().try_for_each(votes)
        });
    }

    /// Every address, as the command line takes them.
    pub fn at(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(Node::at).collect();
        addresses.join(",")
    }

    /// Creates a stream.
    pub fn create_stream(&self) -> u64 {
        let made = palisade(&["stream", "create", "--json", "--at", &self.at()]).json();
        let stream = made["streams"][0].as_u64().expect("an id");
        self.wait_votes(stream);
        stream
    }

    /// Waits until every node has committed the same, at least to `at_least`.
    pub fn wait_settled(&self, stream: u64, at_least: u64) {
        let mut last = Vec::new();
        eventually("all nodes have committed the same", Duration::from_secs(60), || {
            let of = |node: &Node| Some(node.status()?.stream(stream)?.committed_lsn);
            last = self.nodes.iter().map(of).collect::<Vec<_>>();
            let first = last[0]?;
            (first >= at_least && last.iter().all(|one| *one == Some(first))).then_some(())
        });
    }

    /// Nothing needs repair, no alarm is up, and every stream has a leader before long.
    pub fn assert_healthy(&self) {
        for node in &self.nodes {
            let mut last = Status::default();
            let healthy = within(Duration::from_secs(60), || {
                last = node.status()?;
                let normal = last.streams.iter().all(|stream| stream.state == "normal");
                (normal && last.alarms.is_empty()).then_some(())
            });
            assert!(healthy.is_some(), "{last:#?}\n{}", node.log());
        }
    }
}

impl Node {
    /// Where it listens.
    pub fn at(&self) -> String {
        self.config.node.listen.expect("it listens").to_string()
    }

    /// Its node.toml, written anew from `config`.
    pub fn toml(&self) -> PathBuf {
        let path = self.home.join("node.toml");
        std::fs::write(&path, self.config.to_toml()).expect("a file");
        path
    }

    /// The data directory as messages name it.
    pub fn data(&self) -> &str {
        self.config.node.data.to_str().expect("a plain path")
    }

    /// `palisade VERB --config ..` through the launcher.
    pub fn command(&self, verb: &str) -> Command {
        let program = env!("CARGO_BIN_EXE_palisade").to_owned();
        let mut words = self.launcher.iter().cloned().chain([program]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words).arg(verb).arg("--config").arg(self.toml()).stdin(Stdio::null());
        if verb == "node" {
            command.arg("--die-with-parent");
        }
        command
    }

    pub fn format(&self) -> Done {
        run(self.command("format"), READY_MAX)
    }

    /// Runs the node although it should refuse.
    pub fn run_refused(&self) -> Done {
        run(self.command("node"), READY_MAX)
    }

    /// Starts the process; [`Node::wait_ready`] completes it.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.home.join("log"));
        let mut command = self.command("node");
        command.stdout(Stdio::piped()).stderr(log.expect("a log file"));
        self.child = Some(Guarded(command.spawn().expect("the program starts")));
    }

    /// Waits until it says `ready`.
    pub fn wait_ready(&mut self) {
        let child = self.child.as_mut().expect("spawned");
        let stdout = child.0.stdout.take().expect("spawned just now");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Goes on after `ready`, so that the pipe never fills.
                let _ = send.send(line);
            }
        });
        let deadline = Instant::now() + READY_MAX;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line == "ready" => return,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("not ready in time\n{}", self.log()),
                Err(RecvTimeoutError::Disconnected) => panic!("it ended\n{}", self.log()),
            }
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Its exit code, once it has ended by itself.
    pub fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child.as_mut().expect("it was started").0;
        child.try_wait().expect("a child of this process")?.code()
    }

    /// SIGTERM: what it took gets its outcome.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGSTOP: it keeps its sockets and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process"), signal).expect("a child that was not waited for");
    }

    /// The running process.
    pub fn process(&self) -> u32 {
        self.child.as_ref().expect("it runs").0.id()
    }

    /// What it wrote to stderr in all its lives.
    pub fn log(&self) -> String {
        let name = self.home.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(self.home.join("log")).unwrap_or_default();
        format!("log of {name}:\n{text}")
    }

    /// What it shows of itself, if it answers.
    pub fn status(&self) -> Option<Status> {
        let done = palisade(&["status", "--json", "--at", &self.at()]);
        (done.code == Some(0)).then(|| serde_json::from_str(&done.out).expect("a status"))
    }
}
