use std::collections::BTreeMap;
use std::net::SocketAddr;

use palisade::kinds::{KIND_FETCH, KIND_MESSAGES};
use palisade_netio::{
    Errno, FrameHead, FrameLimits, Handle, Nanos, Op, OpenHow, Payload, Ring, Run, Token,
};
use palisade_tests::sim::{FaultKind, FaultPlan, SOCKET_BYTES_MAX, Universe};

use crate::rig::{PAGE, Rig, pair, until};

const SECOND: u64 = 1_000_000_000;

fn within(universe: &Universe, seconds: u64) -> Nanos {
    universe.now().after(seconds * SECOND)
}

fn completes(
    universe: &Universe,
    seconds: u64,
    rigs: &mut [&mut Rig],
    which: usize,
    token: Token,
) -> Option<palisade_netio::Completion> {
    until(universe, within(universe, seconds), rigs, |rigs| rigs[which].take(token))
}

/// Sends `bytes` from one rig and receives them at the other, whatever is cut.
fn transfer(
    universe: &Universe,
    rigs: &mut [&mut Rig; 2],
    sockets: [Handle; 2],
    bytes: &[u8],
    (zero_copy, expected): (bool, usize),
) -> Vec<u8> {
    let (mut sent, mut got) = (0, Vec::new());
    let mut sending = None;
    let (mut receive, mut slot) = rigs[1].start_receive(sockets[1], 20_000);
    let limit = within(universe, 60);
    until(universe, limit, &mut rigs[..], |rigs| {
        while let Some(end) = sending.and_then(|token| rigs[0].take(token)) {
            sent += end.result.unwrap() as usize;
            if !end.more {
                sending = None;
            }
        }
        if sending.is_none() && sent < bytes.len() {
            let part = &bytes[sent..bytes.len().min(sent + 30_000)];
            let (token, slot) = rigs[0].start_send(sockets[0], part, zero_copy);
            rigs[0].pool.release(slot);
            sending = Some(token);
        }
        if let Some(end) = rigs[1].take(receive) {
            got.extend(rigs[1].received(&end, slot));
            (receive, slot) = rigs[1].start_receive(sockets[1], 20_000);
        }
        rigs.iter_mut().for_each(|rig| rig.poll());
        (got.len() == expected && sending.is_none()).then_some(())
    });
    got
}

#[test]
fn bytes_arrive_in_order_however_they_are_cut() {
    for seed in 0..8 {
        let (universe, mut client, near, mut server, far) = pair(seed);
        let plan = [FaultKind::SendCut, FaultKind::ReceiveCut, FaultKind::Segmented]
            .into_iter()
            .fold(FaultPlan::none(), |plan, kind| plan.with(kind, 500_000));
        universe.set_faults(plan.with(FaultKind::LateNotify, 100_000));
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i / 3) as u8).collect();
        let rigs = &mut [&mut client, &mut server];
        let zero_copy = seed % 2 == 0;
        let expected = (zero_copy, bytes.len());
        let got = transfer(&universe, rigs, [near, far], &bytes, expected);
        let wrong = got.iter().zip(&bytes).position(|(a, b)| a != b);
        assert_eq!((got.len(), wrong), (bytes.len(), None), "seed {seed}");
        assert!(universe.fault_counts()[&FaultKind::SendCut] > 0);
    }
}

