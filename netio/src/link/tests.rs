//! Links over a scripted ring: every order of completions, whatever the kernel would do.

use std::sync::Arc;

use super::*;
use crate::hello::{KIND_HELLO, Target};
use crate::limits::PIN_NS_MAX;
use crate::op::{Run, Token};
use crate::pool::{Purpose, Quotas, SlotId};
use crate::ring::{Wait, Wake};
use crate::{FRAME_VERSION, FrameHead};

const MS: u64 = 1_000_000;
const SOCKET: Handle = Handle::from_raw(40);

/// Keeps operations until the test completes them.
#[derive(Default)]
struct Script {
    ops: Vec<(Token, Op)>,
}

impl Ring for Script {
    fn submit(&mut self, pool: &mut Pool, token: Token, op: Op) {
        assert!(self.ops.iter().all(|(other, _)| *other != token), "{token:?} is in flight");
        match &op {
            Op::Send { runs, .. } => runs.iter().for_each(|&run| pool.pin_read(run)),
            Op::Receive { run, .. } => pool.pin_fill(*run),
            _ => {}
        }
        self.ops.push((token, op));
    }

    fn enter(&mut self, _: &mut Pool, _: Wait, _: &mut Vec<Completion>) {}

    fn arm(&mut self) {}

    fn waker(&self) -> Arc<dyn Wake> {
        unreachable!("nobody sleeps here")
    }

    fn now(&self) -> Nanos {
        Nanos(0)
    }

    fn wall_ns(&self) -> u64 {
        0
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn in_flight(&self) -> usize {
        self.ops.len()
    }
}

struct Stage {
    ring: Script,
    pool: Pool,
    link: Link,
    now: Nanos,
}

impl Stage {
    fn dial(class: Class) -> Stage {
        Stage::dial_with(class, LinkTiming::default())
    }

    fn dial_with(class: Class, timing: LinkTiming) -> Stage {
        let from = Identity { cluster: 1, node: 1, shards: 1, ..Identity::default() };
        let hello = Hello::new(class, from, Target { cluster: 1, node: 2, shard: 0 });
        let base = TokenBase::new(3 << 16);
        let addr = SocketAddr::from(([127, 0, 0, 1], 9));
        let mut stage = Stage {
            ring: Script::default(),
            pool: Pool::new(Quotas { write: 4 << 20, receive: 4 << 20, tail: 0, read: 0 }).unwrap(),
            link: Link::dial(base, addr, hello, class, 1),
            now: Nanos(1),
        };
        stage.link.set_timing(timing);
        stage.link.start(&mut stage.ring, &mut stage.pool, stage.now);
        stage
    }

    /// A dialled link that is up.
    fn up(class: Class) -> Stage {
        let mut stage = Stage::dial(class);
        stage.greet();
        assert!(matches!(stage.event(), Some(LinkEvent::Up { .. })));
        stage
    }

    fn greet(&mut self) {
        let connect = self.find(|op| matches!(op, Op::Connect { .. }));
        self.done(connect, Ok(0), Payload::Handle(SOCKET));
        let send = self.find(|op| matches!(op, Op::Send { zero_copy: false, .. }));
        let Op::Send { prefix, .. } = &self.ring.ops[send].1 else { unreachable!("found") };
        let (len, head) = (prefix.len(), FrameHead::parse(prefix, &crate::FrameLimits::GREETING));
        assert_eq!(head.unwrap().kind, KIND_HELLO);
        self.done(send, Ok(len as u32), Payload::None);
        let from = Identity { cluster: 1, node: 2, shards: 1, ..Identity::default() };
        self.deliver(&Welcome::new(from).encode());
    }

    /// Gives bytes to the receive in flight, as many at a time as it asks for.
    fn deliver(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let at = self.find(|op| matches!(op, Op::Receive { .. }));
            let Op::Receive { run, .. } = self.ring.ops[at].1 else { unreachable!("found") };
            let (now, rest) = bytes.split_at(bytes.len().min(run.len as usize));
            self.pool.fill(run, now);
            self.done(at, Ok(now.len() as u32), Payload::None);
            bytes = rest;
        }
    }

    fn find(&self, wanted: impl Fn(&Op) -> bool) -> usize {
        let found = self.ring.ops.iter().position(|(_, op)| wanted(op));
        found.unwrap_or_else(|| panic!("no such operation among {:?}", self.ring.ops))
    }

