//! `bench forward`: what a node's forwarding shard sends to many readers, beside a bare loop of
//! `sendfile` on the same file.
//!
//! A node as a process, and one stream in sealed segments. Some readers read it again and again as
//! fast as they can, each from a place of its own on; others follow its end, where a record is
//! appended each millisecond. Counted are the bytes of the first, how long the second wait for a
//! record, and how far the node's memory grows meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use palisade::client::{Client, ClientOptions, Connection};
use palisade::config::{Role, TimingConfig};
use palisade::forward::wire::{FROM_FORWARDER, Fetch, FromForwarder, FromReader};
use palisade_netio::Class;
use palisade_wal::{GroupHeader, GroupKind, Lsn, entries, parse_body};
use zerocopy::FromBytes;

use super::append::{Window, append_one};
use super::machine::{cpu_us_of, resident_bytes_of};
use super::report::Measured;
use super::sendfile;
use crate::cli::BenchForward;
use crate::demo::{Cluster, Layout, Place};
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Records in flight while the stream is filled.
const FILL_IN_FLIGHT: u32 = 1024;
/// Space of the node.
const LOG_BYTES_MAX: u64 = 4 << 30;
/// Between two records at the end of the stream.
const TICK: Duration = Duration::from_millis(1);
/// Credit of a reader, and the steps in which it is given back.
pub(super) const CREDIT_BYTES: u64 = 16 << 20;
pub(super) const CREDIT_STEP_BYTES: u64 = 2 << 20;

/// What all threads of a run share.
struct Shared {
    addr: SocketAddr,
    cluster: u32,
    stream: u64,
    /// End of what was there before anybody read.
    end: Lsn,
    began: Instant,
    measuring: AtomicBool,
    stop: AtomicBool,
    /// Bytes that readers got while it was measured.
    bytes: AtomicU64,
    /// The node's process.
    process: u32,
    /// The most memory that it had.
    memory: AtomicU64,
}

/// One node.
pub(super) fn layout() -> Layout {
    Layout {
        zero_copy: palisade::config::ZeroCopy::Auto,
        compression: palisade::config::Compression::Off,
        id: 1,
        name: "bench",
        role: Role::Primary,
        places: vec![Place { name: "n1", region: "SH" }],
        upstream: Vec::new(),
        log_bytes_max: LOG_BYTES_MAX,
        timing: TimingConfig::default(),
    }
}

/// Runs the benchmark.
pub(super) fn run(options: &BenchForward) -> Result<Measured, Failure> {
    let interrupt = Interrupt::catch()?;
    let load = options.load();
    let dir = super::temporary_dir(&load.run.dir)?;
    let layout = layout();
    let cluster = Cluster::start(&layout, dir.path(), &interrupt)?;
    let settings = ClientOptions { cluster: cluster.id, timeout: PATIENCE };
    let streams = Client::new(&cluster.endpoints(), settings)?.create_streams(1)?;
    let mut window = Window::open(&load, &cluster, streams.clone(), FILL_IN_FLIGHT)?;
    let end = window.fill(options.fill_mib << 20, &interrupt)?;
    let shared = Shared {
        addr: cluster.nodes[0].addr(),
        cluster: cluster.id,
        stream: streams[0],
        end,
        began: Instant::now(),
        measuring: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        bytes: AtomicU64::new(0),
        process: cluster.nodes[0].process().unwrap_or(0),
        memory: AtomicU64::new(0),
    };
    let mut measured = Measured::new("forward", 1, &load)?;
    measured.environment.sends(layout.zero_copy);
    let before = resident_bytes_of(shared.process);
    let lags = measure(options, &shared, &interrupt, &mut measured)?;
    measured.memory_grew = Some(shared.memory.load(Ordering::SeqCst).saturating_sub(before));
    lags.into_iter().for_each(|lag| measured.record(lag, 1));
    measured.bare = Some(sendfile::run(dir.path(), Duration::from_secs(load.run.seconds))?);
    Ok(measured)
}

/// Lets all threads work for the time of the run. How long each record took to its followers.
fn measure(
    options: &BenchForward,
    shared: &Shared,
    interrupt: &Interrupt,
    measured: &mut Measured,
) -> Result<Vec<Duration>, Failure> {
    // One after another: a node greets a few at a time, and hangs up on others.
    let open = |count| (0..count).map(|_| Reading::open(shared)).collect::<Result<Vec<_>, _>>();
    let (readers, followers) = (open(options.readers)?, open(options.followers)?);
    // Evenly over what is there.
    let age = |at: u32| Lsn(shared.end.0 / u64::from(options.readers) * u64::from(at));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0u32..)
            .zip(readers)
            .map(|(at, reading)| scope.spawn(move || read_from(reading, age(at))))
            .collect();
        let followers: Vec<_> =
            followers.into_iter().map(|reading| scope.spawn(|| follow(reading))).collect();
        let appender = (options.followers > 0).then(|| scope.spawn(|| append_slowly(shared)));
        let waited = wait(shared, WARM_UP, interrupt);
        shared.measuring.store(true, Ordering::SeqCst);
        let (since, cpu) = (Instant::now(), cpu_us_of(shared.process));
        let waited =
            waited.and_then(|()| wait(shared, Duration::from_secs(options.run.seconds), interrupt));
        measured.took = since.elapsed();
        measured.cpu_us = cpu_us_of(shared.process).saturating_sub(cpu);
        measured.forwarded = Some(shared.bytes.load(Ordering::SeqCst));
        shared.stop.store(true, Ordering::SeqCst);
        let mut lags = Vec::new();
        let ended = || Failure::new(Exit::Failed, "a reader panicked");
        for reader in readers {
            reader.join().map_err(|_| ended())??;
        }
        for follower in followers {
            lags.extend(follower.join().map_err(|_| ended())??);
        }
        if let Some(appender) = appender {
            appender.join().map_err(|_| ended())??;
        }
        waited.map(|()| lags)
    })
}

