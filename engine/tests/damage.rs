//! What a node says and does when its disk has lost records.

use std::path::Path;
use std::time::{Duration, Instant};

use palisade::status::StreamStatus;
use palisade::{Config, ErrorKind, Node, format};
use palisade_wal::{
    Expect, IDENTITY_NAME, Kind, decode_identity, limits, parse_block, parse_body,
    parse_segment_name,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn config() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.segment_bytes = 8 << 20;
    config.log.log_bytes_max = 128 << 20;
    (dir, config)
}

/// Spoils the block that holds the first record of a stream.
fn lose_first_record(data: &Path, stream: u64) {
    let shard = data.join("shard-0");
    let identity = std::fs::read(shard.join(IDENTITY_NAME)).unwrap();
    let (identity, _) = decode_identity(&identity).expect("a sound copy");
    for entry in std::fs::read_dir(&shard).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(segment_seq) = parse_segment_name(name) else { continue };
        let mut bytes = std::fs::read(&path).unwrap();
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
            let metas = parse_body(body, head.headers_crc.get()).expect("a sound body");
            if metas.iter().any(|meta| meta.kind == Kind::Base && meta.stream == stream) {
                bytes[at] ^= 0xff;
                std::fs::write(&path, &bytes).unwrap();
                return;
            }
        }
    }
    panic!("no first record of stream {stream}");
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
