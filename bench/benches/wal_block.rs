//! One durable block at a time: made, written through the ring to a real file, and durable.

use std::path::PathBuf;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use palisade_netio::{Pool, Purpose, Quotas, Ring, Token, Uring, UringConfig, Wait};
use palisade_wal::limits::BLOCK_HEAD_BYTES;
use palisade_wal::{
    Ballot, BodyBuilder, CHAIN_START, Config, ENTRY_HEADER_BYTES, GROUP_HEADER_BYTES, GroupKind,
    Lsn, NewBlock, NoRoom, Origin, RECORD_HEADER_BYTES, SyncPath, Wal,
};

const BLOCK_BYTES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
const QUOTAS: Quotas = Quotas { write: 32 << 20, receive: 1 << 20, tail: 1 << 20, read: 8 << 20 };

/// A log alone with its ring.
struct Log {
    wal: Wal,
    ring: Uring,
    pool: Pool,
    payload: Vec<u8>,
}

impl Log {
    fn open(dir: PathBuf, block_bytes: usize) -> Log {
        let pool = Pool::new(QUOTAS).expect("memory");
        let ring = Uring::new(UringConfig::default(), &pool).expect("io_uring");
        let config = Config {
            dir,
            cluster: 1,
            node: 1,
            incarnation: 7,
            shard: 0,
            segment_bytes: 128 << 20,
            log_bytes_max: 16 << 30,
            in_flight_max: 2,
            sync_path: SyncPath::Dsync,
            started: None,
        };
        let heads =
            BLOCK_HEAD_BYTES + RECORD_HEADER_BYTES + GROUP_HEADER_BYTES + ENTRY_HEADER_BYTES;
        let payload = vec![0xa5; block_bytes - heads];
        let mut log = Log { wal: Wal::open(config).expect("bounds"), ring, pool, payload };
        while !log.wal.is_ready() {
            log.turn();
            while log.wal.poll_replay(&mut log.pool).is_some() {}
        }
        log
    }

    /// Hands over what the log asks for and waits for the next completion or timer.
    fn turn(&mut self) {
        self.wal.on_time(self.ring.now());
        let mut ops = Vec::new();
        self.wal.poll_ops(&mut self.pool, &mut ops);
        for (local, op) in ops {
            self.ring.submit(&mut self.pool, Token(local.into()), op);
        }
        let wait = match self.ring.in_flight() {
            0 => Wait::No,
            _ => Wait::Until(self.wal.next_timer()),
        };
        let mut done = Vec::new();
        self.ring.enter(&mut self.pool, wait, &mut done);
        for completion in done {
            let local = completion.token.0 as u32;
            self.wal.on_completion(&mut self.pool, local, completion);
        }
        assert!(self.wal.poisoned().is_none(), "{:?}", self.wal.poisoned());
    }

    fn write_block(&mut self) {
        let bytes = self.payload.len() + 4096;
        let slot = self.pool.take(Purpose::Write, bytes).expect("one block at a time");
        let ballot = Ballot { round: 3, node: 1, incarnation: 7 };
        let origin = Origin { role_epoch: 1, cluster: 1, ballot };
        let mut builder = BodyBuilder::new(&mut self.pool.bytes_mut(slot)[BLOCK_HEAD_BYTES..]);
        let begun = builder.begin_group(2, Lsn(0), ballot, GroupKind::Data, origin, 0);
        begun.expect("an empty body has room");
        builder.push_entry(&self.payload, 0, 0).expect("room for the record");
        builder.end_group(1, CHAIN_START);
        let body = builder.finish();
        loop {
            let block = NewBlock { slot, body: body.clone(), hard_state: false };
            match self.wal.append(&mut self.pool, block) {
                Ok(_) => break,
                Err(NoRoom::Preparing | NoRoom::Busy) => self.turn(),
                Err(error) => panic!("{error}"),
            }
        }
        while self.wal.durable() < self.wal.appended() {
            self.turn();
        }
    }
}

fn wal_block(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal_block");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(300));
    for size in BLOCK_BYTES {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut log = Log::open(dir.path().to_owned(), size);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| log.write_block());
        });
        let Log { ring, mut pool, .. } = log;
        ring.close(&mut pool);
    }
    group.finish();
}

criterion_group!(benches, wal_block);
criterion_main!(benches);
