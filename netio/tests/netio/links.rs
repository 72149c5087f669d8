//! Frames over established links.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use palisade_netio::limits::FRAME_BODY_MAX;
use palisade_netio::{
    Class, Completion, DownReason, Errno, FrameError, FrameHead, Greeted, ListenLimits, Outgoing,
    Payload, Purpose, Quotas, Ring, Run, SlotId, TokenBase, Welcome, ZeroCopy, ZeroCopyMode,
    adopt_tcp,
};

use crate::pump::{Pump, SERVER, Seen, hello, pattern, quotas};

fn up(pump: &mut Pump, class: Class) -> (usize, usize) {
    let (dialled, accepted) = pump.pair(class);
    pump.until(|pump| pump.links[dialled].is_up());
    (dialled, accepted)
}

fn send(pump: &mut Pump, at: usize, frame: Outgoing) {
    pump.until(|pump| pump.links[at].send(&mut pump.ring, &mut pump.pool, frame.clone()).is_ok());
}

/// A slot whose body, from byte 512, is a pattern.
fn filled(pump: &mut Pump, len: usize, seed: u64) -> (SlotId, Run) {
    let slot = pump.pool.take(Purpose::Write, 512 + len).unwrap();
    pump.pool.bytes_mut(slot)[512..512 + len].copy_from_slice(&pattern(len, seed));
    (slot, Run { slot, at: 512, len: len as u32 })
}

fn bulk(prefix: &[u8], tag: u64, run: Run) -> Outgoing {
    let head = FrameHead::encode_bulk(20, tag, 0, prefix, run.len as usize);
    Outgoing { head, runs: vec![run] }
}

const SIZES: [usize; 24] = [
    0,
    1,
    7,
    447,
    448,
    449,
    511,
    512,
    513,
    3583,
    3584,
    3585,
    4096,
    7679,
    7680,
    7681,
    8192,
    65_535,
    65_536,
    262_144,
    261_632,
    1 << 20,
    2 << 20,
    FRAME_BODY_MAX,
];

#[test]
fn packed_frames_of_every_size_arrive_in_order_both_ways() {
    let mut pump = Pump::new();
    let (dialled, accepted) = up(&mut pump, Class::Control);
    for (from, to) in [(dialled, accepted), (accepted, dialled)] {
        let all: Vec<usize> = SIZES.into_iter().chain((0..600).step_by(3)).collect();
        for (i, &len) in all.iter().enumerate() {
            let frame = FrameHead::encode(30, i as u64, len as u64, &pattern(len, i as u64));
            send(&mut pump, from, Outgoing::inline(frame));
        }
        pump.until(|pump| pump.frames(to) == all.len());
        let frames = pump.seen[to].drain(..).filter(|seen| matches!(seen, Seen::Frame { .. }));
        for (i, seen) in frames.enumerate() {
            let Seen::Frame { head, body, .. } = seen else { unreachable!("filtered") };
            assert_eq!((head.tag, head.tag2), (i as u64, all[i] as u64));
            assert!(body == pattern(all[i], i as u64), "frame {i}");
        }
    }
    assert_eq!(pump.links[dialled].backlog_bytes(), 0);
}

#[test]
fn bulk_bodies_land_at_byte_512_of_their_own_slots() {
    let mut pump = Pump::new();
    pump.keep = true;
    let (from, to) = up(&mut pump, Class::Bulk);
    let mut sent = 0;
    for (i, len) in SIZES.into_iter().chain([600; 43]).enumerate() {
        let (slot, run) = filled(&mut pump, len, i as u64);
        let prefix = pattern(448, 1000 + i as u64);
        send(&mut pump, from, bulk(&prefix, i as u64, run));
        pump.pool.release(slot);
        sent += 1;
        if len > 1 << 18 || i % 8 == 7 {
            pump.until(|pump| pump.frames(to) == sent);
            pump.kept.drain(..).for_each(|slot| pump.pool.release(slot));
        }
    }
    pump.until(|pump| pump.frames(to) == sent);
    let last = *pump.kept.last().unwrap();
    let bytes = pump.pool.bytes(last);
    assert!(bytes[512..1112] == pattern(600, sent as u64 - 1));
    assert!(bytes[1112..4096].iter().all(|&byte| byte == 0), "zeroes up to the page");
    assert!(FrameHead::parse(bytes, &palisade_netio::FrameLimits::ANY).is_ok());
    let mut number = 0;
    for seen in &pump.seen[to] {
        let Seen::Frame { head, at, prefix, body } = seen else { continue };
        assert_eq!((head.tag, *at), (number, 512));
        assert!(*prefix == pattern(448, 1000 + number));
        assert!(*body == pattern(body.len(), number));
        number += 1;
    }
    pump.kept.drain(..).for_each(|slot| pump.pool.release(slot));
    // Only what waits for the next frame is held.
    assert!(pump.pool.used(Purpose::Receive) <= (64 << 10) + (16 << 10));
    assert_eq!(pump.pool.used(Purpose::Write), 0);
}

