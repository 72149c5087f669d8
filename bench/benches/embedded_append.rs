//! Appends to a node in this process: one or many in flight, with its own thread, which sleeps or
//! spins when it is idle, or driven.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use palisade::{AppendFuture, Config, Node, ShardDriver, Stream};

const RECORD_BYTES: usize = 512;
const IN_FLIGHT: [usize; 2] = [1, 1024];
/// How long a new node may take to lead its streams.
const LEAD_MAX: Duration = Duration::from_secs(10);

fn formatted(dir: &tempfile::TempDir) -> Config {
    let config = Config::embedded(dir.path().join("n1"));
    palisade::format(&config).expect("an empty directory");
    config
}

/// Creates a stream; a node that has just started may not lead yet.
fn new_stream(node: &Node) -> Stream {
    let deadline = Instant::now() + LEAD_MAX;
    loop {
        match node.create_stream() {
            Ok(id) => return node.stream(id),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

fn append_with_a_thread(stream: &Stream, payload: &Bytes, in_flight: usize, count: u64) {
    let mut waiting: VecDeque<AppendFuture> = VecDeque::with_capacity(in_flight);
    for _ in 0..count {
        if waiting.len() == in_flight {
            waiting.pop_front().expect("full").wait().expect("an ack");
        }
        waiting.push_back(stream.append(payload.clone()));
    }
    for future in waiting {
        future.wait().expect("an ack");
    }
}

fn append_driven(
    driver: &mut ShardDriver,
    stream: &Stream,
    payload: &Bytes,
    in_flight: usize,
    count: u64,
) {
    let mut waiting: VecDeque<AppendFuture> = VecDeque::with_capacity(in_flight);
    let (mut asked, mut acked) = (0, 0);
    while acked < count {
        while waiting.len() < in_flight && asked < count {
            waiting.push_back(stream.append(payload.clone()));
            asked += 1;
        }
        driver.turn(true).expect("the shard goes on");
        while let Some(outcome) = waiting.front_mut().and_then(AppendFuture::try_take) {
            outcome.expect("an ack");
            waiting.pop_front();
            acked += 1;
        }
    }
}

fn with_a_thread(
    group: &mut BenchmarkGroup<'_, WallTime>,
    payload: &Bytes,
    (name, spin): (&str, Duration),
) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut config = formatted(&dir);
    config.timing.spin = spin;
    let node = Node::open(config).expect("a node");
    let stream = new_stream(&node);
    for in_flight in IN_FLIGHT {
        group.bench_function(format!("{name}/{in_flight}"), |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                append_with_a_thread(&stream, payload, in_flight, count);
                start.elapsed()
            });
        });
    }
    node.stop().expect("nothing failed");
}

fn driven(group: &mut BenchmarkGroup<'_, WallTime>, payload: &Bytes) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let (node, mut driver) = Node::open_driven(formatted(&dir)).expect("a node");
    // The call blocks until somebody drives the shard.
    let stream = std::thread::scope(|scope| {
        let maker = scope.spawn(|| new_stream(&node));
        while !maker.is_finished() {
            driver.turn(false).expect("the shard goes on");
        }
        maker.join().expect("a stream")
    });
    for in_flight in IN_FLIGHT {
        group.bench_function(format!("driven/{in_flight}"), |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                append_driven(&mut driver, &stream, payload, in_flight, count);
                start.elapsed()
            });
        });
    }
}

fn embedded_append(criterion: &mut Criterion) {
    let payload = Bytes::from(vec![0xa5; RECORD_BYTES]);
    let mut group = criterion.benchmark_group("embedded_append");
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: RECORD_BYTES as u64 });
    with_a_thread(&mut group, &payload, ("thread", Duration::ZERO));
    with_a_thread(&mut group, &payload, ("spinning", Duration::from_millis(1)));
    driven(&mut group, &payload);
    group.finish();
}

criterion_group!(benches, embedded_append);
criterion_main!(benches);
