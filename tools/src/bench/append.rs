//! `bench append --nodes 3`: three processes on this machine and this client outside of them.
//!
//! A closed loop on one connection: so many records in flight, cut into requests that rotate
//! over the streams. Without producers, so nothing is tried again: a failure ends the run.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use palisade::client::wire::{
    AppendBuilder, AppendRecord, KIND_APPEND, KIND_APPENDED, KIND_REFUSED, Outcome, Refused,
    RefusedCode, parse_appended,
};
use palisade::client::{Client, ClientOptions, Connection, resolve};
use palisade::config::{Role, TimingConfig};
use palisade_netio::{Class, FrameHead, FrameLimits};
use palisade_wal::Lsn;

use super::machine::{cpu_us_of, own_cpu_us};
use super::report::Measured;
use crate::cli::{BenchLoad, BenchOptions};
use crate::demo::{Cluster, Layout, Place};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// Requests that the window is cut into, at most.
const REQUESTS: u32 = 8;
/// Payload bytes of a request, unless a single record has more.
const REQUEST_BYTES_MAX: u32 = 256 << 10;
/// Time before the measurement, for files, caches and buffers.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions for the leader of a new stream: no node tells a client when one leads.
const PAUSE: Duration = Duration::from_millis(100);
/// Space of a node.
const LOG_BYTES_MAX: u64 = 4 << 30;

/// Timers with which no leader changes: the disk is what is measured, also where it stands still.
fn steady() -> TimingConfig {
    TimingConfig {
        election: Duration::from_secs(3),
        hand_over: Duration::ZERO,
        disk_stall_soft: PATIENCE,
        disk_stall_hard: PATIENCE * 3,
        ..TimingConfig::default()
    }
}

/// Runs the benchmark.
pub(super) fn run(options: &BenchOptions) -> Result<Measured, Failure> {
    let interrupt = Interrupt::catch()?;
    let load = &options.load;
    let dir = super::temporary_dir(&load.run.dir)?;
    let place = |name| Place { name, region: "SH" };
    let layout = Layout {
        zero_copy: palisade::config::ZeroCopy::Auto,
        compression: palisade::config::Compression::Off,
        id: 1,
        name: "bench",
        role: Role::Primary,
        places: vec![place("n1"), place("n2"), place("n3")],
        upstream: Vec::new(),
        log_bytes_max: LOG_BYTES_MAX,
        timing: steady(),
    };
    let cluster = Cluster::start(&layout, dir.path(), &interrupt)?;
    let settings = ClientOptions { cluster: cluster.id, timeout: PATIENCE };
    let streams = Client::new(&cluster.endpoints(), settings)?.create_streams(load.streams)?;
    let mut measured = Measured::new("append", options.nodes, load)?;
    measured.environment.sends(layout.zero_copy);
    let mut work = Window::open(load, &cluster, streams, load.in_flight)?;
    let began = Instant::now();
    let (mut since, mut cpu) = (began, 0);
    let length = Duration::from_secs(load.run.seconds);
    let mut warm = false;
    loop {
        interrupt.check()?;
        let now = Instant::now();
        if !warm && now - began >= WARM_UP {
            (warm, since, cpu) = (true, now, cpu_of(&cluster));
        }
        if warm && now - since >= length {
            break;
        }
        work.turn(warm.then_some(&mut measured))?;
    }
    measured.took = since.elapsed();
    measured.cpu_us = cpu_of(&cluster) - cpu;
    Ok(measured)
}

/// CPU time of the nodes and of this process.
fn cpu_of(cluster: &Cluster) -> u64 {
    let nodes = cluster.nodes.iter().filter_map(|node| node.process());
    own_cpu_us() + nodes.map(cpu_us_of).sum::<u64>()
}

pub(super) struct Window {
    connection: Connection,
    streams: Vec<u64>,
    payload: Vec<u8>,
    /// Records of the requests that may be sent now.
    ready: VecDeque<u32>,
    /// Requests in flight: when each left, and how many records it has.
    open: HashMap<u64, (Instant, u32)>,
    next: u64,
    /// End of the newest record that was acked.
    end: Lsn,
}

impl Window {
    /// `in_flight` records of these streams, none of them sent yet.
    pub(super) fn open(
        load: &BenchLoad,
        cluster: &Cluster,
        streams: Vec<u64>,
        in_flight: u32,
    ) -> Result<Window, Failure> {
        let by_bytes = (REQUEST_BYTES_MAX / load.record_bytes).clamp(1, 4096);
        let each = in_flight.div_ceil(REQUESTS).min(by_bytes);
        let mut ready = VecDeque::new();
        let mut left = in_flight;
        while left > 0 {
            let records = each.min(left);
            ready.push_back(records);
            left -= records;
        }
        let payload = vec![0x5a; load.record_bytes as usize];
        let connection = connect_to_leader(cluster, streams[0], &payload)?;
        let (open, end) = (HashMap::new(), Lsn::ZERO);
        Ok(Window { connection, streams, payload, ready, open, next: 1, end })
    }