#[test]
fn kept_packed_slots_are_not_written_again() {
    let mut pump = Pump::new();
    pump.keep = true;
    let (from, to) = up(&mut pump, Class::Client);
    for i in 0..300 {
        let frame = FrameHead::encode(30, i, 0, &pattern(3000, i));
        send(&mut pump, from, Outgoing::inline(frame));
        if i % 7 == 0 {
            pump.turn();
        }
        if pump.kept.len() > 60 {
            let slots = std::mem::take(&mut pump.kept);
            slots.into_iter().for_each(|slot| pump.pool.release(slot));
        }
    }
    pump.until(|pump| pump.frames(to) == 300);
    for (i, seen) in pump.seen[to].iter().filter(|s| matches!(s, Seen::Frame { .. })).enumerate() {
        let Seen::Frame { body, .. } = seen else { unreachable!("filtered") };
        assert!(*body == pattern(3000, i as u64));
    }
}

#[test]
fn without_slots_receiving_waits_and_nothing_is_lost() {
    let mut pump = Pump::with(Quotas { receive: 192 << 10, ..quotas() });
    pump.keep = true;
    let (from, to) = up(&mut pump, Class::Bulk);
    for i in 0..64 {
        let (slot, run) = filled(&mut pump, 10_000, i);
        send(&mut pump, from, bulk(&[], i, run));
        pump.pool.release(slot);
    }
    pump.until(|pump| pump.links[to].is_starved());
    for _ in 0..5 {
        pump.turn();
    }
    let stuck = pump.frames(to);
    assert!(stuck < 64);
    pump.until(|pump| {
        if !pump.kept.is_empty() {
            let slot = pump.kept.remove(0);
            pump.pool.release(slot);
        }
        pump.frames(to) == 64
    });
    assert!(pump.downs(to).is_empty());
}

#[test]
fn a_frame_above_the_quota_ends_the_connection() {
    let mut pump = Pump::with(Quotas { receive: 256 << 10, ..quotas() });
    let (from, to) = up(&mut pump, Class::Control);
    let frame = FrameHead::encode(30, 0, 0, &pattern(1 << 20, 0));
    send(&mut pump, from, Outgoing::inline(frame));
    pump.until(|pump| !pump.downs(to).is_empty());
    assert!(matches!(pump.downs(to)[0], DownReason::Quota(bytes) if *bytes == (1 << 20) + 64));
}

#[test]
fn the_backlog_is_bounded_and_slots_come_back_when_the_peer_dies() {
    let mut pump = Pump::new();
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let from = pump.dial(addr, hello(Class::Bulk));
    pump.until(|pump| !pump.greeted.is_empty());
    let Greeted { socket, .. } = pump.greeted.remove(0);
    // This peer welcomes and then reads nothing.
    let mut peer = adopt_tcp(socket);
    peer.write_all(&Welcome::new(SERVER).encode()).unwrap();
    pump.until(|pump| pump.links[from].is_up());
    let (slot, run) = filled(&mut pump, 1 << 20, 1);
    let mut taken = 0;
    while pump.links[from].send(&mut pump.ring, &mut pump.pool, bulk(&[], 0, run)).is_ok() {
        pump.turn();
        taken += 1;
        assert!(taken < 100, "the backlog grows without bound");
    }
    assert!(pump.links[from].backlog_bytes() <= 8 << 20);
    assert!(pump.pool.owners(slot) > 2);
    drop(peer);
    pump.until(|pump| !pump.downs(from).is_empty());
    pump.until(|pump| pump.pool.owners(slot) == 1);
    assert_eq!(pump.links[from].backlog_bytes(), 0);
}

#[test]
fn a_link_dials_again_after_its_peer_died() {
    let mut pump = Pump::new();
    let (dialled, mut accepted) = up(&mut pump, Class::Control);
    for round in 1..4 {
        pump.links[accepted].close(&mut pump.ring, &mut pump.pool);
        pump.until(|pump| pump.downs(dialled).len() == round);
        accepted = pump.accept();
        pump.until(|pump| pump.links[dialled].is_up());
        let frame = FrameHead::encode(30, round as u64, 0, b"again");
        send(&mut pump, dialled, Outgoing::inline(frame));
        pump.until(|pump| pump.frames(accepted) == 1);
    }
}

#[test]
fn a_link_dials_until_somebody_listens() {
    let mut pump = Pump::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dialled = pump.dial(free, hello(Class::Control));
    pump.until(|pump| !pump.downs(dialled).is_empty());
    assert_eq!(pump.downs(dialled), [&DownReason::Connect(Errno::CONNREFUSED)]);
    pump.listen(&free.to_string(), ListenLimits::default());
    pump.accept();
    pump.until(|pump| pump.links[dialled].is_up());
}

