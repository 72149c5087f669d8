//! The library as an embedder uses it: one node in this process, a real directory, a real ring.

use std::time::Duration;

use palisade::config::SyncPath;
use palisade::{Config, ErrorKind, Event, NewRecord, Node, format};
use palisade_netio::allowed_cpus;
use palisade_wal::Lsn;

const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.segment_bytes = 8 << 20;
    config.log.log_bytes_max = 128 << 20;
    config.log.sync_path = Some(SyncPath::Dsync);
    (dir, config)
}

fn numbered(sequence: u64) -> NewRecord {
    let payload = format!("record {sequence}").into();
    NewRecord { payload, producer: 7, sequence, scn_floor: 0 }
}

#[test]
fn what_was_acked_is_there_after_a_restart_in_order_and_once() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let acked: Vec<_> =
        (1..=500).map(|n| stream.append_record(numbered(n))).map(|f| f.wait().unwrap()).collect();
    let id = stream.id();
    node.stop().unwrap();

    let node = Node::open(config).unwrap();
    let stream = node.stream(id);
    let again = stream.append_record(numbered(500)).wait().unwrap();
    assert_eq!(again, acked[499], "a retry finds its original after a restart");
    let gap = stream.append_record(numbered(502)).wait().unwrap_err();
    assert_eq!((gap.kind(), gap.expected_sequence()), (ErrorKind::SequenceGap, Some(501)));
    let read: Vec<_> = stream.reader(Lsn(0)).map(Result::unwrap).collect();
    assert_eq!(read.len(), 500);
    for ((record, appended), n) in read.iter().zip(&acked).zip(1u64..) {
        assert_eq!(
            (record.lsn, record.end_lsn, record.scn),
            (appended.lsn, appended.end_lsn, appended.scn)
        );
        assert_eq!(record.payload, format!("record {n}"));
    }
}

#[test]
fn a_batch_stands_in_its_order_whether_or_not_anyone_waits_for_it() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let batch = |name: &'static str| (0..100).map(move |n| format!("{name} {n}").into());
    let waited = stream.append_batch(batch("waited for"));
    // Who drops a future has not taken its record back.
    drop(stream.append_batch(batch("dropped")));
    let last = stream.append("last").wait().unwrap();
    let ends: Vec<Lsn> = waited.into_iter().map(|future| future.wait().unwrap().end_lsn).collect();
    assert!(ends.is_sorted() && ends.len() == 100, "each record has its own outcome");
    let read: Vec<_> = stream.reader(Lsn(0)).map(|record| record.unwrap()).collect();
    assert_eq!(read.last().unwrap().end_lsn, last.end_lsn);
    let expected = batch("waited for").chain(batch("dropped")).chain(["last".into()]);
    assert!(read.into_iter().map(|record| record.payload).eq(expected));
}

#[test]
fn truncated_positions_are_recycled_also_after_a_restart() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let first = stream.append("one").wait().unwrap();
    let second = stream.append("two").wait().unwrap();
    assert_eq!(stream.truncate_to(Lsn(1 << 40)).unwrap_err().kind(), ErrorKind::Config);
    stream.truncate_to(second.lsn).unwrap();
    let refused = stream.reader(first.lsn).next().unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Recycled);
    assert!(refused.to_string().contains(&second.lsn.to_string()), "{refused}");
    // The floor is durable with whatever is acked after it.
    let third = stream.append("three").wait().unwrap();
    let id = stream.id();
    node.stop().unwrap();
    let node = Node::open(config).unwrap();
    let stream = node.stream(id);
    assert_eq!(stream.reader(first.lsn).next().unwrap().unwrap_err().kind(), ErrorKind::Recycled);
    let left: Vec<_> = stream.reader(second.lsn).map(|r| r.unwrap().lsn).collect();
    assert_eq!(left, [second.lsn, third.lsn]);
    let status = node.status().unwrap();
    assert_eq!(status.stream(id).unwrap().base_lsn, second.lsn.0);
}

