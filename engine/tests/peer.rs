//! A peer that sends what no sound peer sends: it is refused, and does no harm.

mod ports;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use palisade::config::Member;
use palisade::kinds::{KIND_CHUNK, KIND_FETCHED, KIND_GROUPS, KIND_HEARTBEAT, KIND_MESSAGES};
use palisade::paxos::{Body as Said, Config as Members, Member as Disk, Message, Promise};
use palisade::{Config, Node, format};
use palisade_netio::{
    Class, FrameHead, FrameLimits, Hello, Identity, KIND_WELCOME, Target, Welcome,
};
use palisade_wal::{
    Ballot, BodyBuilder, Boundary, CHAIN_START, FLAG_STAGED, GroupKind, Kind, Lsn, Origin,
};
use ports::port;

const PATIENCE: Duration = Duration::from_secs(60);
/// A ballot that nobody promised.
const FOREIGN: Ballot = Ballot { round: 900, node: 1, incarnation: 77 };
/// A round that cannot be.
const LAST: Ballot = Ballot { round: u64::MAX, node: 1, incarnation: 77 };
/// A stream that does not exist.
const UNKNOWN: u64 = 77;

/// A node, number 2 of a cluster of two whose other one is the test.
fn node_config(dir: &std::path::Path) -> Config {
    let [one, two] = [0; 2].map(|_| port().addr);
    let mut config = Config::embedded(dir.join("n2"));
    config.node.id = 2;
    (config.node.listen, config.node.advertise) = (Some(two), Some(two));
    let member = |id, addr| Member { id, addr, region: "local".to_owned() };
    config.members = vec![member(1, one), member(2, two)];
    config.log.segment_bytes = 8 << 20;
    config.log.log_bytes_max = 128 << 20;
    config
}

/// Both connections of node 1 to the node.
struct Peer {
    control: TcpStream,
    bulk: TcpStream,
}

