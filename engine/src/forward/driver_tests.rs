//! The real forwarder over loopback sockets, with a shard made by hand.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use palisade_netio::limits::{FRAME_BULK_HEAD_BYTES, FRAME_HEAD_BYTES};
use palisade_netio::{Class, FrameHead, Hello, Identity, KIND_WELCOME, Target, Wake};
use palisade_wal::Lsn;

use super::driver::{Forwarder, ForwarderHandle};
use super::exchange::ForwarderConfig;
use super::limits::Limits;
use super::queue::{
    ForwardEvent, ForwardPort, Lease, LocateRequest, Located, Recent, Reply, SealedExtent, Socket,
    port,
};
use super::testlog::{BALLOT, TestLog, mix, pool};
use super::wire::{ChunkHead, EndReason, FROM_FORWARDER, Fetch, FromForwarder, FromReader};

const STREAM: u64 = 7;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

/// Half of the log is in a sealed segment, a quarter committed in memory, the rest comes later.
struct Node {
    handle: Option<ForwarderHandle>,
    stop: Arc<AtomicBool>,
    sockets: crossbeam::channel::Sender<TcpStream>,
    shard: Option<JoinHandle<bool>>,
    listener: TcpListener,
    log: TestLog,
    path: PathBuf,
}

struct Shard {
    log: TestLog,
    extents: Vec<SealedExtent>,
    lease: Lease,
    committed: usize,
}

impl Shard {
    fn locate(&self, request: &LocateRequest, pool: &mut palisade_netio::Pool) -> Reply {
        let LocateRequest { id, stream, from, .. } = *request;
        let bounds = self.log.bounds();
        let committed = bounds[self.committed];
        let located = if stream != STREAM {
            Located::Unknown
        } else if from >= committed {
            Located::NotYet
        } else {
            let sealed = self.extents.iter().filter(|e| e.end > from).take(5).cloned();
            let sealed: Vec<_> = sealed.collect();
            if sealed.is_empty() {
                let at = bounds.iter().rposition(|&start| start <= from).unwrap();
                let to = (at + 20).min(self.committed);
                let records = self.log.view(pool, bounds[at], bounds[to]);
                Located::Active(Recent { stream, start: bounds[at], end: bounds[to], records })
            } else {
                Located::Sealed(sealed)
            }
        };
        Reply { id, stream, committed, shown: None, base: Lsn(0), located }
    }

    /// Returns whether all leases came back.
    fn run(
        mut self,
        mut port: ForwardPort,
        sockets: crossbeam::channel::Receiver<TcpStream>,
        stop: Arc<AtomicBool>,
    ) -> bool {
        let mut pool = pool();
        port.set_waker(Arc::new(Unpark(std::thread::current())));
        port.set_role_epoch(3);
        let from = Identity::default();
        let hello = Hello::new(Class::Reader, from, Target::default());
        let last = self.log.bounds().len() - 1;
        while !stop.load(Ordering::SeqCst) {
            for socket in sockets.try_iter() {
                let socket = Socket::Std(socket);
                let event = ForwardEvent::Connection { socket, hello };
                port.publish(event).unwrap();
            }
            while let Some(request) = port.poll_request() {
                port.reply(self.locate(&request, &mut pool));
            }
            if port.wants(STREAM) && self.committed < last {
                let bounds = self.log.bounds();
                let (start, end) = (bounds[self.committed], bounds[self.committed + 1]);
                let records = self.log.view(&mut pool, start, end);
                self.committed += 1;
                let recent = Recent { stream: STREAM, start, end, records };
                port.publish(ForwardEvent::Tail(recent)).unwrap();
            }
            port.flush();
            pool.collect();
            std::thread::park_timeout(Duration::from_millis(1));
        }
        assert!(port.is_closed());
        drop(port);
        self.extents.clear();
        pool.collect();
        !self.lease.is_held() && pool.used(palisade_netio::Purpose::Tail) == 0
    }
}

