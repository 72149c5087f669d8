use std::net::SocketAddr;

use palisade_netio::{Handle, Op, OpenHow, Payload, Purpose, Ring};
use palisade_tests::sim::{FaultKind, FaultPlan, HostId, Random, Universe};

use crate::rig::{PAGE, Rig};

/// A few hosts that write, sync, connect, send and die at random; the hash of all that happened.
fn world(seed: u64) -> (u64, u64, Universe) {
    let universe = Universe::new(seed);
    let mut random = Random::new(seed ^ 1);
    universe.set_faults(FaultPlan::swarm(&mut random));
    let hosts: Vec<_> = (0..3).map(|_| universe.add_host()).collect();
    hosts.iter().for_each(|&host| universe.make_dir(host, "/data"));
    let mut rigs: Vec<_> = hosts.iter().map(|&host| Rig::on(&universe, host)).collect();
    for turn in 0..3000 {
        let which = random.index(3);
        act(&mut rigs[which], &mut random, turn);
        rigs[which].poll();
        rigs[which].done.clear();
        for id in universe.step() {
            let rig = rigs.iter_mut().find(|rig| rig.ring.id() == id).expect("a ring that lives");
            rig.poll();
            rig.done.clear();
        }
        let (a, b) = (hosts[random.index(3)], hosts[random.index(3)]);
        match random.below(400) {
            0 => {
                let rig = rigs.remove(which);
                rigs.insert(which, rig.power_cycle());
            }
            1 => {
                let rig = rigs.remove(which);
                rigs.insert(which, rig.restart());
            }
            2 if a != b => universe.partition(a, b, random.coin()),
            3 => universe.heal_all(),
            4 => universe.break_connections(a, b),
            5 => universe.jump_wall(a, -1),
            _ => {}
        }
    }
    (universe.trace_hash(), universe.trace_len(), universe)
}

/// One random operation on random names and handle numbers, right or wrong.
fn act(rig: &mut Rig, random: &mut Random, turn: u64) {
    if rig.ring.in_flight() > 64 {
        return;
    }
    let handle = Handle::from_raw(random.between(3, 9) as i32);
    let path = format!("/data/{}", random.below(5));
    let addr = SocketAddr::new(rig.universe.address(rig.host), 7000);
    let peer = HostId(random.below(3) as u32);
    let far = SocketAddr::new(rig.universe.address(peer), 7000);
    let op = match random.below(16) {
        0 => Op::Open { path: path.into(), how: OpenHow::CreateNew },
        1 => Op::Open { path: path.into(), how: OpenHow::ReadWrite },
        2 => Op::Close { handle },
        3 => Op::Sync { handle, metadata: true },
        4 => Op::Open { path: "/data".into(), how: OpenHow::Directory },
        5 => Op::Rename { from: path.into(), to: format!("/data/{}", turn % 5).into() },
        6 => Op::Unlink { path: path.into() },
        7 => Op::Listen { addr },
        8 => Op::Accept { listener: handle },
        9 => Op::Connect { addr: far },
        10 => Op::Shutdown { socket: handle },
        11 => {
            rig.start_write(
                handle,
                random.below(8) * PAGE as u64,
                turn as u8,
                3 * PAGE,
                random.coin(),
            );
            return;
        }
        12 | 13 => {
            let (_, slot) = rig.start_send(handle, &[turn as u8; 9000], random.coin());
            return rig.pool.release(slot);
        }
        _ => {
            let (_, slot) = rig.start_receive(handle, 5000);
            return rig.pool.release(slot);
        }
    };
    rig.submit(op);
}

#[test]
fn the_same_seed_is_the_same_world_and_another_seed_is_another() {
    let mut hashes = Vec::new();
    for seed in 0..10 {
        let (hash, len, _) = world(seed);
        let (again, len_again, _) = world(seed);
        assert_eq!((hash, len), (again, len_again), "seed {seed}");
        assert!(len > 3000);
        hashes.push(hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
}

#[test]
fn chaos_breaks_no_rule_of_the_world_itself() {
    let mut struck = std::collections::BTreeSet::new();
    for seed in 100..200 {
        let (_, _, universe) = world(seed);
        let counts = universe.fault_counts();
        struck.extend(counts.into_iter().filter(|&(_, n)| n > 0).map(|(kind, _)| kind));
    }
    for kind in [
        FaultKind::ShortWrite,
        FaultKind::Transient,
        FaultKind::DiskSpike,
        FaultKind::LostNames,
        FaultKind::SendCut,
        FaultKind::Reset,
        FaultKind::ConnectRefused,
        FaultKind::AcceptEnd,
        FaultKind::LateNotify,
    ] {
        assert!(struck.contains(&kind), "{kind:?} never struck");
    }
}

#[test]
fn a_swarm_has_its_own_faults_for_each_seed() {
    let plans: Vec<_> = (0..20).map(|seed| FaultPlan::swarm(&mut Random::new(seed))).collect();
    for kind in [FaultKind::SendCut, FaultKind::Reset, FaultKind::ShortWrite] {
        let on = plans.iter().filter(|plan| plan.ppm(kind) > 0).count();
        assert!(on > 3 && on < 17, "{kind:?} is on in {on} of 20");
    }
    assert!(plans.iter().all(|plan| plan.ppm(FaultKind::WriteError) == 0));
}

#[test]
fn completions_come_in_any_order() {
    let mut reordered = 0;
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        let file = rig.file("/data/f", 4);
        let tokens: Vec<_> = (0..4u64)
            .map(|page| rig.start_write(file, page * PAGE as u64, 1, PAGE, true))
            .collect();
        rig.poll();
        rig.universe.advance_to(rig.universe.now().after(1_000_000_000));
        rig.poll();
        let order: Vec<_> = rig.done.iter().map(|end| end.token).collect();
        assert_eq!(order.len(), 4);
        reordered += usize::from(order != tokens);
    }
    assert!(reordered > 10);
}

#[test]
fn a_dead_ring_does_nothing() {
    let mut rig = Rig::new(1);
    rig.file("/data/f", 1);
    rig.universe.kill(rig.process);
    rig.submit(Op::List { path: "/".into() });
    rig.poll();
    assert!(rig.done.is_empty() && rig.universe.next_event().is_none());
    assert!(!rig.universe.is_alive(rig.process));
}

#[test]
fn freed_slots_are_poisoned() {
    let mut rig = Rig::new(1);
    let slot = rig.slot(1, PAGE);
    rig.pool.release(slot);
    let again = rig.pool.take(Purpose::Write, PAGE).unwrap();
    assert!(rig.pool.bytes(again).iter().all(|&b| b == 0xDE));
}

#[test]
fn a_host_keeps_its_disk_and_loses_it_when_wiped() {
    let mut rig = Rig::new(1);
    rig.file("/data/f", 1);
    let rig = rig.power_cycle();
    assert_eq!(rig.universe.files(rig.host).len(), 1);
    rig.universe.kill(rig.process);
    rig.universe.wipe(rig.host);
    rig.universe.make_dir(rig.host, "/data");
    rig.universe.write_file(rig.host, "/data/g", vec![1; PAGE]).unwrap();
    let mut rig = Rig::on(&rig.universe, rig.host);
    let names = rig.run(Op::List { path: "/data".into() }).payload;
    assert_eq!(names, Payload::Names(vec!["g".into()]));
}
