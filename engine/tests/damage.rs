//! What a node says and does when its disk has lost records.

mod ports;

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palisade::config::Member;
use palisade::status::StreamStatus;
use palisade::{Config, ErrorKind, Node, format};
use palisade_wal::{
    Expect, IDENTITY_NAME, Kind, Lsn, RecordMeta, check_headers_only, decode_identity, limits,
    parse_block, parse_segment_name,
};
use ports::{Port, port};

/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(3);
const PATIENCE: Duration = Duration::from_secs(60);

fn config() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.segment_bytes = 8 << 20;
    config.log.log_bytes_max = 128 << 20;
    (dir, config)
}

/// Spoils the block that holds the first record of a stream.
fn lose_first_record(data: &Path, stream: u64) {
    let first = |meta: &RecordMeta| meta.kind == Kind::Base && meta.stream == stream;
    let places = find_records(data, |meta| first(meta));
    let (path, block, _) = places.first().expect("a first record");
    flip(path, *block);
}

/// Spoils the bytes of the group that holds a payload: of its first copy, or of its last.
fn lose_group(data: &Path, payload: &[u8], last: bool) {
    let mut places = find_records(data, |meta| meta.kind.is_group());
    let holds = |(path, _, at): &(PathBuf, u64, Range<u64>)| {
        let bytes = std::fs::read(path).unwrap();
        let group = &bytes[at.start as usize..at.end as usize];
        group.windows(payload.len()).any(|window| window == payload)
    };
    places.retain(holds);
    let found = if last { places.last() } else { places.first() };
    let (path, _, at) = found.expect("the node has the payload");
    flip(path, at.end - 9);
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
    file.sync_all().unwrap();
}

/// The records of a node's shard that are wanted: their file, their block and their bytes there,
/// in the order of the log.
fn find_records(
    data: &Path,
    wanted: impl Fn(&RecordMeta) -> bool,
) -> Vec<(PathBuf, u64, Range<u64>)> {
    let mut found = Vec::new();
    let shard = data.join("shard-0");
    let identity = std::fs::read(shard.join(IDENTITY_NAME)).unwrap();
    let (identity, _) = decode_identity(&identity).expect("a sound copy");
    let files = std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path());
    let sequence = |path: &PathBuf| parse_segment_name(path.file_name().unwrap().to_str().unwrap());
    let mut files: Vec<_> = files.filter_map(|path| sequence(&path).map(|s| (s, path))).collect();
    files.sort();
    for (segment_seq, path) in files {
        let bytes = match std::fs::read(&path) {
            // A node that runs has recycled it since.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            read => read.unwrap(),
        };
        let expect = Expect {
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            shard: identity.shard,
            segment_seq,
            offset: 0,
        };
        for at in (0..bytes.len()).step_by(limits::BLOCK_ALIGN) {
            let Ok(head) = parse_block(&bytes[at..], &expect.at(at as u64)) else { continue };
            let body = head.body(&bytes[at..]).expect("the segment holds the whole block");
            // Another record of the block may be damaged already.
            let Ok(metas) = check_headers_only(body, head.headers_crc.get()) else { continue };
            for meta in metas.iter().filter(|meta| wanted(meta)) {
                let start = (at + limits::BLOCK_HEAD_BYTES + meta.range().start) as u64;
                found.push((path.clone(), at as u64, start..start + u64::from(meta.len)));
            }
        }
    }
    found
}

fn condition(node: &Node, stream: u64) -> StreamStatus {
    node.status().unwrap().stream(stream).expect("the catalogue names it").clone()
}

#[test]
fn a_lone_member_with_an_unknown_tail_stays_down_and_says_what_to_do() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let id = node.create_stream().unwrap();
    // The entry of the second one carries the word that the first one's is committed.
    node.create_stream().unwrap();
    for payload in ["one", "two", "three"] {
        node.stream(id).append(payload).wait().unwrap();
    }
    node.stop().unwrap();
    lose_first_record(&config.node.data, id);

    // The stream is opened anew from the catalogue: the record of that must say that it may have
    // promised and held anything, also when it is itself all that the next start finds.
    for start in 1..=3 {
        let node = Node::open(config.clone()).unwrap();
        let shown = condition(&node, id);
        let words = (shown.state.as_str(), shown.reason.as_str(), shown.action.as_str());
        assert_eq!(words.0, "unknown-tail", "start {start}: {shown:?}");
        assert!(words.1.contains("lost") && words.2.contains("palisade"), "{shown:?}");
        let refused = node.stream(id).append("four").wait().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotLeader, "start {start}");
        let deadline = Instant::now() + PATIENCE;
        while node.status().unwrap().alarms.is_empty() {
            assert!(Instant::now() < deadline, "no alarm for the damage");
        }
        node.stop().unwrap();
    }
}