impl Node {
    fn start(name: &str, groups: usize) -> Node {
        let mut seed = 3;
        let log = TestLog::random(STREAM, groups, &mut seed);
        let path = format!("palisade-forward-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(path);
        let (mut segment, mut extents, lease) = (Vec::new(), Vec::new(), Lease::new());
        let (bounds, mut at) = (log.bounds(), 0);
        while at < groups / 2 {
            let next = (at + 1 + mix(&mut seed) as usize % 40).min(groups / 2);
            let (start, end) = (bounds[at], bounds[next]);
            let expect = log.block(&mut segment, start, end);
            let (path, lease) = (Arc::from(Path::new(&path)), lease.clone());
            extents.push(SealedExtent { path, lease, expect, start, end, ballot: BALLOT });
            at = next;
        }
        std::fs::write(&path, &segment).unwrap();
        let (port, side) = port();
        let identity = Identity { cluster: 1, node: 2, shards: 1, ..Identity::default() };
        let config = ForwarderConfig {
            identity,
            route: |_, _| 0,
            cpu: None,
            limits: Limits::default(),
            compressed_from: None,
        };
        let handle = Forwarder::spawn(vec![side], config).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (sockets, accepted) = crossbeam::channel::bounded(64);
        let shard = Shard { log: log.clone(), extents, lease, committed: groups * 3 / 4 };
        let shard_stop = stop.clone();
        let shard = std::thread::spawn(move || shard.run(port, accepted, shard_stop));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Node { handle: Some(handle), stop, sockets, shard: Some(shard), listener, log, path }
    }

    fn connect(&self) -> TcpStream {
        let mut client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        self.sockets.send(self.listener.accept().unwrap().0).unwrap();
        self.shard.as_ref().unwrap().thread().unpark();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut head = [0; FRAME_HEAD_BYTES];
        client.read_exact(&mut head).unwrap();
        let head = FrameHead::parse(&head, &palisade_netio::FrameLimits::GREETING).unwrap();
        assert_eq!(head.kind, KIND_WELCOME);
        client.read_exact(&mut vec![0; head.body_len as usize]).unwrap();
        client
    }

    fn stop(mut self) {
        self.handle.take().unwrap().stop().unwrap();
        self.stop.store(true, Ordering::SeqCst);
        assert!(self.shard.take().unwrap().join().unwrap(), "a lease or a view is still held");
        std::fs::remove_file(&self.path).unwrap();
    }
}

fn next(client: &mut TcpStream) -> (FromForwarder, Vec<u8>) {
    let mut bytes = vec![0; FRAME_HEAD_BYTES];
    client.read_exact(&mut bytes).unwrap();
    if FrameHead::parse(&bytes, &FROM_FORWARDER).is_err() {
        bytes.resize(FRAME_BULK_HEAD_BYTES, 0);
        client.read_exact(&mut bytes[FRAME_HEAD_BYTES..]).unwrap();
    }
    let head = FrameHead::parse(&bytes, &FROM_FORWARDER).unwrap();
    let mut body = vec![0; head.body_len as usize];
    client.read_exact(&mut body).unwrap();
    head.check_body(&body).unwrap();
    let bulk = bytes.len() > FRAME_HEAD_BYTES;
    let rest = if bulk { &bytes[FRAME_HEAD_BYTES..] } else { &body[..] };
    (FromForwarder::parse(&head, rest).unwrap(), body)
}

fn fetch(client: &mut TcpStream, from: Lsn, to: Lsn, follow: bool, credit_bytes: u64) {
    let fetch = Fetch { stream: STREAM, from, to, follow, base: None, credit_bytes };
    client.write_all(&FromReader::Fetch(fetch).encode()).unwrap();
}

fn chunk(client: &mut TcpStream) -> Result<(ChunkHead, Vec<u8>), EndReason> {
    loop {
        match next(client) {
            (FromForwarder::Chunk(head), body) => return Ok((head, body)),
            (FromForwarder::End(end), _) => return Err(end.reason),
            _ => {}
        }
    }
}

#[test]
fn a_reader_follows_from_sealed_segments_to_the_tail_while_another_takes_nothing() {
    let node = Node::start("follow", 16_000);
    let mut slow = node.connect();
    fetch(&mut slow, Lsn(0), Lsn::MAX, true, 1 << 30);
    let mut fast = node.connect();
    fetch(&mut fast, Lsn(0), Lsn::MAX, true, 64 << 10);
    let (mut at, end) = (Lsn(0), node.log.end());
    while at < end {
        let (head, body) = chunk(&mut fast).unwrap();
        assert_eq!(head.start, at);
        assert_eq!(head.role_epoch, 3);
        assert_eq!(body, node.log.records(head.start, head.end));
        assert_eq!(head.headers_crc, node.log.headers_crc(head.start, head.end));
        at = head.end;
        let credit = FromReader::Credit { stream: STREAM, bytes: body.len() as u64 };
        fast.write_all(&credit.encode()).unwrap();
    }
    let stop = FromReader::Stop { stream: STREAM };
    fast.write_all(&stop.encode()).unwrap();
    assert_eq!(chunk(&mut fast).unwrap_err(), EndReason::Stopped);
    // From inside of a group to inside of another, once.
    let bounds = node.log.bounds();
    fetch(&mut fast, Lsn(bounds[10].0 + 1), Lsn(bounds[90].0 + 1), false, 1 << 30);
    let mut at = bounds[10];
    let reason = loop {
        match chunk(&mut fast) {
            Ok((head, _)) => {
                assert_eq!(head.start, at);
                at = head.end;
            }
            Err(reason) => break reason,
        }
    };
    assert_eq!((reason, at), (EndReason::ReachedTo, bounds[91]));
    let stats = node.handle.as_ref().unwrap().stats();
    assert!(stats.misses == 0 && stats.readers == 2, "{stats:?}");
    node.stop();
    // Its socket was closed, not forgotten.
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
}

#[test]
fn stopping_tells_the_readers_and_garbage_ends_one_connection_only() {
    let node = Node::start("stop", 100);
    let mut bad = node.connect();
    bad.write_all(&[0xAA; 600]).unwrap();
    let mut rest = Vec::new();
    let _ = bad.read_to_end(&mut rest);
    let mut good = node.connect();
    fetch(&mut good, node.log.end(), Lsn::MAX, true, 1 << 20);
    let (status, _) = next(&mut good);
    assert!(matches!(status, FromForwarder::Status(_)), "{status:?}");
    let began = Instant::now();
    node.stop();
    assert_eq!(chunk(&mut good).unwrap_err(), EndReason::ShuttingDown);
    assert!(began.elapsed() < Duration::from_secs(5));
}