/// Time before the measurement: maps and the page cache are warm then.
const WARM_UP: Duration = Duration::from_secs(1);

/// Waits until a thread failed, somebody interrupts, or the time is over.
fn wait(shared: &Shared, time: Duration, interrupt: &Interrupt) -> Result<(), Failure> {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        interrupt.check()?;
        shared.memory.fetch_max(resident_bytes_of(shared.process), Ordering::SeqCst);
        if shared.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        std::thread::park_timeout(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// One connection of a reader.
struct Reading<'a> {
    shared: &'a Shared,
    connection: Connection,
    unpaid: u64,
}

/// What came.
enum Came {
    /// The body of a chunk, with the CRC of its record headers.
    Chunk(Vec<u8>, u32),
    /// So many bytes of one that nobody looks into.
    Bytes(u64),
    End,
    Nothing,
}

impl<'a> Reading<'a> {
    fn open(shared: &'a Shared) -> Result<Reading<'a>, Failure> {
        let Shared { addr, cluster, stream, .. } = *shared;
        let connection = Connection::open(addr, Class::Reader, cluster, stream, PATIENCE)?;
        Ok(Reading { shared, connection, unpaid: 0 })
    }

    fn fetch(&mut self, from: Lsn, follow: bool) -> Result<(), Failure> {
        let to = if follow { Lsn::MAX } else { self.shared.end };
        let stream = self.shared.stream;
        let fetch = Fetch { stream, from, to, follow, base: None, credit_bytes: CREDIT_BYTES };
        self.unpaid = 0;
        Ok(self.connection.send(&FromReader::Fetch(fetch).encode())?)
    }

    /// Takes one frame and gives credit back.
    fn take(&mut self, whole: bool) -> Result<Came, Failure> {
        let soon = Instant::now() + Duration::from_millis(100);
        let Some(frame) = self.connection.receive(&FROM_FORWARDER, soon)? else {
            return Ok(Came::Nothing);
        };
        let rest = if frame.prefix.is_empty() { frame.body } else { frame.prefix };
        let said = FromForwarder::parse(&frame.head, rest);
        let said = said.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let came = match said {
            FromForwarder::Chunk(head) => {
                self.unpaid += frame.body.len() as u64;
                match whole {
                    true => Came::Chunk(frame.body.to_vec(), head.headers_crc),
                    false => Came::Bytes(frame.body.len() as u64),
                }
            }
            FromForwarder::End(_) => Came::End,
            FromForwarder::Status(_) | FromForwarder::Beat(_) => Came::Nothing,
        };
        if self.unpaid >= CREDIT_STEP_BYTES {
            let (stream, bytes) = (self.shared.stream, std::mem::take(&mut self.unpaid));
            self.connection.send(&FromReader::Credit { stream, bytes }.encode())?;
        }
        Ok(came)
    }
}

/// A thread that failed ends the run.
fn guard<T>(shared: &Shared, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let done = work();
    if done.is_err() {
        shared.stop.store(true, Ordering::SeqCst);
    }
    done
}

/// Reads from somewhere to the end, then again and again from the start.
fn read_from(mut reading: Reading<'_>, from: Lsn) -> Result<(), Failure> {
    let shared = reading.shared;
    guard(shared, || {
        reading.fetch(from, false)?;
        while !shared.stop.load(Ordering::Relaxed) {
            match reading.take(false)? {
                Came::Bytes(bytes) if shared.measuring.load(Ordering::Relaxed) => {
                    shared.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Came::End => reading.fetch(Lsn::ZERO, false)?,
                _ => {}
            }
        }
        Ok(())
    })
}

/// Follows the end of the stream; how long each record was on its way.
fn follow(mut reading: Reading<'_>) -> Result<Vec<Duration>, Failure> {
    let shared = reading.shared;
    guard(shared, || {
        reading.fetch(shared.end, true)?;
        let mut lags = Vec::new();
        while !shared.stop.load(Ordering::Relaxed) {
            let Came::Chunk(body, crc) = reading.take(true)? else { continue };
            let metas = parse_body(&body, crc);
            let metas = metas.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
            let now = shared.began.elapsed();
            for meta in metas {
                let group = &body[meta.range()];
                let header = GroupHeader::read_from_prefix(group);
                if !header.is_ok_and(|(header, _)| header.kind == GroupKind::Data as u8) {
                    continue;
                }
                for entry in entries(group) {
                    let sent = entry.payload.first_chunk().map(|ns| u64::from_le_bytes(*ns));
                    let sent = sent.filter(|_| shared.measuring.load(Ordering::Relaxed));
                    lags.extend(sent.map(|ns| now.saturating_sub(Duration::from_nanos(ns))));
                }
            }
        }
        Ok(lags)
    })
}

/// Appends a record each millisecond that says when it left.
fn append_slowly(shared: &Shared) -> Result<(), Failure> {
    guard(shared, || {
        let Shared { addr, cluster, stream, .. } = *shared;
        let mut connection = Connection::open(addr, Class::Client, cluster, stream, PATIENCE)?;
        let mut next = Instant::now();
        while !shared.stop.load(Ordering::Relaxed) {
            let mut payload = [0; 64];
            let ns = u64::try_from(shared.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            payload[..8].copy_from_slice(&ns.to_le_bytes());
            append_one(&mut connection, stream, &payload)?;
            next += TICK;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
        }
        Ok(())
    })
}