/// Three nodes of one cluster.
fn three() -> ((tempfile::TempDir, [Port; 3]), Vec<Config>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let ports = [0; 3].map(|_| port());
    let addrs = ports.each_ref().map(|port| port.addr);
    let member = |(id, addr)| Member { id, addr, region: "local".to_owned() };
    let members: Vec<Member> = (1..).zip(addrs).map(member).collect();
    let node = |member: &Member| {
        let mut config = Config::embedded(dir.path().join(format!("n{}", member.id)));
        config.node.id = member.id;
        (config.node.listen, config.node.advertise) = (Some(member.addr), Some(member.addr));
        config.members = members.clone();
        config.log.segment_bytes = 8 << 20;
        config.log.log_bytes_max = 128 << 20;
        // Nothing but what a test does ends a leadership, however long a disk stands still.
        let timing = &mut config.timing;
        (timing.election, timing.hand_over) = (Duration::from_secs(1), Duration::ZERO);
        (timing.disk_stall_soft, timing.disk_stall_hard) = (PATIENCE / 3, PATIENCE);
        config
    };
    let configs: Vec<Config> = members.iter().map(node).collect();
    configs.iter().for_each(|config| format(config).unwrap());
    ((dir, ports), configs)
}

fn open(configs: &[Config]) -> Vec<Node> {
    configs.iter().map(|config| Node::open(config.clone()).unwrap()).collect()
}

fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(PAUSE);
    }
}

fn shown(nodes: &[Node], stream: u64) -> Vec<String> {
    let state = |node: &Node| format!("{:?}", node.status().map(|s| s.stream(stream).cloned()));
    nodes.iter().map(state).collect()
}

/// The node that takes an append, with where it stands then.
fn append(nodes: &[Node], stream: u64, payload: &[u8]) -> (usize, Lsn) {
    until("an append", || {
        let mut nodes = nodes.iter().enumerate();
        nodes.find_map(|(at, node)| {
            let appended = node.stream(stream).append(payload.to_vec()).wait().ok()?;
            Some((at, appended.end_lsn))
        })
    })
}

/// Everything that a node reads of a stream, once it can.
fn read_all(node: &Node, stream: u64, upto: Lsn) -> Vec<Vec<u8>> {
    until("the whole stream", || {
        let status = node.status().ok()?;
        let there = status.stream(stream)?.committed_lsn >= upto.0;
        let read: Result<Vec<_>, _> = node.stream(stream).reader(Lsn(0)).collect();
        let records = read.ok().filter(|_| there)?;
        Some(records.into_iter().map(|record| record.payload.to_vec()).collect())
    })
}

fn settle(nodes: &[Node], stream: u64, upto: Lsn, expected: &[Vec<u8>]) {
    for (at, node) in nodes.iter().enumerate() {
        let read = read_all(node, stream, upto);
        assert!(read == expected, "node {}: {:?}", at + 1, shown(nodes, stream));
        // What it reads may not be on its own disk yet.
        until("all of it on the disk, and no damage left", || {
            let shown = node.status().ok()?.stream(stream)?.clone();
            (shown.state == "normal" && shown.durable_lsn >= upto.0).then_some(())
        });
    }
}

#[test]
fn three_nodes_that_lost_different_records_have_them_all_again() {
    let (_kept, mut configs) = three();
    for config in &mut configs {
        config.timing.election = Duration::from_secs(3);
    }
    let nodes = open(&configs);
    let stream = until("a stream", || nodes.iter().find_map(|node| node.create_stream().ok()));
    let mut expected: Vec<Vec<u8>> = Vec::new();
    // The large ones fill a segment and more.
    for number in 0..40u32 {
        let mut payload = format!("record {number:04} of the stream").into_bytes();
        payload.resize(if number < 12 { 900_000 } else { 100 }, 7);
        expected.push(payload);
    }
    let mut upto = Lsn(0);
    for payload in &expected {
        upto = append(&nodes, stream, payload).1;
    }
    settle(&nodes, stream, upto, &expected);
    nodes.into_iter().for_each(|node| node.stop().unwrap());

    // Each loses one in a sealed segment, and two in the one that was active.
    for (at, config) in configs.iter().enumerate() {
        for number in [2 + at, 20 + 3 * at, 21 + 3 * at] {
            lose_group(&config.node.data, &expected[number][..20], false);
        }
    }
    let nodes = open(&configs);
    let (_, upto) = append(&nodes, stream, b"after");
    expected.push(b"after".to_vec());
    settle(&nodes, stream, upto, &expected);

    // A leader goes on to lead while it asks for what its disk does not give back.
    let (leader, upto) = append(&nodes, stream, b"before the damage");
    expected.push(b"before the damage".to_vec());
    settle(&nodes, stream, upto, &expected);
    let led = |nodes: &[Node]| nodes[leader].status().unwrap().stream(stream).unwrap().ballot;
    let ballot = led(&nodes);
    for number in [4, 33] {
        lose_group(&configs[leader].node.data, &expected[number][..20], true);
    }
    settle(&nodes, stream, upto, &expected);
    assert_eq!(led(&nodes), ballot, "{:?}", shown(&nodes, stream));
    let (again, upto) = append(&nodes, stream, b"last");
    expected.push(b"last".to_vec());
    assert_eq!(again, leader);
    settle(&nodes, stream, upto, &expected);
    nodes.into_iter().for_each(|node| node.stop().unwrap());

    // What was repaired stays so.
    let nodes = open(&configs);
    let (_, upto) = append(&nodes, stream, b"after all");
    expected.push(b"after all".to_vec());
    settle(&nodes, stream, upto, &expected);
    nodes.into_iter().for_each(|node| node.stop().unwrap());
}