    fn done(&mut self, at: usize, result: Result<u32, Errno>, payload: Payload) {
        let (token, op) = self.ring.ops.remove(at);
        match op {
            Op::Send { runs, .. } => runs.iter().for_each(|&run| self.pool.unpin_read(run)),
            Op::Receive { run, .. } => self.pool.unpin_fill(run),
            _ => {}
        }
        self.complete(Completion { token, result, more: false, payload, copied: false });
    }

    fn complete(&mut self, completion: Completion) {
        self.link.on_completion(&mut self.ring, &mut self.pool, completion, self.now);
    }

    fn event(&mut self) -> Option<LinkEvent> {
        self.link.poll_event(&mut self.ring, &mut self.pool)
    }

    fn flush(&mut self) {
        self.link.flush(&mut self.ring, &mut self.pool);
    }

    fn at(&mut self, now: Nanos) {
        self.now = now;
        self.link.on_time(&mut self.ring, &mut self.pool, now);
    }

    /// Completes shutdown, then everything else, then the close.
    fn finish_closing(&mut self) {
        while let Some((_, op)) = self.ring.ops.first() {
            let result = match op {
                Op::Shutdown { .. } | Op::Close { .. } | Op::Cancel { .. } => Ok(0),
                _ => Err(Errno::CANCELED),
            };
            self.done(0, result, Payload::None);
        }
    }

    fn send_zero_copy(&mut self) -> (SlotId, Token) {
        let zero_copy = ZeroCopy { threshold_bytes: 1, mode: ZeroCopyMode::Always };
        self.link.set_zero_copy(zero_copy);
        let slot = self.pool.take(Purpose::Write, 4096).unwrap();
        let runs = vec![Run { slot, at: 512, len: 1000 }];
        let frame = Outgoing { head: FrameHead::encode_bulk(20, 0, 0, &[], 1000), runs };
        self.link.send(&mut self.ring, &mut self.pool, frame).unwrap();
        self.flush();
        let at = self.find(|op| matches!(op, Op::Send { zero_copy: true, .. }));
        (slot, self.ring.ops[at].0)
    }
}

