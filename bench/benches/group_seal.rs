//! Making a batch: records of one size sealed as one group into a body of 256 KiB.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use palisade_wal::{Ballot, Body, BodyBuilder, CHAIN_START, GroupKind, Lsn, Origin};

const BODY_BYTES: usize = 256 << 10;
const RECORD_BYTES: [usize; 4] = [64, 256, 1024, 4096];

fn seal(bytes: &mut [u8], payload: &[u8]) -> (Body, u64) {
    let ballot = Ballot { round: 3, node: 1, incarnation: 7 };
    let origin = Origin { role_epoch: 1, cluster: 1, ballot };
    let mut builder = BodyBuilder::new(bytes);
    let begun = builder.begin_group(2, Lsn(4096), ballot, GroupKind::Data, origin, 0);
    begun.expect("an empty body has room");
    let mut records = 0;
    while builder.fits_entry(payload.len()) {
        builder.push_entry(payload, 9, records + 1).expect("it fits");
        records += 1;
    }
    builder.end_group(1, CHAIN_START);
    (builder.finish(), records)
}

fn group_seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("group_seal");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(300));
    let mut bytes = vec![0; BODY_BYTES];
    for size in RECORD_BYTES {
        let payload = vec![0xa5; size];
        let (_, elements) = seal(&mut bytes, &payload);
        group.throughput(Throughput::ElementsAndBytes { elements, bytes: elements * size as u64 });
        group.bench_with_input(BenchmarkId::from_parameter(size), &payload, |bencher, payload| {
            bencher.iter(|| seal(black_box(&mut bytes), black_box(payload)));
        });
    }
    group.finish();
}

criterion_group!(benches, group_seal);
criterion_main!(benches);
