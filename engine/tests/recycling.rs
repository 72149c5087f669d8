//! A log that is truncated goes on for ever in the space that it has.

use std::path::Path;

use palisade::config::SyncPath;
use palisade::control::{Request, Settings};
use palisade::status::Transfer;
use palisade::{Appended, Config, ErrorKind, NewRecord, Node, Protection, Stream, format};
use palisade_wal::Lsn;

const SEGMENT: u64 = 8 << 20;
const SEGMENTS: u64 = 8;

fn config() -> (tempfile::TempDir, Config) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut config = Config::embedded(dir.path().join("n1"));
    config.log.segment_bytes = SEGMENT;
    config.log.log_bytes_max = SEGMENTS * SEGMENT;
    config.log.sync_path = Some(SyncPath::Dsync);
    (dir, config)
}

fn numbered(sequence: u64, bytes: usize) -> NewRecord {
    let payload = vec![sequence as u8; bytes].into();
    NewRecord { payload, producer: 7, sequence, scn_floor: 0 }
}

/// Bytes of the segment files of a node, and the lowest sequence among the whole ones: files that
/// are kept ready for starts on a full disk are short.
fn segments(dir: &Path) -> (u64, u64) {
    // A running node renames files: what is gone since was listed too early.
    loop {
        if let Some(found) = list(dir) {
            return found;
        }
    }
}

fn list(dir: &Path) -> Option<(u64, u64)> {
    let files = std::fs::read_dir(dir.join("shard-0")).unwrap().map(Result::unwrap);
    let files = files.filter(|file| file.path().extension().is_some_and(|e| e == "seg"));
    files.into_iter().try_fold((0, u64::MAX), |(bytes, lowest), file| {
        let name = file.file_name().into_string().unwrap();
        let seq = u64::from_str_radix(&name[..16], 16).unwrap();
        let len = match file.metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            metadata => metadata.unwrap().len(),
        };
        Some((bytes + len, if len < SEGMENT { lowest } else { lowest.min(seq) }))
    })
}

/// Appends so many megabytes, four records each, and truncates to the record of some time ago.
fn churn(stream: &Stream, sequence: &mut u64, megabytes: u64) -> Vec<Appended> {
    let mut appended: Vec<Appended> = Vec::new();
    for _ in 0..4 * megabytes {
        *sequence += 1;
        appended.push(stream.append_record(numbered(*sequence, 256 << 10)).wait().unwrap());
        if appended.len() >= 8 {
            stream.truncate_to(appended[appended.len() - 8].lsn).unwrap();
        }
    }
    appended
}