/// Only those between shards, and each of them whole.
#[test]
fn whole_frames_are_lost_come_twice_and_come_late() {
    let (universe, mut client, near, mut server, far) = pair(3);
    universe.follow_frames();
    let plan = FaultPlan::none().with(FaultKind::SendCut, 50_000);
    let plan = plan.with(FaultKind::FrameLost, 100_000).with(FaultKind::FrameAgain, 100_000);
    universe.set_faults(plan.with(FaultKind::FrameLate, 100_000));
    let mut bytes = Vec::new();
    for number in 0..600 {
        let kind = if number % 2 == 0 { KIND_MESSAGES } else { KIND_FETCH };
        bytes.extend(FrameHead::encode(kind, number, 0, &vec![7; number as usize]));
    }
    let rigs = &mut [&mut client, &mut server];
    let got = transfer(&universe, rigs, [near, far], &bytes, (false, usize::MAX));
    let (mut at, mut seen) = (0, BTreeMap::<u16, Vec<u64>>::new());
    while at < got.len() {
        let head = FrameHead::parse(&got[at..], &FrameLimits::ANY).expect("a whole frame");
        assert_eq!(head.body_len as u64, head.tag);
        seen.entry(head.kind).or_default().push(head.tag);
        at += (u32::from(head.head_len) + head.body_len) as usize;
    }
    assert_eq!(seen[&KIND_FETCH], (0..600).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    let between = &seen[&KIND_MESSAGES];
    let count = |number: u64| between.iter().filter(|&&seen| seen == number).count();
    let counts: Vec<usize> = (0..600).step_by(2).map(count).collect();
    assert!(counts.contains(&0) && counts.contains(&2), "{counts:?}");
    assert!(!between.is_sorted(), "{between:?}");
    for kind in [FaultKind::FrameLost, FaultKind::FrameAgain, FaultKind::FrameLate] {
        assert!(universe.fault_counts()[&kind] > 10, "{kind:?}");
    }
}

#[test]
fn nobody_listens_nobody_answers() {
    let universe = Universe::new(1);
    let (a, b) = (universe.add_host(), universe.add_host());
    let mut client = Rig::on(&universe, a);
    let addr = SocketAddr::new(universe.address(b), 9);
    assert_eq!(client.run(Op::Connect { addr }).result, Err(Errno::CONNREFUSED));
    universe.partition(a, b, true);
    let before = universe.now();
    let errno = client.run(Op::Connect { addr }).result.unwrap_err();
    assert!([110, 113].contains(&errno.0) && universe.now() > before.after(1_000_000));
    universe.heal_all();
    universe.power_cut(b);
    assert!([110, 113].contains(&client.run(Op::Connect { addr }).result.unwrap_err().0));
    let addr = "10.9.9.9:1".parse().unwrap();
    assert_eq!(client.run(Op::Connect { addr }).result, Err(Errno(113)));
}

#[test]
fn a_partition_one_way_holds_bytes_one_way_until_it_heals() {
    let (universe, mut client, near, mut server, far) = pair(1);
    universe.partition(client.host, server.host, true);
    assert!(!universe.passes(client.host, server.host));
    assert!(universe.passes(server.host, client.host));
    let (send, _) = client.start_send(near, b"held", false);
    let (reply, _) = server.start_send(far, b"through", false);
    let (receive, slot) = server.start_receive(far, 100);
    let (back, back_slot) = client.start_receive(near, 100);
    let rigs = &mut [&mut client, &mut server];
    assert_eq!(completes(&universe, 5, rigs, 0, send).unwrap().result, Ok(4));
    assert_eq!(completes(&universe, 5, rigs, 1, reply).unwrap().result, Ok(7));
    let end = completes(&universe, 5, rigs, 0, back).unwrap();
    assert_eq!(rigs[0].received(&end, back_slot), b"through");
    assert_eq!(completes(&universe, 3, rigs, 1, receive), None);
    universe.heal(rigs[0].host, rigs[1].host);
    let end = completes(&universe, 5, rigs, 1, receive).unwrap();
    assert_eq!(rigs[1].received(&end, slot), b"held");
}

#[test]
fn a_partition_breaks_connections_when_the_plan_says_so() {
    let (universe, mut client, near, server, _) = pair(1);
    universe.set_faults(FaultPlan::none().with(FaultKind::PartitionBreak, 1_000_000));
    universe.partition(client.host, server.host, false);
    let (receive, _) = client.start_receive(near, 100);
    let rigs = &mut [&mut client];
    let early = completes(&universe, 20, rigs, 0, receive);
    universe.heal_all();
    let end = early.or_else(|| completes(&universe, 20, rigs, 0, receive));
    assert!([104, 110].contains(&end.unwrap().result.unwrap_err().0));
}

#[test]
fn a_socket_holds_so_much_and_no_more() {
    let (universe, mut client, near, mut server, far) = pair(1);
    let rigs = &mut [&mut client, &mut server];
    let mut taken = 0;
    let mut last = None;
    for _ in 0..10 {
        let (send, slot) = rigs[0].start_send(near, &[1; 64 << 10], false);
        rigs[0].pool.release(slot);
        match completes(&universe, 5, rigs, 0, send) {
            Some(end) => taken += end.result.unwrap() as usize,
            None => {
                last = Some(send);
                break;
            }
        }
    }
    assert_eq!(taken, SOCKET_BYTES_MAX);
    let (receive, slot) = rigs[1].start_receive(far, PAGE);
    let end = completes(&universe, 5, rigs, 1, receive).unwrap();
    assert_eq!(rigs[1].received(&end, slot).len(), PAGE);
    let end = completes(&universe, 5, rigs, 0, last.unwrap()).unwrap();
    assert_eq!(end.result, Ok(PAGE as u32));
}

#[test]
fn shutdown_ends_what_is_in_flight_and_shows_the_peer_the_end() {
    let (universe, mut client, near, mut server, far) = pair(3);
    let (send, _) = client.start_send(near, b"last words", false);
    let rigs = &mut [&mut client, &mut server];
    completes(&universe, 1, rigs, 0, send).unwrap();
    let (own, _) = rigs[0].start_receive(near, 100);
    let shutdown = rigs[0].submit(Op::Shutdown { socket: near });
    completes(&universe, 1, rigs, 0, shutdown).unwrap().result.unwrap();
    assert!(!completes(&universe, 1, rigs, 0, own).unwrap().result.is_ok_and(|n| n > 0));
    let (first, slot) = rigs[1].start_receive(far, 100);
    let end = completes(&universe, 1, rigs, 1, first).unwrap();
    assert_eq!(rigs[1].received(&end, slot), b"last words");
    let (second, _) = rigs[1].start_receive(far, 100);
    assert_eq!(completes(&universe, 1, rigs, 1, second).unwrap().result, Ok(0));
    let (late, _) = rigs[0].start_send(near, b"x", false);
    assert_eq!(completes(&universe, 1, rigs, 0, late).unwrap().result, Err(Errno::PIPE));
}

#[test]
fn both_closed_leaves_nothing() {
    let (universe, mut client, near, mut server, far) = pair(3);
    client.run(Op::Close { handle: near }).result.unwrap();
    let (receive, slot) = server.start_receive(far, 100);
    assert_eq!(server.wait(receive).result, Ok(0));
    server.pool.release(slot);
    server.run(Op::Close { handle: far }).result.unwrap();
    assert_eq!(universe.connections(), 0);
    assert_eq!(universe.open_handles(client.process), 0);
}

#[test]
fn a_closed_handle_stays_open_below_an_operation_in_flight() {
    let (universe, mut client, near, mut server, far) = pair(3);
    let (receive, _) = client.start_receive(near, 100);
    client.run(Op::Close { handle: near }).result.unwrap();
    let (send, _) = server.start_send(far, b"still", false);
    let rigs = &mut [&mut client, &mut server];
    completes(&universe, 1, rigs, 1, send).unwrap();
    assert_eq!(completes(&universe, 1, rigs, 0, receive).unwrap().result, Ok(5));
}

#[test]
fn a_killed_process_leaves_its_peers_an_end_or_a_reset() {
    let (mut ends, mut resets) = (0, 0);
    for seed in 0..32 {
        let (universe, mut client, near, server, _) = pair(seed);
        universe.kill(server.process);
        let (receive, _) = client.start_receive(near, 100);
        match completes(&universe, 1, &mut [&mut client], 0, receive).unwrap().result {
            Ok(0) => ends += 1,
            Err(Errno::CONNRESET) => resets += 1,
            other => panic!("{other:?}"),
        }
        let addr = SocketAddr::new(universe.address(server.host), 7000);
        let refused = client.run(Op::Connect { addr }).result;
        assert_eq!(refused, Err(Errno::CONNREFUSED));
    }
    assert!(ends > 0 && resets > 0);
}

#[test]
fn a_power_cut_leaves_peers_in_the_dark_for_a_while() {
    let (universe, mut client, near, server, _) = pair(1);
    universe.power_cut(server.host);
    let (receive, _) = client.start_receive(near, 100);
    let before = universe.now();
    let end = completes(&universe, 20, &mut [&mut client], 0, receive).unwrap();
    assert!(end.result.is_err() && universe.now() > before.after(1_000_000));
}

#[test]
fn broken_connections_report_once_and_stay_closed() {
    let (universe, mut client, near, server, _) = pair(1);
    universe.break_connections(client.host, server.host);
    let rigs = &mut [&mut client];
    let (first, _) = rigs[0].start_receive(near, 100);
    let end = completes(&universe, 1, rigs, 0, first).unwrap();
    assert_eq!(end.result, Err(Errno::CONNRESET));
    let (second, _) = rigs[0].start_receive(near, 100);
    assert_eq!(completes(&universe, 1, rigs, 0, second).unwrap().result, Ok(0));
    let (send, _) = rigs[0].start_send(near, b"x", false);
    assert_eq!(completes(&universe, 1, rigs, 0, send).unwrap().result, Err(Errno::PIPE));
}

#[test]
fn accepts_go_on_until_the_world_ends_them() {
    let universe = Universe::new(5);
    let (a, b) = (universe.add_host(), universe.add_host());
    let (mut client, mut server) = (Rig::on(&universe, a), Rig::on(&universe, b));
    let (listener, addr) = server.listen(0);
    assert_ne!(addr.port(), 0);
    universe.set_faults(FaultPlan::none().with(FaultKind::AcceptEnd, 300_000));
    let (mut accepted, mut ended) = (0, 0);
    let mut accept = server.submit(Op::Accept { listener });
    for _ in 0..40 {
        let connect = client.submit(Op::Connect { addr });
        let rigs = &mut [&mut client, &mut server];
        completes(&universe, 5, rigs, 0, connect).unwrap().result.unwrap();
        while let Some(end) = completes(&universe, 4, rigs, 1, accept) {
            match end.payload {
                Payload::Accepted(..) => accepted += 1,
                _ => assert_eq!(end.result, Err(Errno::CANCELED)),
            }
            if !end.more {
                ended += 1;
                accept = rigs[1].submit(Op::Accept { listener });
            }
        }
    }
    assert_eq!(accepted, 40);
    assert!(ended > 3);
}

#[test]
fn a_cancelled_operation_completes_by_itself() {
    let (universe, mut client, near, ..) = pair(1);
    let (target, _) = client.start_receive(near, 100);
    let rigs = &mut [&mut client];
    assert_eq!(completes(&universe, 1, rigs, 0, target), None);
    let cancel = rigs[0].submit(Op::Cancel { target });
    assert_eq!(completes(&universe, 1, rigs, 0, cancel).unwrap().result, Ok(0));
    assert_eq!(completes(&universe, 1, rigs, 0, target).unwrap().result, Err(Errno::CANCELED));
    let again = rigs[0].submit(Op::Cancel { target });
    assert_eq!(completes(&universe, 1, rigs, 0, again).unwrap().result, Err(Errno::NOENT));
}

#[test]
fn a_zero_copy_slot_is_pinned_until_its_last_completion() {
    let (universe, mut client, near, ..) = pair(1);
    let plan = FaultPlan::none().with(FaultKind::LateNotify, 1_000_000);
    universe.set_faults(plan.with(FaultKind::ZeroCopyCopied, 1_000_000));
    let (send, slot) = client.start_send(near, &[7; PAGE], true);
    let first = client.wait(send);
    assert!(first.more && first.result == Ok(PAGE as u32));
    assert_eq!(client.ring.in_flight(), 1);
    let last = client.wait(send);
    assert!(!last.more && last.copied);
    client.pool.bytes_mut(slot).fill(0);
    assert_eq!(client.ring.in_flight(), 0);
}

#[test]
fn the_head_of_a_slot_may_change_while_its_body_is_sent() {
    let (_, mut client, socket, ..) = pair(1);
    let slot = client.slot(1, PAGE);
    let runs = vec![Run { slot, at: 512, len: 1024 }];
    let prefix = vec![9; 512];
    let send = client.submit(Op::Send { socket, prefix, runs, zero_copy: true });
    client.poll();
    client.pool.head_mut(slot).fill(7);
    assert!(client.wait(send).more);
    client.wait(send).result.unwrap();
}

#[test]
fn zero_copy_sends_that_fail_may_still_notify() {
    let (mut notified, mut plain) = (0, 0);
    for seed in 0..16 {
        let (_, mut client, near, ..) = pair(seed);
        client.run(Op::Shutdown { socket: near }).result.unwrap();
        let (send, _) = client.start_send(near, &[7; PAGE], true);
        let first = client.wait(send);
        assert_eq!(first.result, Err(Errno::PIPE));
        if first.more {
            assert!(!client.wait(send).more);
            notified += 1;
        } else {
            plain += 1;
        }
    }
    assert!(notified > 0 && plain > 0);
}

#[test]
#[should_panic(expected = "slot changed while in flight")]
fn a_slot_changed_under_a_zero_copy_send_is_caught() {
    let (universe, mut client, near, ..) = pair(1);
    universe.set_faults(FaultPlan::none().with(FaultKind::LateNotify, 1_000_000));
    let (send, slot) = client.start_send(near, &[7; PAGE], true);
    assert!(client.wait(send).more);
    client.corrupt_in_flight(Run { slot, at: 0, len: PAGE as u32 });
    client.wait(send);
}

#[test]
fn bytes_behind_a_partition_break_their_connection_in_the_end() {
    let (universe, mut client, near, server, _) = pair(1);
    universe.partition(client.host, server.host, true);
    let start = universe.now();
    let (send, _) = client.start_send(near, &[7; PAGE], true);
    assert!(client.wait(send).more);
    let (receive, _) = client.start_receive(near, 100);
    let rigs = &mut [&mut client];
    let broken = completes(&universe, 30, rigs, 0, receive).unwrap();
    assert_eq!(broken.result, Err(Errno(110)));
    assert!(universe.now().since(start) >= 5 * SECOND);
    assert!(!completes(&universe, 1, rigs, 0, send).unwrap().more, "the slot came back then");
}

#[test]
fn a_zero_copy_slot_stays_pinned_behind_a_partition() {
    let (universe, mut client, near, server, _) = pair(1);
    universe.partition(server.host, client.host, true);
    let (send, _) = client.start_send(near, &[7; PAGE], true);
    assert!(client.wait(send).more);
    let rigs = &mut [&mut client];
    assert_eq!(completes(&universe, 4, rigs, 0, send), None);
    universe.heal_all();
    assert!(completes(&universe, 1, rigs, 0, send).is_some_and(|end| !end.more));
}

#[test]
fn a_port_is_taken_once() {
    let mut rig = Rig::new(1);
    let (listener, addr) = rig.listen(0);
    assert_eq!(rig.run(Op::Listen { addr }).result, Err(Errno(98)));
    rig.run(Op::Close { handle: listener }).result.unwrap();
    rig.run(Op::Listen { addr }).result.unwrap();
}

#[test]
fn a_dropped_ring_leaves_no_handle_that_nobody_knows() {
    for seed in 0..32 {
        let mut rig = Rig::new(seed);
        let (_, addr) = rig.listen(0);
        for turn in 0..8 {
            let path = format!("/data/{turn}").into();
            rig.submit(Op::Open { path, how: OpenHow::CreateNew });
            rig.submit(Op::Connect { addr });
        }
        rig.poll();
        rig.universe.advance_to(rig.universe.now().after(seed * 10_000));
        let Rig { universe, process, ring, .. } = rig;
        drop(ring);
        assert_eq!(universe.open_handles(process), 1, "the listener, which was told of");
    }
}

#[test]
fn calm_ends_every_disturbance() {
    let (universe, mut client, near, mut server, far) = pair(1);
    universe.partition(client.host, server.host, false);
    universe.stall(server.host, universe.now().after(1000 * SECOND));
    universe.set_bandwidth(client.host, server.host, Some(1));
    universe.calm();
    let rigs = &mut [&mut client, &mut server];
    assert_eq!(transfer(&universe, rigs, [near, far], b"well", (false, 4)), b"well");
    let before = universe.now();
    rigs[1].open("/f", OpenHow::CreateNew);
    assert!(universe.now().since(before) < SECOND);
}

#[test]
fn a_narrow_link_takes_its_time() {
    let (universe, mut client, near, mut server, far) = pair(1);
    universe.set_bandwidth(client.host, server.host, Some(100_000));
    let start = universe.now();
    let rigs = &mut [&mut client, &mut server];
    assert_eq!(
        transfer(&universe, rigs, [near, far], &[1; 200_000], (false, 200_000)).len(),
        200_000
    );
    assert!(universe.now().since(start) > 2 * SECOND - SECOND / 10);
}

#[test]
fn a_flip_on_the_wire_changes_one_bit() {
    let (universe, mut client, near, mut server, far) = pair(1);
    universe.set_faults(FaultPlan::none().with(FaultKind::WireFlip, 1_000_000));
    let rigs = &mut [&mut client, &mut server];
    let got = transfer(&universe, rigs, [near, far], &[0; 1000], (false, 1000));
    assert_eq!(got.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
}