fn down(event: Option<LinkEvent>) -> DownReason {
    match event {
        Some(LinkEvent::Down { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connect_that_hangs_is_cancelled_and_what_it_opens_late_is_closed() {
    let mut stage = Stage::dial(Class::Control);
    let deadline = stage.link.next_timer().unwrap();
    stage.at(Nanos(deadline.0 - 1));
    assert_eq!(stage.ring.ops.len(), 1);
    stage.at(deadline);
    assert_eq!(down(stage.event()), DownReason::HandshakeTimeout);
    let cancel = stage.find(|op| matches!(op, Op::Cancel { .. }));
    stage.done(cancel, Err(Errno::NOENT), Payload::None);
    assert_eq!(stage.link.next_timer(), None, "the connect is still in flight");
    let connect = stage.find(|op| matches!(op, Op::Connect { .. }));
    stage.done(connect, Ok(0), Payload::Handle(SOCKET));
    let shutdown = stage.find(|op| matches!(op, Op::Shutdown { socket: SOCKET }));
    stage.done(shutdown, Ok(0), Payload::None);
    let close = stage.find(|op| matches!(op, Op::Close { handle: SOCKET }));
    stage.done(close, Ok(0), Payload::None);
    let again = stage.link.next_timer().unwrap();
    assert!(again.since(deadline) <= 20 * MS);
    stage.at(again);
    stage.greet();
    assert!(matches!(stage.event(), Some(LinkEvent::Up { .. })));
}

#[test]
fn a_peer_that_never_welcomes_is_left() {
    let mut stage = Stage::dial(Class::Bulk);
    let connect = stage.find(|op| matches!(op, Op::Connect { .. }));
    stage.done(connect, Ok(0), Payload::Handle(SOCKET));
    let deadline = stage.link.next_timer().unwrap();
    stage.at(deadline);
    assert_eq!(down(stage.event()), DownReason::HandshakeTimeout);
    stage.finish_closing();
    assert_eq!(stage.pool.used(Purpose::Receive), 0);
    assert!(stage.link.next_timer().is_some());
}

#[test]
fn the_socket_is_closed_only_after_its_operations_ended() {
    let mut stage = Stage::up(Class::Control);
    let frame = Outgoing::inline(FrameHead::encode(20, 0, 0, b"x"));
    stage.link.send(&mut stage.ring, &mut stage.pool, frame).unwrap();
    stage.flush();
    let receive = stage.find(|op| matches!(op, Op::Receive { .. }));
    stage.done(receive, Err(Errno::CONNRESET), Payload::None);
    assert_eq!(down(stage.event()), DownReason::Receive(Errno::CONNRESET));
    let shutdown = stage.find(|op| matches!(op, Op::Shutdown { .. }));
    stage.done(shutdown, Ok(0), Payload::None);
    assert!(stage.ring.ops.iter().all(|(_, op)| !matches!(op, Op::Close { .. })));
    let send = stage.find(|op| matches!(op, Op::Send { .. }));
    // Whatever it says, it is of a connection that is gone.
    stage.done(send, Ok(1), Payload::None);
    stage.find(|op| matches!(op, Op::Close { .. }));
    assert_eq!(stage.event(), None);
}

#[test]
fn a_failed_zero_copy_send_keeps_its_slot_until_the_notification() {
    let mut stage = Stage::up(Class::Bulk);
    let (slot, token) = stage.send_zero_copy();
    stage.pool.release(slot);
    let payload = Payload::None;
    let result = Err(Errno::CONNRESET);
    stage.complete(Completion { token, result, more: true, payload, copied: false });
    assert_eq!(down(stage.event()), DownReason::Send(Errno::CONNRESET));
    assert_eq!(stage.pool.owners(slot), 1, "the operation's pin");
    // The link goes on without waiting for it.
    let receive = stage.find(|op| matches!(op, Op::Receive { .. }));
    stage.done(receive, Ok(0), Payload::None);
    for _ in 0..2 {
        let next = stage.find(|op| matches!(op, Op::Shutdown { .. } | Op::Close { .. }));
        stage.done(next, Ok(0), Payload::None);
    }
    stage.at(stage.link.next_timer().unwrap());
    stage.greet();
    assert!(matches!(stage.event(), Some(LinkEvent::Up { .. })));
    let old = stage.find(|op| matches!(op, Op::Send { zero_copy: true, .. }));
    stage.done(old, Ok(0), Payload::None);
    assert!(stage.link.is_up() && !stage.link.is_copied());
    assert_eq!(stage.pool.used(Purpose::Write), 0);
}

#[test]
fn without_memory_to_lock_the_same_bytes_are_copied() {
    let mut stage = Stage::up(Class::Bulk);
    let (slot, _) = stage.send_zero_copy();
    let send = stage.find(|op| matches!(op, Op::Send { .. }));
    let Op::Send { prefix, runs, .. } = stage.ring.ops[send].1.clone() else {
        unreachable!("found");
    };
    stage.done(send, Err(Errno(12)), Payload::None);
    stage.flush();
    let again = stage.find(|op| matches!(op, Op::Send { zero_copy: false, .. }));
    let same = Op::Send { socket: SOCKET, prefix, runs, zero_copy: false };
    assert_eq!(stage.ring.ops[again].1, same);
    stage.done(again, Ok(1512), Payload::None);
    assert_eq!((stage.pool.owners(slot), stage.link.backlog_bytes()), (1, 0));
}

#[test]
fn a_pin_that_is_never_let_go_ends_the_connection() {
    let mut stage = Stage::up(Class::Bulk);
    let (_, token) = stage.send_zero_copy();
    let payload = Payload::None;
    stage.complete(Completion { token, result: Ok(1512), more: true, payload, copied: false });
    let due = stage.link.next_timer().unwrap();
    assert_eq!(due, stage.now.after(PIN_NS_MAX));
    stage.at(due);
    assert_eq!(down(stage.event()), DownReason::Unacknowledged);
}

#[test]
fn every_wait_is_as_long_as_it_was_set() {
    let timing = LinkTiming {
        reconnect_min_ns: 3000 * MS,
        reconnect_max_ns: 4000 * MS,
        handshake_ns: 77 * MS,
        pin_ns_max: 11 * MS,
    };
    let mut stage = Stage::dial_with(Class::Bulk, timing);
    assert_eq!(stage.link.next_timer(), Some(stage.now.after(77 * MS)));
    let refuse = |stage: &mut Stage| {
        let connect = stage.find(|op| matches!(op, Op::Connect { .. }));
        stage.done(connect, Err(Errno::CONNREFUSED), Payload::None);
        let again = stage.link.next_timer().unwrap();
        let pause = again.since(stage.now);
        stage.at(again);
        pause
    };
    let first = refuse(&mut stage);
    assert!((1500 * MS..=3000 * MS).contains(&first), "{first}");
    for _ in 0..3 {
        let later = refuse(&mut stage);
        assert!((2000 * MS..=4000 * MS).contains(&later), "{later}");
    }
    stage.greet();
    stage.event();
    let (_, token) = stage.send_zero_copy();
    let payload = Payload::None;
    stage.complete(Completion { token, result: Ok(1512), more: true, payload, copied: false });
    assert_eq!(stage.link.next_timer(), Some(stage.now.after(11 * MS)));
}

#[test]
fn a_link_that_is_redialled_says_so_and_dials_again() {
    let mut stage = Stage::up(Class::Bulk);
    stage.send_zero_copy();
    stage.link.redial(&mut stage.ring, &mut stage.pool);
    // Once is enough.
    stage.link.redial(&mut stage.ring, &mut stage.pool);
    assert_eq!(down(stage.event()), DownReason::Redialled);
    stage.finish_closing();
    stage.at(stage.link.next_timer().expect("it dials again"));
    stage.greet();
    assert!(matches!(stage.event(), Some(LinkEvent::Up { .. })));
    // One that was closed stays so.
    stage.link.close(&mut stage.ring, &mut stage.pool);
    stage.link.redial(&mut stage.ring, &mut stage.pool);
    stage.at(stage.now.after(6_000 * MS));
    stage.finish_closing();
    assert!(stage.link.is_closed());
}

#[test]
fn closing_sends_the_rest_first_but_not_for_ever() {
    for patient in [true, false] {
        let mut stage = Stage::up(Class::Control);
        let frame = Outgoing::inline(FrameHead::encode(20, 0, 0, b"last words"));
        stage.link.send(&mut stage.ring, &mut stage.pool, frame.clone()).unwrap();
        stage.link.close(&mut stage.ring, &mut stage.pool);
        assert_eq!(stage.link.send(&mut stage.ring, &mut stage.pool, frame), Err(Full));
        if patient {
            let send = stage.find(|op| matches!(op, Op::Send { .. }));
            stage.done(send, Ok(74), Payload::None);
            stage.flush();
        } else {
            stage.at(stage.link.next_timer().unwrap());
        }
        assert_eq!(down(stage.event()), DownReason::Closed);
        stage.finish_closing();
        assert!(stage.link.is_closed());
        assert_eq!(stage.link.next_timer(), None);
    }
}

#[test]
fn a_second_greeting_has_no_place() {
    let mut stage = Stage::up(Class::Control);
    stage.deliver(&FrameHead::encode(KIND_HELLO, 0, 0, b""));
    assert_eq!(down(stage.event()), DownReason::Greeting(KIND_HELLO));
    assert_eq!(FRAME_VERSION, 1);
}

#[test]
fn short_sends_and_receives_of_one_byte_lose_nothing() {
    let mut stage = Stage::up(Class::Control);
    let mut expected = Vec::new();
    for number in 0..5 {
        let frame = FrameHead::encode(20, number, 0, b"abc");
        expected.extend_from_slice(&frame);
        stage.link.send(&mut stage.ring, &mut stage.pool, Outgoing::inline(frame)).unwrap();
    }
    let mut sent = Vec::new();
    while sent.len() < expected.len() {
        stage.flush();
        let at = stage.find(|op| matches!(op, Op::Send { .. }));
        let Op::Send { prefix, .. } = &stage.ring.ops[at].1 else { unreachable!("found") };
        sent.push(prefix[0]);
        stage.done(at, Ok(1), Payload::None);
    }
    assert_eq!(sent, expected);
    let mut tags = Vec::new();
    for &byte in &sent {
        stage.deliver(&[byte]);
        while let Some(event) = stage.event() {
            let LinkEvent::Frame(frame) = event else { panic!("{event:?}") };
            tags.push(frame.head.tag);
        }
    }
    assert_eq!(tags, [0, 1, 2, 3, 4]);
}