#[test]
fn a_truncated_log_goes_on_in_the_space_that_it_has() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let ids = node.create_streams(2).unwrap();
    let (busy, quiet) = (node.stream(ids[0]), node.stream(ids[1]));
    let kept: Vec<Appended> =
        (1..=20).map(|n| quiet.append_record(numbered(n, 1000)).wait().unwrap()).collect();
    let settings = Settings {
        name: Some("second".to_owned()),
        region: Some("hz".to_owned()),
        endpoints: Some(vec!["127.0.0.1:7004".to_owned()]),
        transfer: Some(Transfer::Sync),
        ..Settings::default()
    };
    node.control(Request::Add { cluster: 2, settings }).unwrap();
    node.control(Request::SetPrimary { transfer: Transfer::Sync }).unwrap();
    let mode = Protection::Availability;
    node.control(Request::SetMode { mode, force: false }).unwrap();
    let registry = node.registry().unwrap();
    assert_eq!((registry.version, registry.standbys.len()), (3, 1));
    let mut sequence = 0;
    churn(&busy, &mut sequence, 3 * SEGMENTS * (SEGMENT >> 20));
    let (bytes, lowest) = segments(&config.node.data);
    assert!(bytes <= (SEGMENTS + 1) * SEGMENT, "{bytes} bytes of segments");
    assert!(lowest > SEGMENTS, "segment {lowest} is the oldest");
    node.stop().unwrap();

    // Catalogue, registry, a quiet stream and producers outlive the segments that they stood in.
    let mut node = Node::open(config.clone()).unwrap();
    for restart in 1..=4 {
        let (busy, quiet) = (node.stream(ids[0]), node.stream(ids[1]));
        let mut again = node.registry().unwrap();
        // A node says since when it knows of the last step, and this one knows it anew.
        assert!(again.mode.since > registry.mode.since, "restart {restart}");
        again.mode.since = registry.mode.since;
        assert_eq!(again, registry, "restart {restart}");
        let read: Vec<Lsn> = quiet.reader(Lsn(0)).map(|record| record.unwrap().lsn).collect();
        assert_eq!(read, kept.iter().map(|a| a.lsn).collect::<Vec<_>>(), "restart {restart}");
        let again = quiet.append_record(numbered(20, 1000)).wait().unwrap();
        assert_eq!(again.lsn, kept[19].lsn, "restart {restart}");
        let gap = busy.append_record(numbered(sequence + 2, 10)).wait().unwrap_err();
        assert_eq!(
            (gap.kind(), gap.expected_sequence()),
            (ErrorKind::SequenceGap, Some(sequence + 1))
        );
        assert_eq!(busy.reader(Lsn(0)).next().unwrap().unwrap_err().kind(), ErrorKind::Recycled);
        let appended = churn(&busy, &mut sequence, SEGMENT >> 19);
        let last = &appended[appended.len() - 3..];
        let read: Vec<Lsn> = busy.reader(last[0].lsn).map(|r| r.unwrap().lsn).collect();
        assert_eq!(read, last.iter().map(|a| a.lsn).collect::<Vec<_>>(), "restart {restart}");
        let fresh = node.create_stream().unwrap();
        assert!(fresh > ids[1], "ids are given once");
        node.stream(fresh).append("one").wait().unwrap();
        node.stop().unwrap();
        node = Node::open(config.clone()).unwrap();
    }
    let (bytes, _) = segments(&config.node.data);
    assert!(bytes <= (SEGMENTS + 4) * SEGMENT, "{bytes} bytes of segments");
    node.stop().unwrap();
}

#[test]
fn a_full_log_takes_records_again_when_it_is_truncated() {
    let (_dir, config) = config();
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let mut last = Lsn(0);
    let refused = loop {
        match stream.append(vec![3; 256 << 10]).wait() {
            Ok(appended) => last = appended.lsn,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    let first = stream.reader(Lsn(0)).next().unwrap().unwrap();
    stream.truncate_to(last).unwrap();
    assert_eq!(stream.reader(first.lsn).next().unwrap().unwrap_err().kind(), ErrorKind::Recycled);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match stream.append(vec![4; 256 << 10]).wait() {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
        }
        assert!(std::time::Instant::now() < deadline, "what was truncated is not let go");
        std::thread::park_timeout(std::time::Duration::from_millis(3));
    }
    for _ in 0..64 {
        stream.append(vec![5; 256 << 10]).wait().unwrap();
    }
    assert!(node.status().unwrap().alarms.iter().all(|alarm| alarm.code != "log-full"));
    node.stop().unwrap();
}

/// What was truncated stays in the log for its time, and goes when space is needed.
#[test]
fn retained_log_is_reused_when_space_is_needed_and_not_before() {
    let (_dir, mut config) = config();
    config.log.retain = std::time::Duration::from_secs(3600);
    format(&config).unwrap();
    let node = Node::open(config.clone()).unwrap();
    let stream = node.stream(node.create_stream().unwrap());
    let mut sequence = 0;
    churn(&stream, &mut sequence, 4 * (SEGMENT >> 20));
    assert_eq!(stream.reader(Lsn(0)).next().unwrap().unwrap_err().kind(), ErrorKind::Recycled);
    let (_, lowest) = segments(&config.node.data);
    assert_eq!(lowest, 1, "all is there");
    churn(&stream, &mut sequence, 3 * SEGMENTS * (SEGMENT >> 20));
    let (bytes, lowest) = segments(&config.node.data);
    assert!(bytes <= (SEGMENTS + 1) * SEGMENT, "{bytes} bytes of segments");
    assert!(lowest > SEGMENTS, "segment {lowest} is the oldest");
    node.stop().unwrap();
}