    /// Appends at least so many bytes, and waits for all of them. The end of the last one.
    pub(super) fn fill(&mut self, bytes: u64, interrupt: &Interrupt) -> Result<Lsn, Failure> {
        let mut left = bytes.div_ceil(self.payload.len() as u64);
        loop {
            interrupt.check()?;
            let asked: u64 = self.open.values().map(|(_, records)| u64::from(*records)).sum();
            if left <= asked {
                self.ready.clear();
            }
            if self.open.is_empty() && self.ready.is_empty() {
                return Ok(self.end);
            }
            left = left.saturating_sub(self.turn(None)?);
        }
    }

    /// Sends what may be sent, then takes one answer. How many records it acked.
    fn turn(&mut self, measured: Option<&mut Measured>) -> Result<u64, Failure> {
        let mut acked = 0;
        while let Some(records) = self.ready.pop_front() {
            let id = self.next;
            self.next += 1;
            let stream = self.streams[id as usize % self.streams.len()];
            self.open.insert(id, (Instant::now(), records));
            self.connection.send(&request(id, stream, records, &self.payload))?;
        }
        let answer = self.connection.receive(&FrameLimits::ANY, Instant::now() + PATIENCE)?;
        let Some(frame) = answer else {
            return Err(Failure::new(Exit::Failed, "the leader went silent"));
        };
        let Some((left, records)) = self.open.remove(&frame.head.tag) else {
            return Err(Failure::new(Exit::Failed, "an answer to nothing"));
        };
        let took = left.elapsed();
        match frame.head.kind {
            KIND_APPENDED => {
                let fates = parse_appended(frame.body);
                let fates = fates.map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
                if fates.iter().any(|fate| fate.outcome != Outcome::Acked) {
                    return Err(Failure::new(Exit::Failed, "an append was not acked"));
                }
                self.end = fates.iter().map(|fate| Lsn(fate.end_lsn)).fold(self.end, Lsn::max);
                acked = records.into();
                if let Some(measured) = measured {
                    measured.record(took, acked);
                }
            }
            KIND_REFUSED => {
                let refused = Refused::parse(frame.body);
                let refused = refused.map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
                // Back-pressure: sent again, and not counted.
                if refused.code != RefusedCode::Busy {
                    return Err(Failure::new(Exit::Failed, refused.to_string()));
                }
            }
            kind => return Err(Failure::new(Exit::Failed, format!("answer of kind {kind}"))),
        }
        self.ready.push_back(records);
        Ok(acked)
    }
}

/// Appends one record and waits for its ack.
pub(super) fn append_one(
    connection: &mut Connection,
    stream: u64,
    payload: &[u8],
) -> Result<(), Failure> {
    connection.send(&request(1, stream, 1, payload))?;
    let answer = connection.receive(&FrameLimits::ANY, Instant::now() + PATIENCE)?;
    let acked = answer.is_some_and(|frame| {
        let fates = parse_appended(frame.body).unwrap_or_default();
        frame.head.kind == KIND_APPENDED && fates.iter().all(|f| f.outcome == Outcome::Acked)
    });
    if acked { Ok(()) } else { Err(Failure::new(Exit::Failed, "an append was not acked")) }
}

fn request(id: u64, stream: u64, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut builder = AppendBuilder::default();
    let record = AppendRecord { producer: 0, sequence: 0, scn_floor: 0, payload };
    (0..records).for_each(|_| builder.push(&record));
    FrameHead::encode(KIND_APPEND, id, stream, &builder.finish())
}

/// Follows redirections until an append is taken.
pub(super) fn connect_to_leader(
    cluster: &Cluster,
    stream: u64,
    payload: &[u8],
) -> Result<Connection, Failure> {
    let mut addr = cluster.nodes[0].addr();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut connection = Connection::open(addr, Class::Client, cluster.id, stream, PATIENCE)?;
        connection.send(&request(0, stream, 1, payload))?;
        let answer = connection.receive(&FrameLimits::ANY, Instant::now() + PATIENCE)?;
        let Some(frame) = answer else { break };
        if frame.head.kind == KIND_APPENDED {
            return Ok(connection);
        }
        if let Ok(refused) = Refused::parse(frame.body)
            && !refused.leader.is_empty()
        {
            addr = resolve(&refused.leader)?;
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    Err(Failure::new(Exit::Failed, "the stream has no leader"))
}