fn dial(addr: SocketAddr, class: Class, incarnation: u64) -> TcpStream {
    let mut socket = TcpStream::connect(addr).expect("it listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // The settings of the node: what is wrong with this peer is what it sends.
    let fingerprint = Config::embedded("/nowhere").fingerprint();
    let me =
        Identity { cluster: 1, node: 1, incarnation, boot: 1, shard: 0, shards: 1, fingerprint };
    let hello = Hello::new(class, me, Target { cluster: 1, node: 2, shard: 0 });
    socket.write_all(&hello.encode()).expect("room");
    let mut welcome = vec![0; Welcome::new(me).encode().len()];
    socket.read_exact(&mut welcome).expect("an answer");
    assert_eq!(u16::from_le_bytes([welcome[6], welcome[7]]), KIND_WELCOME);
    socket
}

impl Peer {
    fn new(addr: SocketAddr) -> Peer {
        Peer { control: dial(addr, Class::Control, 77), bulk: dial(addr, Class::Bulk, 77) }
    }
}

/// The node hangs up.
fn assert_hung_up(socket: &mut TcpStream, what: &str) {
    let deadline = Instant::now() + PATIENCE;
    let mut heard = [0; 4096];
    loop {
        assert!(Instant::now() < deadline, "{what}: the connection stays");
        match socket.read(&mut heard) {
            Ok(0) => return,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            // Messages and heartbeats of the node.
            Ok(_) => {}
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// A bulk frame whose body is what `build` makes.
fn groups(kind: u16, prefix: &[u8], build: impl FnOnce(&mut BodyBuilder<'_>)) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut builder = BodyBuilder::new(&mut bytes);
    build(&mut builder);
    let body = builder.finish();
    let (len, crc) = (body.len as usize, u64::from(body.headers_crc));
    let mut frame = FrameHead::encode_bulk(kind, crc, 0, prefix, len);
    frame.extend_from_slice(&bytes[..len]);
    frame
}

fn push_group(builder: &mut BodyBuilder<'_>, stream: u64, flags: u8) {
    let origin = Origin { role_epoch: 1, cluster: 1, ballot: FOREIGN };
    let begun = builder.begin_group(stream, Lsn::ZERO, FOREIGN, GroupKind::Data, origin, flags);
    begun.expect("room");
    builder.push_entry(b"from nowhere", 0, 0).expect("room");
    builder.end_group(5, CHAIN_START);
}

fn push_record(builder: &mut BodyBuilder<'_>, kind: Kind) {
    builder.push_record(kind, UNKNOWN, Lsn::ZERO, FOREIGN, &[1; 64]).expect("room");
}

/// What ends the bulk connection.
fn refused_on_bulk() -> Vec<(String, Vec<u8>)> {
    let mut frames = Vec::new();
    let other = |kind: &Kind| !kind.is_group() && *kind != Kind::CommitHint;
    for kind in Kind::ALL.into_iter().filter(other) {
        let frame = groups(KIND_GROUPS, &[], |builder| push_record(builder, kind));
        frames.push((format!("a {kind:?} record"), frame));
        let frame = groups(KIND_GROUPS, &[], |builder| {
            push_group(builder, 0, 0);
            push_record(builder, kind);
        });
        frames.push((format!("a {kind:?} record behind a group"), frame));
    }
    let moved = groups(KIND_GROUPS, &[], |builder| {
        let mut bytes = vec![0; 4096];
        let mut inner = BodyBuilder::new(&mut bytes);
        push_group(&mut inner, 0, 0);
        let group = inner.finish().metas[0].range();
        builder.push_moved_group(&bytes[group], FOREIGN, 0).expect("room");
    });
    frames.push(("a group moved by its sender".to_owned(), moved));
    let staged = groups(KIND_GROUPS, &[], |builder| push_group(builder, 0, FLAG_STAGED));
    frames.push(("a group staged by its sender".to_owned(), staged));
    let mut spoilt = groups(KIND_GROUPS, &[], |builder| push_group(builder, 0, 0));
    let last = spoilt.len() - 1;
    spoilt[last] ^= 1;
    frames.push(("a group with a flipped bit".to_owned(), spoilt));
    let garbage = FrameHead::encode_bulk(KIND_GROUPS, 1, 0, &[], 512);
    frames.push(("a body of zeros".to_owned(), [garbage, vec![0; 512]].concat()));
    let fetched = groups(KIND_FETCHED, &[9; 24], |builder| push_group(builder, 0, 0));
    frames.push(("a fetch for nothing".to_owned(), fetched));
    // No round follows these: whoever took them could never be outbid.
    let last = groups(KIND_GROUPS, &[], |builder| {
        builder.push_record(Kind::CommitHint, 0, Lsn::ZERO, LAST, &[]).expect("room");
        push_group(builder, 0, 0);
    });
    frames.push(("a record of the last round".to_owned(), last));
    let prefix = [&u64::MAX.to_le_bytes()[..], &77_u64.to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0]];
    let fetched = groups(KIND_FETCHED, &prefix.concat(), |builder| push_group(builder, 0, 0));
    frames.push(("a fetch of the last round".to_owned(), fetched));
    let chunk = groups(KIND_CHUNK, &[], |builder| push_group(builder, 0, 0));
    frames.push(("a chunk".to_owned(), chunk));
    frames.push(("kind 63".to_owned(), FrameHead::encode(63, 0, 0, b"?")));
    frames
}

/// What ends the control connection.
fn refused_on_control() -> Vec<(String, Vec<u8>)> {
    let said = |bytes: &[u8]| FrameHead::encode(KIND_MESSAGES, 0, 0, bytes);
    let mut message = Vec::new();
    let body = Said::Prepare { ballot: FOREIGN };
    Message { stream: UNKNOWN, body }.encode_into(&mut message);
    let cut = said(&message[..message.len() - 1]);
    let mut unknown = message.clone();
    unknown[0] = 200;
    vec![
        ("half a message".to_owned(), cut),
        ("a message of kind 200".to_owned(), said(&unknown)),
        ("half a heartbeat".to_owned(), FrameHead::encode(KIND_HEARTBEAT, 0, 0, &[1; 16])),
        ("kind 20".to_owned(), FrameHead::encode(20, 0, 0, &[])),
    ]
}

/// What means nothing here and is passed over: streams that this node does not have.
fn ignored() -> (Vec<u8>, Vec<u8>) {
    let bulk = groups(KIND_GROUPS, &[], |builder| {
        let hint = builder.push_record(Kind::CommitHint, UNKNOWN, Lsn(1 << 20), FOREIGN, &[]);
        hint.expect("room");
        push_group(builder, UNKNOWN, 0);
        // Of a stream that is here, under a ballot that nobody promised.
        let hint = builder.push_record(Kind::CommitHint, 0, Lsn(1 << 20), FOREIGN, &[]);
        hint.expect("room");
        push_group(builder, 0, 0);
    });
    let mut messages = Vec::new();
    let upto = Lsn(1 << 20);
    for body in [
        Said::Accepted { ballot: FOREIGN, upto, seq: 0, low: upto, committed: upto },
        Said::Commit { ballot: FOREIGN, upto, end: upto, held: upto },
        Said::StepDown { ballot: FOREIGN, successor: Some(9), appointed: false },
    ] {
        Message { stream: UNKNOWN, body: body.clone() }.encode_into(&mut messages);
        Message { stream: 0, body }.encode_into(&mut messages);
    }
    (bulk, FrameHead::encode(KIND_MESSAGES, 0, 0, &messages))
}

/// The streams are those of a new node, and nothing is in them.
fn assert_untouched(node: &Node) {
    assert_eq!(node.failed(), None);
    let status = node.status().expect("it runs");
    let ends: Vec<(u64, u64)> = status.streams.iter().map(|s| (s.id, s.end_lsn)).collect();
    assert_eq!(ends, [(0, 0), (1, 0)], "{status:?}");
    assert!(status.streams.iter().all(|s| s.committed_lsn == 0 && s.state == "no-leader"));
    assert!(status.alarms.is_empty(), "{status:?}");
}

#[test]
fn what_no_peer_sends_is_refused_without_harm() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let config = node_config(dir.path());
    format(&config).expect("an empty directory");
    let node = Node::open(config.clone()).expect("it starts");
    let addr = node.listening().expect("it listens");
    for (what, frame) in refused_on_bulk() {
        let mut peer = Peer::new(addr);
        peer.bulk.write_all(&frame).expect("room");
        assert_hung_up(&mut peer.bulk, &what);
        assert_untouched(&node);
    }
    for (what, frame) in refused_on_control() {
        let mut peer = Peer::new(addr);
        peer.control.write_all(&frame).expect("room");
        assert_hung_up(&mut peer.control, &what);
        assert_untouched(&node);
    }
    // What is passed over keeps the connection: the frame behind it ends it.
    let (bulk, control) = ignored();
    let mut peer = Peer::new(addr);
    peer.bulk.write_all(&[bulk, FrameHead::encode(63, 0, 0, &[])].concat()).expect("room");
    assert_hung_up(&mut peer.bulk, "kind 63 behind foreign groups");
    peer.control.write_all(&[control, FrameHead::encode(20, 0, 0, &[])].concat()).expect("room");
    assert_hung_up(&mut peer.control, "kind 20 behind foreign messages");
    assert_untouched(&node);

    node.stop().expect("nothing failed");
    let node = Node::open(config).expect("nothing that it cannot read was logged");
    assert_untouched(&node);
}

/// The messages of the next frame that holds some.
fn next_messages(socket: &mut TcpStream) -> Vec<Message> {
    loop {
        let mut bytes = vec![0; palisade_netio::limits::FRAME_HEAD_BYTES];
        socket.read_exact(&mut bytes).expect("a frame");
        let head = FrameHead::parse(&bytes, &FrameLimits::ANY).expect("a head");
        let mut body = vec![0; head.body_len as usize];
        socket.read_exact(&mut body).expect("its body");
        let (mut messages, mut rest) = (Vec::new(), &body[..]);
        while head.kind == KIND_MESSAGES && !rest.is_empty() {
            let (message, len) = Message::decode(rest).expect("messages");
            messages.push(message);
            rest = &rest[len..];
        }
        if !messages.is_empty() {
            return messages;
        }
    }
}

/// A promise that the old disk sent is not one of the disk that has taken its place, although a
/// link of that one is up already.
#[test]
fn a_promise_belongs_to_the_disk_that_its_own_link_named() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let config = node_config(dir.path());
    format(&config).expect("an empty directory");
    let node = Node::open(config).expect("it starts");
    let addr = node.listening().expect("it listens");
    let mut control = dial(addr, Class::Control, 77);
    let _bulk = dial(addr, Class::Bulk, 78);
    let member =
        |node| Disk { node, incarnation: None, addr: String::new(), region: String::new() };
    let first = Members::first([1, 2].map(member).to_vec()).expect("two members");
    let end = Boundary { lsn: Lsn::ZERO, chain: CHAIN_START };
    let bound = loop {
        let mut answers = Vec::new();
        let mut bound = None;
        for Message { stream, body } in next_messages(&mut control) {
            let none = Ballot::NONE;
            let answer = match body {
                Said::PreVote { ballot } => {
                    Said::PreVoteReply { ballot, granted: true, promised: none, leader: none }
                }
                Said::Prepare { ballot } => Said::Promise(Promise {
                    ballot,
                    accepting: none,
                    end,
                    committed: Lsn::ZERO,
                    base: Lsn::ZERO,
                    unknown: false,
                    holes: Vec::new(),
                    scn: 0,
                    config: first.clone(),
                }),
                Said::Takeover { config, .. } => {
                    bound = config.member(1).and_then(|member| member.incarnation);
                    continue;
                }
                _ => continue,
            };
            Message { stream, body: answer }.encode_into(&mut answers);
        }
        if bound.is_some() {
            break bound;
        }
        if !answers.is_empty() {
            let frame = FrameHead::encode(KIND_MESSAGES, 0, 0, &answers);
            control.write_all(&frame).expect("room");
        }
    };
    assert_eq!(bound, Some(77));
    node.stop().expect("nothing failed");
}