#[test]
fn a_truncation_outlives_any_number_of_restarts() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let id = stream.id();
    let mut records: Vec<_> = (0..4).map(|_| stream.append("before").wait().unwrap()).collect();
    stream.truncate_to(records[1].lsn).unwrap();
    records.push(stream.append("after").wait().unwrap());
    node.stop().unwrap();
    for restart in 1..=3 {
        let node = Node::open(config.clone()).unwrap();
        let stream = node.stream(id);
        let below = stream.reader(records[0].lsn).next().unwrap().unwrap_err();
        assert_eq!(below.kind(), ErrorKind::Recycled, "restart {restart}");
        let first = stream.reader(records[1].lsn).next().unwrap().unwrap();
        assert_eq!(first.lsn, records[1].lsn, "restart {restart}");
        assert_eq!(node.status().unwrap().stream(id).unwrap().base_lsn, records[1].lsn.0);
        // It never goes back.
        stream.truncate_to(records[0].lsn).unwrap();
        node.stop().unwrap();
    }
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(id);
    stream.truncate_to(records[3].lsn).unwrap();
    records.push(stream.append("again").wait().unwrap());
    node.stop().unwrap();
    drop(Node::open(config.clone()).unwrap());
    let node = Node::open(config).unwrap();
    let left: Vec<_> = node.stream(id).reader(records[3].lsn).map(|r| r.unwrap().lsn).collect();
    assert_eq!(left, records[3..].iter().map(|r| r.lsn).collect::<Vec<_>>());
    let below = node.stream(id).reader(records[2].lsn).next().unwrap().unwrap_err();
    assert_eq!(below.kind(), ErrorKind::Recycled);
}

#[test]
fn streams_of_every_shard_can_be_used_when_they_are_created() {
    let (_dir, mut config) = config();
    config.node.shards = 3;
    config.log.log_bytes_max = 256 << 20;
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let mut ends = Vec::new();
    // One by one: those of other shards than the catalogue's are not waited for by chance.
    for _ in 0..12 {
        let id = node.create_stream().unwrap();
        ends.push((id, node.stream(id).append("at once").wait().unwrap().end_lsn.0));
    }
    for id in node.create_streams(5).unwrap() {
        ends.push((id, node.stream(id).append("at once").wait().unwrap().end_lsn.0));
    }
    let mut node = node;
    for _ in 0..2 {
        let status = node.status().unwrap();
        for (id, end) in &ends {
            assert_eq!(status.stream(*id).unwrap().committed_lsn, *end, "stream {id}");
        }
        node.stop().unwrap();
        node = Node::open(config.clone()).unwrap();
    }
}

#[test]
fn a_subscriber_sees_what_is_appended_later_and_events_say_who_leads() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config).unwrap();
    let events = node.events();
    let stream = node.stream(node.create_stream().unwrap());
    let created = std::iter::from_fn(|| events.recv_timeout(PATIENCE).ok())
        .find(|event| matches!(event, Event::Leading { .. }));
    assert!(matches!(created, Some(Event::Leading { stream: s, .. }) if s == stream.id()));
    let mut subscriber = stream.subscribe(Lsn(0));
    let reader = std::thread::spawn(move || subscriber.next().unwrap().unwrap());
    let appended = stream.append_after("later", 5).wait().unwrap();
    let seen = reader.join().unwrap();
    assert_eq!((seen.lsn, &seen.payload[..]), (appended.lsn, &b"later"[..]));
}

#[test]
fn limits_are_answered_and_nothing_is_appended() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let large = stream.append(vec![0; (1 << 20) + 1]).wait().unwrap_err();
    assert_eq!(large.kind(), ErrorKind::TooLarge);
    let largest = stream.append(vec![1; 1 << 20]).wait().unwrap();
    let far = stream.append_after("x", u64::MAX).wait().unwrap_err();
    assert_eq!(far.kind(), ErrorKind::ScnTooFarAhead);
    let unknown = node.stream(999).append("x").wait().unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::UnknownStream);
    assert_eq!(Node::open(config).err().unwrap().kind(), ErrorKind::InUse);
    let read: Vec<_> = stream.reader(Lsn(0)).map(|r| r.unwrap().lsn).collect();
    assert_eq!(read, [largest.lsn]);
}

#[test]
fn a_driven_shard_appends_on_its_owners_thread() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let id = {
        let node = Node::open(config.clone()).unwrap();
        node.create_stream().unwrap()
    };
    let (node, mut driver) = Node::open_driven(config).unwrap();
    let mut future = node.stream(id).append("driven");
    let outcome = loop {
        driver.turn(true).unwrap();
        if let Some(outcome) = future.try_take() {
            break outcome;
        }
    };
    assert!(outcome.is_ok(), "{outcome:?}");

    // A request that the shard has no turn for any more is answered by the node's end.
    let stream = node.stream(id);
    let waiting = stream.append("never taken");
    node.stop().unwrap();
    assert_eq!(waiting.wait().unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(stream.append("later").wait().unwrap_err().kind(), ErrorKind::Shutdown);
    assert_eq!(driver.turn(true).unwrap_err().kind(), ErrorKind::Shutdown);
}

