//! `bench forward --compression`: what a node sends to a standby in another region, and what that
//! costs, with LZ4 and without, of records that can be compressed and of such that cannot.
//!
//! One node as a process, which compresses what goes to other regions, and one stream of each kind
//! of records. Some connections of one registered standby read a stream again and again. First they
//! do not say that they read LZ4, then they do: each from a place of its own on, and all of them
//! from the start, where what is compressed for one is there for the others.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use palisade::client::wire::{
    AppendBuilder, AppendRecord, KIND_APPEND, KIND_APPENDED, Outcome, parse_appended,
};
use palisade::client::{Client, ClientOptions, Connection};
use palisade::config::Compression;
use palisade::control::{Request, Settings};
use palisade::forward::wire::{
    FEATURE_LZ4, FROM_FORWARDER, Fetch, FromForwarder, FromReader, KIND_CHUNK, KIND_END,
};
use palisade::status::{Status, Transfer};
use palisade_netio::{ANY_NODE, ANY_SHARD, Class, FrameHead, FrameLimits, Hello, Identity, Target};
use palisade_wal::Lsn;
use serde_json::{Value, json};

use super::append::connect_to_leader;
use super::forward::{CREDIT_BYTES, CREDIT_STEP_BYTES, PATIENCE, layout};
use super::machine::cpu_us_of;
use crate::cli::BenchForward;
use crate::demo::Cluster;
use crate::exit::{Exit, Failure};
use crate::signals::Interrupt;
use crate::text;

/// The standby that reads.
const STANDBY: u32 = 9;
/// Bytes of records in one request, and requests in flight, while a stream is filled.
const REQUEST_BYTES: usize = 256 << 10;
const REQUESTS: u64 = 8;
/// Words of a record that can be compressed.
const WORDS: [&str; 32] = [
    "account",
    "amount",
    "balance",
    "booked",
    "branch",
    "cancelled",
    "city",
    "credit",
    "currency",
    "customer",
    "debit",
    "delivered",
    "fee",
    "holder",
    "invoice",
    "item",
    "ledger",
    "limit",
    "merchant",
    "note",
    "order",
    "paid",
    "pending",
    "price",
    "quantity",
    "refund",
    "shipped",
    "status",
    "street",
    "tax",
    "total",
    "transfer",
];

/// What reading a stream came to.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// Bytes of records, and bytes that were sent for them, heads and all.
    records: u64,
    sent: u64,
    cpu_us: u64,
    seconds: f64,
}

impl Figures {
    fn bytes_per_byte(&self) -> f64 {
        self.sent as f64 / (self.records as f64).max(1.0)
    }

    /// CPU seconds of the node for a GiB of records.
    fn cpu_s_per_gib(&self) -> f64 {
        self.cpu_us as f64 / 1e6 / (self.records as f64 / f64::from(1 << 30)).max(1e-9)
    }

    /// With what it is of what goes as it is.
    fn json(&self, plain: &Figures) -> Value {
        json!({
            "bytes_ratio": thousandth(self.bytes_per_byte() / plain.bytes_per_byte()),
            "cpu_ratio": thousandth(self.cpu_s_per_gib() / plain.cpu_s_per_gib()),
            "bytes_per_byte": thousandth(self.bytes_per_byte()),
            "cpu_s_per_gib": thousandth(self.cpu_s_per_gib()),
            "mb_per_s": thousandth(self.records as f64 / 1e6 / self.seconds.max(1e-9)),
        })
    }
}