/// What it held is known to nobody who is up: neither to it, nor to the one that was down.
#[test]
fn a_member_whose_last_segment_is_gone_makes_no_majority_with_one_that_was_down() {
    let (_kept, configs) = three();
    let mut nodes = open(&configs);
    let stream = until("a stream", || nodes.iter().find_map(|node| node.create_stream().ok()));
    let mut expected: Vec<Vec<u8>> = vec![b"before".to_vec()];
    let (_, upto) = append(&nodes, stream, b"before");
    settle(&nodes, stream, upto, &expected);
    nodes.remove(2).stop().unwrap();
    let mut upto = upto;
    for number in 0..50 {
        let payload = format!("acked by two {number}").into_bytes();
        upto = append(&nodes, stream, &payload).1;
        expected.push(payload);
    }
    settle(&nodes, stream, upto, &expected);
    nodes.into_iter().for_each(|node| node.stop().unwrap());

    let held = find_records(&configs[0].node.data, |meta| meta.kind.is_group());
    let (last, ..) = held.last().expect("the node has groups");
    std::fs::remove_file(last).unwrap();
    let mut nodes = open(&[configs[0].clone(), configs[2].clone()]);
    until("the loss is seen", || {
        let status = nodes[0].status().ok()?;
        status.alarms.iter().any(|alarm| alarm.hint.contains("is gone")).then_some(())
    });
    // Longer than any election takes here.
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        for node in &nodes {
            let refused = node.stream(stream).append("a second value").wait();
            assert!(refused.is_err(), "{:?}", shown(&nodes, stream));
        }
        std::thread::park_timeout(PAUSE);
    }
    nodes.push(Node::open(configs[1].clone()).unwrap());
    let (_, upto) = append(&nodes, stream, b"after");
    expected.push(b"after".to_vec());
    settle(&nodes, stream, upto, &expected);
    nodes.into_iter().for_each(|node| node.stop().unwrap());
}

/// Old damage to hard state stays in its segment for a long time. A stream that is created later
/// cannot have lost anything by it.
#[test]
fn a_stream_that_is_created_after_the_damage_is_in_no_doubt() {
    for shards in [1, 2] {
        let (_dir, mut config) = config();
        config.node.shards = shards;
        format(&config).unwrap();
        let node = Node::open(config.clone()).unwrap();
        let first = node.create_streams(2).unwrap()[0];
        node.stream(first).append("one").wait().unwrap();
        node.stop().unwrap();
        // Takeovers of this start stand behind the damage.
        Node::open(config.clone()).unwrap().stop().unwrap();
        assert_eq!(first % 2, 0, "it is in the first shard");
        lose_first_record(&config.node.data, first);

        let mut created = Vec::new();
        for start in 1..=3 {
            let node = Node::open(config.clone()).unwrap();
            created.extend(node.create_streams(2).unwrap());
            for stream in &created {
                let appended = node.stream(*stream).append("two").wait();
                assert!(appended.is_ok(), "start {start}, {:?}", condition(&node, *stream));
            }
            assert_eq!(condition(&node, first).state, "unknown-tail");
            node.stop().unwrap();
        }
    }
}

