//! The ring itself: doorbell, zero-copy reports, cancelling, dropping.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use palisade_netio::{
    Errno, Op, Payload, Pool, Purpose, Ring, Run, Token, Uring, UringConfig, Wait, probe,
    release_tcp,
};

use crate::pump::{Pump, quotas};

fn ring_and_pool() -> (Uring, Pool) {
    let pool = Pool::new(quotas()).unwrap();
    (Uring::new(UringConfig::default(), &pool).unwrap(), pool)
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn the_probe_passes_here() {
    let facts = probe().unwrap();
    assert!(facts.version >= (6, 1), "{}", facts.release);
}

#[test]
fn no_wake_up_is_lost() {
    const ROUNDS: u64 = 20_000;
    let (mut ring, mut pool) = ring_and_pool();
    let queued = Arc::new(AtomicU64::new(0));
    let taken = Arc::new(AtomicU64::new(0));
    let (waker, queue, seen) = (ring.waker(), queued.clone(), taken.clone());
    let producer = std::thread::spawn(move || {
        for round in 1..=ROUNDS {
            queue.store(round, Ordering::Release);
            waker.wake();
            // Each is waited for, so a lost wake-up shows as a stop.
            while seen.load(Ordering::Acquire) < round {
                std::hint::spin_loop();
                std::thread::yield_now();
            }
        }
    });
    let mut done = Vec::new();
    while taken.load(Ordering::Relaxed) < ROUNDS {
        ring.arm();
        if queued.load(Ordering::Acquire) == taken.load(Ordering::Relaxed) {
            let limit = ring.now().after(5_000_000_000);
            ring.enter(&mut pool, Wait::Until(Some(limit)), &mut done);
            assert!(ring.now() < limit, "slept through a wake-up");
        }
        taken.store(queued.load(Ordering::Acquire), Ordering::Release);
    }
    producer.join().unwrap();
    assert!(done.is_empty() && ring.in_flight() == 0);
}

#[test]
fn waiting_ends_at_its_time() {
    let (mut ring, mut pool) = ring_and_pool();
    let mut done = Vec::new();
    let until = ring.now().after(30_000_000);
    ring.enter(&mut pool, Wait::Until(Some(until)), &mut done);
    let late = ring.now().since(until);
    assert!(ring.now() >= until && late < 2_000_000_000, "{late} ns late");
    let past = ring.now();
    ring.enter(&mut pool, Wait::Until(Some(past)), &mut done);
    ring.enter(&mut pool, Wait::No, &mut done);
    assert!(done.is_empty());
}

#[test]
fn a_zero_copy_send_completes_twice_and_says_that_loopback_copied() {
    let (mut ring, mut pool) = ring_and_pool();
    let (client, server) = sockets();
    let (socket, peer) = (release_tcp(client), release_tcp(server));
    let slot = pool.take(Purpose::Write, 65_536).unwrap();
    let sink = pool.take(Purpose::Receive, 131_072).unwrap();
    let runs = vec![Run { slot, at: 0, len: 65_536 }];
    let send = Op::Send { socket, prefix: b"head".to_vec(), runs, zero_copy: true };
    ring.submit(&mut pool, Token(1), send);
    let (mut sends, mut received) = (Vec::new(), 0);
    let mut receiving = false;
    while sends.len() < 2 || received < 65_540 {
        if !receiving {
            let run = Run { slot: sink, at: 0, len: 131_072 };
            ring.submit(&mut pool, Token(2), Op::Receive { socket: peer, run });
            receiving = true;
        }
        let mut done = Vec::new();
        ring.enter(&mut pool, Wait::Until(None), &mut done);
        for completion in done {
            if completion.token == Token(2) {
                received += completion.result.unwrap();
                receiving = false;
                continue;
            }
            // Both may have come at once; the slot is free only after the second.
            assert!(completion.more || pool.owners(slot) == 1);
            sends.push((completion.result, completion.more, completion.copied));
        }
    }
    assert_eq!(sends, [(Ok(65_540), true, false), (Ok(0), false, true)]);
    for handle in [socket, peer] {
        ring.submit(&mut pool, Token(handle.raw() as u64 + 100), Op::Close { handle });
    }
    ring.close(&mut pool);
    assert_eq!(pool.owners(sink), 1);
}

#[test]
fn what_is_cancelled_still_completes() {
    let mut pump = Pump::new();
    let (client, server) = sockets();
    let socket = release_tcp(server);
    let slot = pump.pool.take(Purpose::Receive, 4096).unwrap();
    let run = Run { slot, at: 0, len: 4096 };
    pump.ring.submit(&mut pump.pool, Token(5), Op::Receive { socket, run });
    pump.turn();
    assert_eq!(pump.pool.owners(slot), 2);
    pump.ring.submit(&mut pump.pool, Token(6), Op::Cancel { target: Token(5) });
    pump.until(|pump| pump.others.len() == 2);
    let result = |token| pump.others.iter().find(|c| c.token == Token(token)).unwrap().result;
    assert_eq!((result(5), result(6)), (Err(Errno::CANCELED), Ok(0)));
    assert_eq!(pump.pool.owners(slot), 1);
    drop(client);
    pump.others.clear();
    pump.run(Op::Close { handle: socket });
}

#[test]
#[should_panic(expected = "is in flight")]
fn a_token_names_one_operation() {
    let (mut ring, mut pool) = ring_and_pool();
    let (_client, server) = sockets();
    let socket = release_tcp(server);
    for _ in 0..2 {
        let slot = pool.take(Purpose::Receive, 4096).unwrap();
        let run = Run { slot, at: 0, len: 4096 };
        ring.submit(&mut pool, Token(5), Op::Receive { socket, run });
    }
}

#[test]
fn dropping_ends_what_is_in_flight() {
    for give_back in [true, false] {
        let (mut ring, mut pool) = ring_and_pool();
        let (mut client, server) = sockets();
        let socket = release_tcp(server);
        let addr = "127.0.0.1:0".parse().unwrap();
        ring.submit(&mut pool, Token(1), Op::Listen { addr });
        let mut done = Vec::new();
        ring.enter(&mut pool, Wait::No, &mut done);
        let Payload::Listening(listener, addr) = done[0].payload else {
            panic!("{done:?}");
        };
        ring.submit(&mut pool, Token(2), Op::Accept { listener });
        let slot = pool.take(Purpose::Receive, 4096).unwrap();
        let run = Run { slot, at: 0, len: 4096 };
        ring.submit(&mut pool, Token(3), Op::Receive { socket, run });
        ring.submit(&mut pool, Token(4), Op::Connect { addr: "192.0.2.1:9".parse().unwrap() });
        ring.submit(&mut pool, Token(5), Op::Connect { addr });
        ring.enter(&mut pool, Wait::No, &mut done);
        // At least the accept and the receive; the connects may have failed already.
        assert!(ring.in_flight() >= 2);
        let started = ring.now();
        if give_back {
            ring.close(&mut pool);
            assert_eq!(pool.owners(slot), 1);
        } else {
            drop(ring);
            assert_eq!(pool.owners(slot), 2);
        }
        let (ring, pool_after) = ring_and_pool();
        assert!(ring.now().since(started) < 1_500_000_000, "dropping took its whole limit");
        drop((ring, pool_after));
        // The receive was cancelled: these bytes go nowhere, least of all into the slot.
        client.write_all(b"late").unwrap();
        drop(palisade_netio::adopt_tcp(socket));
        drop(palisade_netio::adopt_tcp(listener));
    }
}