fn thousandth(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// Runs the benchmark and prints what it found.
pub(super) fn run(options: &BenchForward) -> Result<Exit, Failure> {
    let measured = measure(options)?;
    let text = match options.run.json {
        true => measured.to_string(),
        false => table(&measured),
    };
    text::say(format!("{text}\n"))?;
    Ok(Exit::Ok)
}

/// The same for people.
fn table(measured: &Value) -> String {
    let head = ["records", "sent", "bytes per byte", "ratio", "CPU s per GiB", "ratio", "MB/s"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for kind in ["text", "random"] {
        for how in ["off", "lz4_apart", "lz4_together"] {
            let figures = ["bytes_per_byte", "bytes_ratio", "cpu_s_per_gib", "cpu_ratio"];
            let figures = figures.into_iter().chain(["mb_per_s"]);
            let figures = figures.map(|name| measured[kind][how][name].to_string());
            let row = [kind, how].into_iter().map(str::to_owned).chain(figures);
            rows.push(row.collect());
        }
    }
    text::table(&rows)
}

/// The figures as JSON.
fn measure(options: &BenchForward) -> Result<Value, Failure> {
    let interrupt = Interrupt::catch()?;
    let dir = super::temporary_dir(&options.run.dir)?;
    let layout = crate::demo::Layout { compression: Compression::Lz4, ..layout() };
    let cluster = Cluster::start(&layout, dir.path(), &interrupt)?;
    let settings = ClientOptions { cluster: cluster.id, timeout: PATIENCE };
    let mut client = Client::new(&cluster.endpoints(), settings)?;
    let standby = Settings {
        name: Some("bench".to_owned()),
        region: Some("HZ".to_owned()),
        endpoints: Some(vec!["127.0.0.1:1".to_owned()]),
        transfer: Some(Transfer::Async),
        ..Settings::default()
    };
    client.control(&Request::Add { cluster: STANDBY, settings: standby }, false)?;
    let streams = client.create_streams(2)?;
    let mut all = serde_json::Map::new();
    for (stream, name) in streams.into_iter().zip(["text", "random"]) {
        let mut seed = 7;
        let end = fill(&cluster, stream, options, &interrupt, || match name {
            "text" => words(&mut seed, options.record_bytes as usize),
            _ => random(&mut seed, options.record_bytes as usize),
        })?;
        let read =
            |features, apart| read(&cluster, (stream, end), features, apart, options, &interrupt);
        let plain = read(0, true)?;
        let (apart, together) = (read(FEATURE_LZ4, true)?, read(FEATURE_LZ4, false)?);
        let kind = json!({
            "off": plain.json(&plain),
            "lz4_apart": apart.json(&plain),
            "lz4_together": together.json(&plain),
        });
        all.insert(name.to_owned(), kind);
    }
    let status = client.status_json()?;
    let status: Status = serde_json::from_slice(&status)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    all.insert("compression".to_owned(), json!(status.node.compression));
    all.insert("readers".to_owned(), json!(options.readers));
    Ok(Value::Object(all))
}

fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Words and numbers.
fn words(seed: &mut u64, bytes: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(bytes + 32);
    while record.len() < bytes {
        let word = WORDS[next(seed) as usize % WORDS.len()];
        record.extend_from_slice(format!("\"{word}\":{},", next(seed) % 100_000).as_bytes());
    }
    record.truncate(bytes);
    record
}

fn random(seed: &mut u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| (next(seed) >> 24) as u8).collect()
}

/// Fills a stream; where it ends.
fn fill(
    cluster: &Cluster,
    stream: u64,
    options: &BenchForward,
    interrupt: &Interrupt,
    mut record: impl FnMut() -> Vec<u8>,
) -> Result<Lsn, Failure> {
    let mut connection = connect_to_leader(cluster, stream, b"first")?;
    let records = (REQUEST_BYTES / options.record_bytes as usize).max(1);
    let requests = (options.fill_mib << 20) / (records as u64 * u64::from(options.record_bytes));
    let (mut sent, mut end) = (0, Lsn::ZERO);
    for answered in 0..requests.max(1) {
        interrupt.check()?;
        while sent < requests.max(1) && sent < answered + REQUESTS {
            let mut builder = AppendBuilder::default();
            for _ in 0..records {
                let payload = &record();
                builder.push(&AppendRecord { producer: 0, sequence: 0, scn_floor: 0, payload });
            }
            let request = FrameHead::encode(KIND_APPEND, sent, stream, &builder.finish());
            connection.send(&request)?;
            sent += 1;
        }
        let failed = |why: String| Failure::new(Exit::Failed, why);
        let frame = connection.receive(&FrameLimits::ANY, Instant::now() + PATIENCE)?;
        let frame = frame.filter(|frame| frame.head.kind == KIND_APPENDED);
        let frame = frame.ok_or_else(|| failed("the leader refused an append".to_owned()))?;
        let fates = parse_appended(frame.body).map_err(|error| failed(error.to_string()))?;
        if fates.iter().any(|fate| fate.outcome != Outcome::Acked) {
            return Err(failed("an append was not acked".to_owned()));
        }
        end = fates.iter().map(|fate| Lsn(fate.end_lsn)).fold(end, Lsn::max);
    }
    Ok(end)
}

/// Lets the readers work for the time of the run.
fn read(
    cluster: &Cluster,
    (stream, end): (u64, Lsn),
    features: u8,
    apart: bool,
    options: &BenchForward,
    interrupt: &Interrupt,
) -> Result<Figures, Failure> {
    let process = cluster.nodes[0].process().unwrap_or(0);
    let (stop, records, sent) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let open = || {
        let from = Identity { cluster: STANDBY, node: 1, ..Identity::default() };
        let target = Target { cluster: cluster.id, node: ANY_NODE, shard: ANY_SHARD };
        let hello = Hello { stream, features, ..Hello::new(Class::Reader, from, target) };
        Connection::greet_with(cluster.nodes[0].addr(), &hello, PATIENCE)
    };
    let readers = (0..options.readers).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
    std::thread::scope(|scope| {
        let (stop, records, sent) = (&stop, &records, &sent);
        let each = if apart { end.0 / u64::from(options.readers) } else { 0 };
        let threads: Vec<_> = (0u64..)
            .zip(readers)
            .map(|(at, connection)| {
                let from = Lsn(each * at);
                scope.spawn(move || {
                    let read = take(connection, (stream, from, end), (stop, records, sent));
                    stop.fetch_or(read.is_err(), Ordering::SeqCst);
                    read
                })
            })
            .collect();
        let wait = |time: Duration| {
            let until = Instant::now() + time;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                interrupt.check()?;
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::park_timeout(left.min(Duration::from_millis(50)));
            }
            Ok::<(), Failure>(())
        };
        let warm = wait(Duration::from_secs(1));
        let now = || (records.load(Ordering::SeqCst), sent.load(Ordering::SeqCst));
        let (before, cpu, began) = (now(), cpu_us_of(process), Instant::now());
        let waited = warm.and_then(|()| wait(Duration::from_secs(options.run.seconds)));
        let figures = Figures {
            records: now().0 - before.0,
            sent: now().1 - before.1,
            cpu_us: cpu_us_of(process).saturating_sub(cpu),
            seconds: began.elapsed().as_secs_f64(),
        };
        stop.store(true, Ordering::SeqCst);
        for thread in threads {
            let ended = thread.join();
            ended.map_err(|_| Failure::new(Exit::Failed, "a reader panicked"))??;
        }
        waited.map(|()| figures)
    })
}