#[test]
fn the_driving_thread_is_told_instead_of_waiting_for_itself() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let (node, mut driver) = Node::open_driven(config).unwrap();
    let refused = node.create_stream().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert!(refused.to_string().contains("ShardDriver"), "{refused}");
    let stream = node.stream(driver.create_stream().unwrap());
    let appended = driver.wait(stream.append("driven")).unwrap();
    assert_eq!(node.status().unwrap_err().kind(), ErrorKind::WouldBlock);
    let read = stream.reader(appended.lsn).next().unwrap();
    assert_eq!(read.unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(stream.truncate_to(Lsn(0)).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Other threads ask as usual while this one takes its turns.
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| stream.reader(appended.lsn).next().unwrap().unwrap());
        while !reader.is_finished() {
            driver.turn(false).unwrap();
        }
        reader.join().unwrap()
    });
    assert_eq!(read.payload, "driven");
    // Not even to stop does it wait for itself.
    let open = stream.append("never driven");
    node.stop().unwrap();
    assert_eq!(driver.wait(open).unwrap_err().kind(), ErrorKind::Shutdown);
}

#[test]
fn a_stop_waits_for_the_appends_in_flight() {
    let (_dir, mut config) = config();
    config.timing.shutdown = PATIENCE;
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let futures: Vec<_> = (0..8000).map(|n| stream.append(format!("record {n}"))).collect();
    node.stop().unwrap();
    let late = stream.append("late").wait().unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Shutdown);
    let acked = futures.len();
    for future in futures {
        future.wait().unwrap();
    }
    let node = Node::open(config).unwrap();
    assert_eq!(node.stream(stream.id()).reader(Lsn(0)).map(Result::unwrap).count(), acked);
}

#[test]
fn a_shard_runs_on_its_cpu() {
    let (_dir, mut config) = config();
    format(&config).unwrap();
    let allowed = allowed_cpus();
    let last = *allowed.last().unwrap();
    config.node.cpus = vec![last];
    let node = Node::open(config.clone()).unwrap();
    let pinned = std::fs::read_dir("/proc/self/task").unwrap().filter(|task| {
        let task = task.as_ref().unwrap().path();
        let read = |name| std::fs::read_to_string(task.join(name)).unwrap_or_default();
        let wanted = format!("Cpus_allowed_list:\t{last}\n");
        read("comm").starts_with("palisade-shard") && read("status").contains(&wanted)
    });
    assert!(pinned.count() > 0, "no shard's thread runs on CPU {last} alone");
    node.stop().unwrap();
    let foreign = (0..1024).find(|cpu| !allowed.contains(cpu)).unwrap();
    config.node.cpus = vec![foreign];
    let refused = Node::open(config.clone()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Config);
    let text = refused.to_string();
    let shown = format!("{allowed:?}");
    for word in ["node.cpus", &foreign.to_string(), &shown] {
        assert!(text.contains(word), "{text:?} does not name {word}");
    }
    config.node.cpus = vec![last];
    assert_eq!(Node::open_driven(config).err().unwrap().kind(), ErrorKind::Config);
}

#[test]
fn every_sync_path_keeps_what_was_acked_and_is_shown() {
    for path in SyncPath::ALL {
        let (_dir, mut config) = config();
        config.log.sync_path = Some(path);
        format(&config).unwrap();
        let node = Node::open(config.clone()).unwrap();
        assert_eq!(node.status().unwrap().disk.sync_path, path.as_str());
        let stream = node.stream(node.create_stream().unwrap());
        let futures: Vec<_> = (1..=500).map(|n| stream.append_record(numbered(n))).collect();
        futures.into_iter().for_each(|future| assert!(future.wait().is_ok()));
        let id = stream.id();
        drop(node);
        let node = Node::open(config.clone()).unwrap();
        assert_eq!(node.stream(id).reader(Lsn(0)).map(Result::unwrap).count(), 500);
        assert!(!config.node.data.join("sync-path").exists(), "nothing was measured");
    }
}

#[test]
fn an_unmeasured_disk_is_measured_at_format_and_not_again() {
    let (_dir, mut config) = config();
    config.log.sync_path = None;
    format(&config).unwrap();
    let file = config.node.data.join("sync-path");
    let kept = || std::fs::read(&file).map(|text| (text, file.metadata().unwrap().modified()));
    let measured = kept().expect("a verdict was kept").1.unwrap();
    let node = Node::open(config.clone()).unwrap();
    let shown = node.status().unwrap().disk.sync_path;
    let (text, modified) = kept().unwrap();
    assert!(String::from_utf8(text).unwrap().contains(&format!("path {shown}\n")));
    assert_eq!(modified.unwrap(), measured);
}