#[test]
fn completions_of_an_earlier_connection_change_nothing() {
    let mut pump = Pump::new();
    let (dialled, accepted) = up(&mut pump, Class::Control);
    pump.links[accepted].close(&mut pump.ring, &mut pump.pool);
    pump.until(|pump| pump.downs(dialled).len() == 1);
    pump.accept();
    pump.until(|pump| pump.links[dialled].is_up());
    let base = TokenBase::new(1 << 16);
    for kind in 1..7 {
        for generation in [0, 1, 4095] {
            let token = base.token(kind << 12 | generation);
            for result in [Ok(0), Err(Errno::CONNRESET)] {
                let payload = Payload::None;
                let stale = Completion { token, result, more: false, payload, copied: true };
                let now = pump.ring.now();
                let (ring, pool) = (&mut pump.ring, &mut pump.pool);
                pump.links[dialled].on_completion(ring, pool, stale, now);
            }
        }
    }
    pump.turn();
    assert!(pump.links[dialled].is_up());
    assert_eq!(pump.downs(dialled).len(), 1);
}

/// A raw peer of an accepted link.
fn raw_peer(pump: &mut Pump, class: Class) -> (TcpStream, usize) {
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(&hello(class).encode()).unwrap();
    let at = pump.accept();
    (stream, at)
}

#[test]
fn garbage_closes_the_connection_with_a_reason() {
    let mut flipped = FrameHead::encode(30, 0, 0, b"some body");
    *flipped.last_mut().unwrap() ^= 1;
    let mut long = FrameHead::encode(30, 0, 0, b"");
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    type Expected = fn(&FrameError) -> bool;
    let cases: [(Class, Vec<u8>, Expected); 4] = [
        (Class::Client, vec![0xAA; 100], |e| matches!(e, FrameError::Magic(0xAAAA_AAAA))),
        (Class::Client, flipped, |e| matches!(e, FrameError::BodyCrc { .. })),
        (Class::Client, long, |e| matches!(e, FrameError::BodyLen { len: u32::MAX, .. })),
        (Class::Bulk, vec![0x55; 512], |e| matches!(e, FrameError::Magic(_))),
    ];
    for (class, bytes, expected) in cases {
        let mut pump = Pump::new();
        let (mut stream, at) = raw_peer(&mut pump, class);
        stream.write_all(&bytes).unwrap();
        pump.until(|pump| !pump.downs(at).is_empty());
        match pump.downs(at)[0] {
            DownReason::BadFrame(error) => assert!(expected(error), "{error}"),
            other => panic!("{other}"),
        }
        pump.until(|pump| pump.links[at].is_closed());
        let reader = std::thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        pump.until(|_| reader.is_finished());
        assert_eq!(pump.pool.used(Purpose::Receive), 0);
    }
}

#[test]
fn frames_may_come_byte_by_byte() {
    for class in [Class::Client, Class::Bulk] {
        let mut pump = Pump::new();
        let (mut stream, at) = raw_peer(&mut pump, class);
        stream.set_nodelay(true).unwrap();
        let body = pattern(700, 3);
        let frame = match class {
            Class::Bulk => [FrameHead::encode_bulk(30, 5, 0, &[], 700), body.clone()].concat(),
            _ => FrameHead::encode(30, 5, 0, &body),
        };
        for chunk in [frame.clone(), frame].concat().chunks(13) {
            stream.write_all(chunk).unwrap();
            pump.turn();
        }
        pump.until(|pump| pump.frames(at) == 2);
        for seen in &pump.seen[at][1..] {
            assert!(matches!(seen, Seen::Frame { body: found, .. } if *found == body));
        }
    }
}

#[test]
fn zero_copy_over_loopback_is_reported_as_copied_and_gives_slots_back() {
    for mode in [ZeroCopyMode::Always, ZeroCopyMode::Auto] {
        let mut pump = Pump::new();
        let (from, to) = up(&mut pump, Class::Bulk);
        pump.links[from].set_zero_copy(ZeroCopy { threshold_bytes: 4096, mode });
        for i in 0..40 {
            let (slot, run) = filled(&mut pump, 100_000, i);
            send(&mut pump, from, bulk(&[1, 2, 3], i, run));
            pump.pool.release(slot);
            if i % 4 == 3 {
                pump.until(|pump| pump.frames(to) == i as usize + 1);
            }
        }
        pump.until(|pump| pump.pool.used(Purpose::Write) == 0);
        for (i, seen) in pump.seen[to][1..].iter().enumerate() {
            assert!(
                matches!(seen, Seen::Frame { body, .. } if *body == pattern(100_000, i as u64))
            );
        }
        assert!(pump.links[from].is_copied());
        pump.links[from].close(&mut pump.ring, &mut pump.pool);
        pump.until(|pump| pump.links[from].is_closed());
    }
}