/// Reads from somewhere to the end, then again and again from the start.
fn take(
    mut connection: Connection,
    (stream, from, to): (u64, Lsn, Lsn),
    (stop, records, sent): (&AtomicBool, &AtomicU64, &AtomicU64),
) -> Result<(), Failure> {
    let fetch = |from| {
        let fetch =
            Fetch { stream, from, to, follow: false, credit_bytes: CREDIT_BYTES, base: None };
        FromReader::Fetch(fetch).encode()
    };
    connection.send(&fetch(from))?;
    let mut unpaid = 0;
    while !stop.load(Ordering::Relaxed) {
        let soon = Instant::now() + Duration::from_millis(100);
        let Some(frame) = connection.receive(&FROM_FORWARDER, soon)? else { continue };
        let mut again = false;
        match frame.head.kind {
            KIND_CHUNK => {
                let said = FromForwarder::parse(&frame.head, frame.prefix);
                let said = said.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
                let FromForwarder::Chunk(chunk) = said else { continue };
                unpaid += u64::from(chunk.body_len);
                records.fetch_add(chunk.body_len.into(), Ordering::Relaxed);
                sent.fetch_add(frame.head.frame_len() as u64, Ordering::Relaxed);
            }
            KIND_END => again = true,
            // How the node stands, and what is closed there.
            _ => {}
        }
        if again {
            unpaid = 0;
            connection.send(&fetch(Lsn::ZERO))?;
        } else if unpaid >= CREDIT_STEP_BYTES {
            let bytes = std::mem::take(&mut unpaid);
            connection.send(&FromReader::Credit { stream, bytes }.encode())?;
        }
    }
    Ok(())
}