/// A quiet stream's groups are copied out of segments that are used again. A copy that rots is the
/// only one of this disk: what it was is a lost range for ever, and no end and no gap of the log.
#[test]
fn a_copy_that_is_lost_leaves_a_lost_range_until_it_is_truncated() {
    let (_dir, mut config) = config();
    config.log.log_bytes_max = 64 << 20;
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let ids = node.create_streams(2).unwrap();
    let (quiet, busy) = (node.stream(ids[0]), node.stream(ids[1]));
    let payload = |number: u32| format!("record {number:04} of the quiet one").into_bytes();
    let kept: Vec<Lsn> =
        (0..20).map(|number| quiet.append(payload(number)).wait().unwrap().lsn).collect();
    let mut last = Lsn(0);
    for _ in 0..4 * 128 {
        let appended = busy.append(vec![1; 256 << 10]).wait().unwrap();
        busy.truncate_to(last).unwrap();
        last = appended.lsn;
    }
    node.stop().unwrap();
    let moved = find_records(&config.node.data, |m| m.kind == Kind::Moved && m.stream == ids[0]);
    assert!(moved.len() >= 20, "{} groups were copied", moved.len());
    lose_group(&config.node.data, &payload(7), true);

    for start in 1..=3 {
        let node = Node::open(config.clone()).unwrap();
        let quiet = node.stream(ids[0]);
        let read: Vec<_> = quiet.reader(Lsn(0)).map(|r| r.map(|r| r.lsn)).collect();
        let (end, good) = read.split_last().unwrap();
        let good: Vec<Lsn> = good.iter().map(|lsn| *lsn.as_ref().unwrap()).collect();
        assert_eq!(good, kept[..7], "start {start}");
        assert_eq!(end.as_ref().unwrap_err().kind(), ErrorKind::Corrupt, "start {start}");
        let after: Vec<Lsn> = quiet.reader(kept[8]).map(|r| r.unwrap().lsn).collect();
        assert_eq!(after, kept[8..], "start {start}: the rest is there");
        let refused = quiet.append("more").wait().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NotLeader, "start {start}");
        if start == 3 {
            quiet.truncate_to(kept[8]).unwrap();
            until("a leader", || quiet.append("more").wait().ok());
        }
        node.stop().unwrap();
    }
    let node = Node::open(config).unwrap();
    let quiet = node.stream(ids[0]);
    let read: Vec<Lsn> = quiet.reader(kept[8]).map(|r| r.unwrap().lsn).collect();
    assert_eq!((&read[..12], read.len()), (&kept[8..], 13));
    node.stop().unwrap();
}

/// A recycled log begins with a checkpoint and keeps a second one. Each of them may rot, one after
/// the other, with a start of the node in between.
#[test]
fn a_recycled_log_that_lost_one_checkpoint_writes_another_soon() {
    let (_kept, mut configs) = three();
    configs.iter_mut().for_each(|config| config.log.retain = Duration::ZERO);
    let nodes = open(&configs);
    let stream = until("a stream", || nodes.iter().find_map(|node| node.create_stream().ok()));
    let mut ends = Vec::new();
    for number in 0..4 * 64 {
        ends.push(append(&nodes, stream, &[1; 256 << 10]).1);
        // Each node lets go of its own log. The others keep what this one may ask them for.
        for (at, node) in nodes.iter().enumerate() {
            let kept = if at == 1 { 48 } else { 80 };
            drop(node.stream(stream).truncate_to(ends[number - number.min(kept)]));
        }
    }
    // One that was behind is not any more, and has let go of more than the others have.
    let floor = ends[ends.len() - 48];
    until("the floor", || nodes[1].stream(stream).truncate_to(floor).ok());
    until("the base", || (condition(&nodes[1], stream).base_lsn >= floor.0).then_some(()));
    nodes.into_iter().for_each(|node| node.stop().unwrap());
    let data = &configs[1].node.data;
    let checkpoints = || find_records(data, |meta| meta.kind == Kind::Checkpoint);
    let known = checkpoints();
    let newest = known.last().expect("a recycled log has two");
    flip(&newest.0, newest.1);

    let nodes = open(&configs);
    let is_new = |(path, at, _): &&(PathBuf, u64, Range<u64>)| {
        !known.iter().any(|old| (&old.0, old.1) == (path, *at))
    };
    // One that is begun before every stream is out of doubt ends without them. The last block of
    // a whole one has the streams and the end.
    until("another checkpoint", || {
        let found = checkpoints();
        let new: Vec<_> = found.iter().filter(is_new).map(|it| (&it.0, it.1)).collect();
        new.chunk_by(|one, next| one == next).any(|block| block.len() >= 3).then_some(())
    });
    nodes.into_iter().for_each(|node| node.stop().unwrap());
    // All that were there before, but those that the node has recycled since.
    let mut blocks: Vec<_> = known.iter().map(|(path, at, _)| (path, *at)).collect();
    blocks.dedup();
    blocks.pop();
    blocks.retain(|(path, _)| path.exists());
    blocks.iter().for_each(|(path, at)| flip(path, *at));
    let nodes = open(&configs);
    let (_, upto) = append(&nodes, stream, b"after");
    until("all of it at the damaged one", || {
        let shown = nodes[1].status().ok()?.stream(stream)?.clone();
        (shown.state == "normal" && shown.durable_lsn >= upto.0).then_some(())
    });
    nodes.into_iter().for_each(|node| node.stop().unwrap());
}
