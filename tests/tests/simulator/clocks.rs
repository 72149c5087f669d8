use palisade_netio::{Nanos, Op, Ring, Wait};

use crate::rig::{PAGE, Rig};

#[test]
fn wall_clocks_jump_and_drift_alone() {
    let mut rig = Rig::new(1);
    let other = Rig::on(&rig.universe, rig.universe.add_host());
    let (start, now) = (rig.ring.wall_ns(), rig.ring.now());
    assert_eq!(start, other.ring.wall_ns());
    rig.universe.jump_wall(rig.host, -3_600_000_000_000);
    assert_eq!(rig.ring.wall_ns() + 3_600_000_000_000, start);
    assert_eq!((other.ring.wall_ns(), rig.ring.now()), (start, now));
    rig.universe.set_wall_offset(rig.host, 0);
    rig.universe.set_wall_drift(rig.host, 50_000);
    rig.universe.advance_to(now.after(1_000_000_000));
    assert_eq!(rig.ring.wall_ns(), start + 1_050_000_000);
    assert_eq!(other.ring.wall_ns(), start + 1_000_000_000);
    rig.poll();
}

#[test]
fn a_sleeper_wakes_at_its_time() {
    let mut rig = Rig::new(1);
    let at = rig.universe.now().after(5_000_000);
    rig.ring.enter(&mut rig.pool, Wait::Until(Some(at)), &mut rig.done);
    assert!(!rig.ring.is_due());
    assert_eq!((rig.ring.wake_time(), rig.universe.next_event()), (Some(at), Some(at)));
    assert_eq!(rig.universe.step(), [rig.ring.id()]);
    assert_eq!(rig.universe.now(), at);
}

#[test]
fn a_shard_that_does_not_wait_is_due_after_its_turn() {
    let mut rig = Rig::new(1);
    rig.ring.enter(&mut rig.pool, Wait::No, &mut rig.done);
    assert!(!rig.ring.is_due());
    let next = rig.ring.wake_time().unwrap();
    assert!(next.since(rig.universe.now()) < 10_000);
}

#[test]
fn the_bell_reaches_an_armed_shard_and_no_other() {
    let mut rig = Rig::new(1);
    let waker = rig.ring.waker();
    rig.poll();
    waker.wake();
    assert!(!rig.ring.is_due(), "not armed");
    assert_eq!(rig.universe.next_event(), None);
    rig.ring.arm();
    rig.poll();
    waker.wake();
    assert!(rig.ring.is_due());
    rig.poll();
    rig.ring.arm();
    waker.wake();
    rig.poll();
    assert!(rig.ring.wake_time().is_some(), "a wake between arm and enter is not lost");
}

#[test]
fn a_paused_process_runs_later_while_its_operations_go_on() {
    let mut rig = Rig::new(1);
    let file = rig.file("/data/f", 1);
    rig.start_write(file, 0, 7, PAGE, true);
    rig.poll();
    let until = rig.universe.now().after(10_000_000_000);
    rig.universe.pause(rig.process, until);
    while rig.universe.step().is_empty() {}
    assert_eq!(rig.universe.now(), until);
}

#[test]
fn time_starts_above_zero_and_completions_take_time() {
    let mut rig = Rig::new(1);
    let start = rig.universe.now();
    assert!(start > Nanos(0));
    rig.run(Op::List { path: "/".into() }).result.unwrap();
    assert!(rig.universe.now() > start);
}
