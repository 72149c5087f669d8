//! Single roads of the level, step by step.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::world::{Action, Link, ONE_NODE, STANDBY, THREE_NODES, TICK_NS, World};
use crate::control::limits::{LEVEL_DONE_MAX, LEVEL_LEASE_NS, LEVEL_RENEW_NS, LEVEL_WAIT_NS};
use crate::control::{
    Change, Cluster, Leading, Level, LevelAsk, LevelEffect, LevelLease, LevelTold, Mode, Next,
    Office, Phase, Place, Registry, Request, Standing, Step, What, decide,
};
use crate::status::Protection::{self, Availability, Performance, Protection as Protect, Resync};
use crate::status::Transfer;
use crate::stream::mark::Mark;

const BALLOT: Ballot = Ballot { round: 1, node: 1, incarnation: 1 };

/// A world at this mode, with the level there too.
fn risen(mode: Protection) -> World {
    let mut world = World::new(ONE_NODE);
    assert_eq!(world.request(mode, false), Ok(mode != Performance));
    world.pass(4);
    assert_eq!((world.mode().level, world.mode().phase), (mode, Phase::Steady), "{world:#?}");
    world
}

fn append(world: &mut World) {
    world.budget.appends = [1, 1];
    world.settle();
    assert_eq!(world.budget.appends, [0, 0], "{world:#?}");
}

/// The table of the seed: what an append waits for, by mode and by how the standby is set.
#[test]
fn the_table_of_the_seed() {
    for mode in [Performance, Availability, Protect] {
        // ASYNC: acks wait for no standby, and the modes that want a SYNC one are not to be had.
        let mut world = World::with(ONE_NODE, Transfer::Async);
        let refused = world.request(mode, false).map_err(|refusal| refusal.rule());
        let sync = mode != Performance;
        assert_eq!(refused, if sync { Err("no-sync-standby") } else { Ok(false) });
        world.link(Link::Down);
        append(&mut world);
        assert!(world.is_acked());

        let mut world = risen(mode);
        append(&mut world);
        assert!(world.is_acked(), "the standby answers");
        world.link(Link::Down);
        append(&mut world);
        // SYNC: at once; while it answers, or for a net timeout; always.
        assert_eq!(world.is_acked(), !sync, "{mode:?}");
        world.pass(2);
        assert_eq!(world.is_acked(), mode != Protect, "{mode:?}");
        world.pass(20);
        assert_eq!(world.is_acked(), mode != Protect, "{mode:?}");
        let level = if mode == Availability { Resync } else { mode };
        assert_eq!((world.mode().mode, world.mode().level), (mode, level));
        world.link(Link::Up);
        world.settle();
        assert!(world.is_acked(), "what waited is acked in its order");
        world.pass(6);
        assert_eq!((world.mode().mode, world.mode().level), (mode, mode), "it returns by itself");
        append(&mut world);
        assert!(world.is_acked());
    }
}

#[test]
fn every_mode_follows_every_steady_level() {
    let modes = [Performance, Availability, Protect];
    for (from, to) in modes.into_iter().flat_map(|from| modes.map(|to| (from, to))) {
        let mut world = risen(from);
        assert_eq!(world.request(to, false), Ok(from != to), "{from:?} {to:?}");
        world.pass(4);
        append(&mut world);
        let mode = world.mode();
        assert_eq!((mode.mode, mode.level, mode.phase), (to, to, Phase::Steady), "{from:?}");
        assert!(world.is_acked() && mode.forced == 0);
        assert_eq!(mode.mark.cluster().is_some(), to != Performance);
    }
    // From RESYNC, with the standby gone.
    for to in [Performance, Protect] {
        let mut world = risen(Availability);
        world.link(Link::Down);
        append(&mut world);
        world.pass(2);
        assert_eq!(world.mode().level, Resync);
        let asked = world.request(to, false).map_err(|refusal| refusal.rule());
        let refused = to == Protect;
        assert_eq!(asked, if refused { Err("standby-behind") } else { Ok(true) });
        world.pass(2);
        append(&mut world);
        assert!(world.is_acked());
        assert_eq!(world.mode().mode, if refused { Availability } else { to });
    }
}

/// A short stall stops acks and nothing else.
#[test]
fn a_stall_shorter_than_the_net_timeout_lowers_nothing() {
    let mut world = risen(Availability);
    let epoch = world.mode().epoch;
    world.link(Link::Deaf);
    append(&mut world);
    assert!(!world.is_acked());
    world.link(Link::Up);
    world.pass(3);
    assert!(world.is_acked());
    assert_eq!(world.mode().epoch, epoch);
}

#[test]
fn a_rise_that_the_standby_leaves_is_given_up_unless_protection_was_asked_for() {
    for mode in [Availability, Protect] {
        let mut world = World::new(ONE_NODE);
        assert_eq!(world.request(mode, false), Ok(true));
        world.logs[1].link = Link::Deaf;
        world.pass(4);
        append(&mut world);
        let given_up = mode == Availability;
        assert_eq!(world.mode().mark.cluster().is_none(), given_up, "{:?}", world.mode());
        assert_eq!((world.mode().level, world.is_acked()), (Performance, given_up));
        // Less may be asked for at any time, and needs no proof: it never held.
        assert_eq!(world.request(Performance, false), Ok(true));
        world.pass(3);
        assert!(world.is_acked() && world.mode().forced == 0);
    }
}

/// A shard that is silent is waited for as long as it may write, and no longer.
#[test]
fn a_fall_waits_out_the_lease_of_a_silent_shard() {
    let mut world = risen(Availability);
    let silent = world.logs[1].leader;
    world.logs[0].link = Link::Down;
    world.talks[silent] = None;
    world.budget.appends = [1, 1];
    world.settle();
    world.apply(Action::Tick);
    world.settle();
    assert_eq!(world.mode().phase, Phase::Falling);
    assert_eq!(world.level().unconfirmed(), 1);
    let due = world.level().wake_at(world.now).expect("a lease ends");
    assert!(due.since(world.now) <= LEVEL_WAIT_NS, "{due:?}");
    let mark = world.logs[1].last();
    assert_eq!(world.leases[silent].next(mark, world.now), Next::Write, "it has its lease");
    world.apply(Action::Tick);
    world.settle();
    assert_eq!(world.mode().phase, Phase::Falling, "it may still write");
    assert_eq!(world.leases[silent].next(mark, world.now), Next::Hold);
    assert!(!world.is_acked());
    world.pass(2);
    assert_eq!((world.mode().phase, world.mode().level), (Phase::Steady, Resync));
    assert_eq!(world.logs[0].gate.released().0, world.logs[0].end());
    // It hears of it: nobody is asked twice.
    world.talks[silent] = Some(0);
    world.budget.appends = [0, 1];
    world.pass(1);
    assert!(world.is_acked());
}

/// At every phase, a leader of the catalogue that knows the entries alone goes on.
#[test]
fn a_new_leader_of_the_catalogue_goes_on_in_every_phase() {
    for phase in [Phase::Rising, Phase::Falling, Phase::Leaving] {
        let mut world = risen(if phase == Phase::Leaving { Protect } else { Availability });
        match phase {
            Phase::Rising => {
                world = World::new(ONE_NODE);
                assert_eq!(world.request(Availability, false), Ok(true));
                world.talks[0] = None;
            }
            Phase::Falling => {
                world.talks[0] = None;
                assert_eq!(world.request(Performance, false), Ok(true));
            }
            _ => {
                world.link(Link::Deaf);
                assert_eq!(world.request(Availability, false), Ok(true));
            }
        }
        for _ in 0..4 {
            world.apply(Action::Tick);
            world.settle();
            if world.mode().phase == phase {
                break;
            }
            world.talks[0] = if phase == Phase::Rising { Some(0) } else { None };
            world.logs[1].link = Link::Deaf;
        }
        assert_eq!(world.mode().phase, phase, "{world:#?}");
        let before = world.mode();
        world.apply(Action::Elect);
        world.settle();
        assert_eq!(world.mode().phase, phase, "it knows of nobody what it did not hear");
        if phase == Phase::Falling {
            assert_eq!(world.level().unconfirmed(), 2, "who confirmed, confirms again");
        }
        world.link(Link::Up);
        world.talks[0] = Some(0);
        world.pass(6);
        let after = world.mode();
        assert_eq!((after.phase, after.level), (Phase::Steady, after.mode), "from {before:?}");
    }
}

/// Three nodes: a leader whose members follow another one gives no lease that lasts.
#[test]
fn a_lease_lasts_no_longer_than_the_majority_that_backs_it() {
    let mut world = World::new(THREE_NODES);
    assert_eq!(world.request(Availability, false), Ok(true));
    world.pass(4);
    assert_eq!(world.mode().level, Availability);
    let last = world.shape.leaders[1];
    world.apply(Action::Elect);
    // It still asks the old one, alone.
    world.talks = vec![Some(1), Some(1), Some(0)];
    world.link(Link::Up);
    let mark = world.logs[1].last();
    assert_eq!(world.leases[last].next(mark, world.now), Next::Write);
    world.apply(Action::Tick);
    world.flow();
    assert_eq!(world.leases[last].next(mark, world.now), Next::Hold);
    world.talks[last] = Some(1);
    world.apply(Action::Tick);
    world.flow();
    assert_eq!(world.leases[last].next(mark, world.now), Next::Write);
}

/// A registry with one SYNC standby and a mode, and a leader of its catalogue with many streams.
fn leading(streams: u64, now: Nanos, out: &mut Vec<LevelEffect>) -> (Registry, Level) {
    let mut registry = Registry::default();
    let standby = Cluster::new(STANDBY, Transfer::Sync);
    assert!(registry.apply(&Change { by: 1, on: 0, what: What::Put(standby) }));
    let what = What::Mode(registry.mode().asked(Availability, false));
    assert!(registry.apply(&Change { by: 1, on: 1, what }));
    let streams: Vec<u64> = (1..=streams).collect();
    let leading = Leading {
        ballot: BALLOT,
        me: Place { node: 1, shard: 0 },
        members: &[1],
        shards: 1,
        streams: &streams,
        end: Lsn(64),
    };
    let level = Level::new(&leading, &registry, now, out);
    (registry, level)
}

fn proposed(out: &[LevelEffect]) -> Vec<(u64, Step)> {
    let proposal = |effect: &LevelEffect| match effect {
        LevelEffect::Propose { on, step } => Some((*on, *step)),
        LevelEffect::Tell { .. } | LevelEffect::Turn { .. } => None,
    };
    out.iter().filter_map(proposal).collect()
}

#[test]
fn the_marks_of_many_streams_are_told_in_parts_and_again_to_a_new_leader() {
    let (now, mut out) = (Nanos(TICK_NS), Vec::new());
    let count = 2 * LEVEL_DONE_MAX as u64 + 5;
    let (mut registry, mut level) = leading(count, now, &mut out);
    let mut lease = LevelLease::default();
    lease.on_mode(registry.mode());
    let step =
        Step { phase: Phase::Rising, sync: STANDBY, ..registry.mode().asked(Protect, false) };
    assert!(registry.apply(&Change { by: 1, on: 2, what: What::Mode(step) }));
    level.on_registry(&registry, Lsn(72), now, &mut out);
    lease.on_mode(registry.mode());
    assert_eq!(level.unmarked() as u64, count);
    let place = Place { node: 1, shard: 0 };
    let standing = Standing { leads: count as u32, ..Standing::default() };
    let mut asks = 0;
    while lease.is_due(true, now) {
        let ask = lease.ask(0, &standing, 1..=count, now);
        assert!(ask.done.len() <= LEVEL_DONE_MAX);
        assert_eq!(LevelAsk::parse(&ask.encode()).as_ref(), Ok(&ask));
        out.clear();
        level.on_ask(place, &ask, now, &mut out);
        let Some(LevelEffect::Tell { told, .. }) = out.first().cloned() else { panic!("{out:?}") };
        assert_eq!(LevelTold::parse(&told.encode()), Ok(told));
        lease.on_told(&told, now);
        asks += 1;
    }
    assert_eq!((asks, level.unmarked()), (3, 0));
    let risen = proposed(&out);
    assert_eq!((risen.len(), risen[0].1.level, risen[0].1.phase), (1, Protect, Phase::Steady));
    // A question that is not answered, or by somebody who leads no more, was perhaps not heard.
    let later = now.after(LEVEL_RENEW_NS);
    assert!(lease.ask(0, &standing, 1..=3, later).done.is_empty(), "all was answered");
    assert_eq!(lease.ask(0, &standing, 1..=3, later).done, [1, 2, 3]);
    let old = LevelTold { ballot: Ballot::NONE, asked_at: later.0, ..told_of(&out) };
    lease.on_told(&old, later);
    assert_eq!(lease.ask(0, &standing, 1..=3, later).done, [1, 2, 3]);
    let told = LevelTold { ballot: Ballot { round: 2, ..BALLOT }, asked_at: 0, ..told_of(&out) };
    let told = LevelTold { lease_ns: 0, ..told };
    lease.on_told(&told, later);
    assert!(lease.is_due(false, later), "a new leader is told at once");
    assert_eq!(lease.ask(0, &standing, 1..=3, later).done, [1, 2, 3]);
}

#[test]
fn a_stream_that_is_created_with_an_older_mark_is_waited_for_by_a_rise() {
    let (now, mut out) = (Nanos(TICK_NS), Vec::new());
    let (mut registry, mut level) = leading(1, now, &mut out);
    let rising = Step { phase: Phase::Rising, sync: STANDBY, ..registry.mode().same() };
    assert!(registry.apply(&Change { by: 1, on: 2, what: What::Mode(rising) }));
    level.on_registry(&registry, Lsn(72), now, &mut out);
    assert_eq!(level.unmarked(), 1);
    level.on_created(2, Some(registry.mode().mark));
    assert_eq!(level.unmarked(), 1, "it is born with the mark");
    for (stream, birth) in [(3, None), (4, Some(Mark::Async { epoch: 0 }))] {
        level.on_created(stream, birth);
        assert_eq!(level.unmarked(), stream as usize - 1);
    }
}

fn told_of(out: &[LevelEffect]) -> LevelTold {
    let told = |effect: &LevelEffect| match effect {
        LevelEffect::Tell { told, .. } => Some(*told),
        LevelEffect::Propose { .. } | LevelEffect::Turn { .. } => None,
    };
    out.iter().find_map(told).expect("an answer")
}

#[test]
fn a_step_is_proposed_once_and_again_when_it_came_to_nothing() {
    let (mut now, mut out) = (Nanos(TICK_NS), Vec::new());
    let (mut registry, mut level) = leading(1, now, &mut out);
    let place = Place { node: 1, shard: 0 };
    let ask = |now: Nanos| LevelAsk { asked_at: now.0, leads: 1, ..LevelAsk::default() };
    let health_ns = 5_000_000_000;
    let begun = now;
    while now.since(begun) < health_ns {
        level.on_ask(place, &ask(now), now, &mut out);
        assert_eq!(proposed(&out), [], "it is well for {} ns", now.since(begun));
        now = now.after(LEVEL_RENEW_NS);
    }
    level.on_ask(place, &ask(now), now, &mut out);
    let first = proposed(&out);
    assert_eq!((first.len(), first[0].0, first[0].1.phase), (1, 2, Phase::Rising));
    level.on_time(now, &mut out);
    assert_eq!(proposed(&out).len(), 1, "it is on its way");
    level.on_failed();
    level.on_time(now, &mut out);
    assert_eq!(proposed(&out).len(), 2);
    // Somebody else's change was faster: the step is void, and decided anew.
    let what = What::Put(Cluster::new(7, Transfer::Async));
    assert!(registry.apply(&Change { by: 1, on: 2, what }));
    level.on_registry(&registry, Lsn(72), now, &mut out);
    assert_eq!(proposed(&out).last().map(|(on, _)| *on), Some(3));
    // A stream that nobody leads is not well, nor is a standby that is far behind or held back.
    assert_eq!(level.health(), crate::control::Health::Well);
    level.on_created(9, None);
    level.on_time(now, &mut out);
    assert_eq!(level.health(), crate::control::Health::Ill);
    level.on_dropped(9);
    level.on_ask(place, &LevelAsk { behind: u64::MAX, ..ask(now) }, now, &mut out);
    assert_eq!(level.health(), crate::control::Health::Ill);
    // Who is no member is not answered.
    out.clear();
    level.on_ask(Place { node: 2, shard: 0 }, &ask(now), now, &mut out);
    assert_eq!(out, []);
}

#[test]
fn a_suspended_standby_is_not_waited_for() {
    let (now, mut out) = (Nanos(TICK_NS), Vec::new());
    let (mut registry, mut level) = leading(1, now, &mut out);
    let hold = Some(crate::control::Hold::AtOnce);
    let what = What::Put(Cluster { hold, ..Cluster::new(STANDBY, Transfer::Sync) });
    assert!(registry.apply(&Change { by: 1, on: 2, what }));
    level.on_registry(&registry, Lsn(72), now, &mut out);
    let mut at = now;
    for _ in 0..40 {
        let ask = LevelAsk { asked_at: at.0, leads: 1, ..LevelAsk::default() };
        level.on_ask(Place { node: 1, shard: 0 }, &ask, at, &mut out);
        at = at.after(LEVEL_RENEW_NS);
    }
    assert_eq!(proposed(&out), []);
}

/// What a stream may do, by its last mark, the mode, and the lease.
#[test]
fn what_a_stream_does_next() {
    let sync = |cluster, epoch| Mark::Sync { cluster, epoch };
    let alone = |epoch| Mark::Async { epoch };
    let up = Mode {
        mode: Availability,
        level: Availability,
        mark: sync(2, 5),
        epoch: 6,
        ..Mode::default()
    };
    let falling = Mode { level: Resync, phase: Phase::Falling, epoch: 7, ..up };
    let fallen = Mode { level: Resync, mark: alone(8), epoch: 8, ..up };
    let rising = Mode { level: Performance, phase: Phase::Rising, ..up };
    let leaving = Mode { mode: Performance, level: Protect, phase: Phase::Leaving, epoch: 7, ..up };
    let table = [
        (up, true, None, Next::Mark(sync(2, 5))),
        (up, true, Some(alone(4)), Next::Mark(sync(2, 5))),
        // A mark that was not heard of may be another primary's.
        (up, true, Some(alone(9)), Next::Hold),
        (up, true, Some(sync(2, 5)), Next::Write),
        (up, true, Some(sync(2, 3)), Next::Mark(sync(2, 5))),
        (up, true, Some(sync(3, 3)), Next::Mark(alone(4))),
        (up, true, Some(sync(2, 9)), Next::Hold),
        (rising, false, None, Next::Write),
        (rising, false, Some(alone(4)), Next::Write),
        (rising, false, Some(sync(2, 5)), Next::Hold),
        (rising, false, Some(sync(2, 3)), Next::Mark(alone(4))),
        (up, false, None, Next::Hold),
        (up, false, Some(alone(4)), Next::Hold),
        (up, false, Some(alone(9)), Next::Hold),
        (up, false, Some(sync(2, 5)), Next::Hold),
        (up, false, Some(sync(2, 3)), Next::Hold),
        (leaving, false, None, Next::Hold),
        (leaving, true, None, Next::Mark(sync(2, 5))),
        (falling, false, None, Next::Write),
        (falling, false, Some(sync(2, 5)), Next::Hold),
        (falling, false, Some(sync(2, 3)), Next::Mark(alone(4))),
        (fallen, false, None, Next::Write),
        (fallen, false, Some(sync(2, 5)), Next::Mark(alone(8))),
        (fallen, false, Some(sync(2, 9)), Next::Hold),
    ];
    check_next(&table);
}

/// What a stream may do while the role goes from one cluster to another.
#[test]
fn what_a_stream_does_next_in_a_switchover() {
    let alone = |epoch| Mark::Async { epoch };
    let end = Mark::End { cluster: 2, epoch: 9 };
    let office = Office { holder: 1, target: 2, ..Office::default() };
    let role = |phase, mark, epoch, office| Mode { phase, mark, epoch, office, ..Mode::default() };
    let preparing = role(Phase::Preparing, alone(0), 8, office);
    let ending = role(Phase::Ending, end, 9, office);
    let new = Office {
        role_epoch: 2,
        holder: 2,
        before: 1,
        target: 0,
        since: 10,
        scn: 0,
        ..Office::default()
    };
    let starting = role(Phase::Starting, alone(10), 10, new);
    let there = role(Phase::Steady, alone(10), 11, new);
    let again = Office { role_epoch: 3, holder: 1, before: 0, ..new };
    let resumed = role(Phase::Starting, alone(10), 10, again);
    let old = role(Phase::Steady, alone(8), 8, Office::default());
    check_next(&[
        (preparing, false, None, Next::Write),
        (ending, false, None, Next::Mark(end)),
        (ending, false, Some(alone(4)), Next::Mark(end)),
        (ending, false, Some(end), Next::Hold),
        (ending, false, Some(alone(10)), Next::Hold),
        (starting, false, Some(end), Next::Mark(alone(10))),
        (starting, false, Some(alone(8)), Next::Hold),
        (starting, false, None, Next::Hold),
        (resumed, false, Some(alone(8)), Next::Mark(alone(10))),
        (resumed, false, Some(end), Next::Mark(alone(10))),
        (starting, false, Some(alone(10)), Next::Hold),
        (there, false, Some(alone(10)), Next::Write),
        (there, false, Some(end), Next::Hold),
        (there, false, Some(alone(8)), Next::Hold),
        (old, false, Some(end), Next::Hold),
    ]);
}

fn check_next(table: &[(Mode, bool, Option<Mark>, Next)]) {
    let sync = |cluster, epoch| Mark::Sync { cluster, epoch };
    for (mode, leased, last, next) in table.iter().copied() {
        let mut lease = LevelLease::default();
        lease.on_mode(mode);
        let now = Nanos(TICK_NS);
        lease.ask(0, &Standing::default(), std::iter::empty(), now);
        let lease_ns = if leased { LEVEL_LEASE_NS } else { 0 };
        let told =
            LevelTold { shard: 0, asked_at: now.0, lease_ns, ballot: BALLOT, token: 1, mode };
        lease.on_told(&told, now.after(5));
        assert_eq!(lease.next(last, now.after(6)), next, "{mode:?} {leased} {last:?}");
        // The lease runs from the question, not from the answer.
        let ended = lease.next(Some(sync(2, 5)), now.after(LEVEL_LEASE_NS));
        assert_ne!(ended, Next::Write);
    }
}

/// Its log lost the mark with all that held it. Without a lease it would ack alone, as one that the
/// rise has not reached.
#[test]
fn a_stream_that_lost_its_mark_writes_nothing_without_a_lease() {
    for mode in [Availability, Protect] {
        let mut world = risen(mode);
        let at = world.logs[1].leader;
        world.talks[at] = None;
        world.pass(4);
        assert_eq!((world.mode().level, world.mode().phase), (mode, Phase::Steady));
        for lost in [None, Some(Mark::Async { epoch: 0 })] {
            assert_eq!(world.leases[at].next(lost, world.now), Next::Hold, "{mode:?} {lost:?}");
        }
        world.talks[at] = Some(0);
        world.flow();
        let mark = world.mode().mark;
        assert_eq!(world.leases[at].next(None, world.now), Next::Mark(mark), "{mode:?}");
    }
}

#[test]
fn what_an_ack_is_worth() {
    let worth = |mode: Protection, level, waited| {
        let mut lease = LevelLease::default();
        lease.on_mode(Mode { mode, level, epoch: 1, ..Mode::default() });
        lease.worth(waited)
    };
    assert_eq!(worth(Availability, Availability, true), Availability);
    assert_eq!(worth(Availability, Availability, false), Performance);
    assert_eq!(worth(Availability, Resync, false), Resync);
    assert_eq!(worth(Availability, Resync, true), Resync, "the level has not risen yet");
    assert_eq!(worth(Protect, Performance, true), Performance);
    assert_eq!(worth(Protect, Protect, true), Protect);
    assert_eq!(worth(Performance, Performance, false), Performance);
}

/// A mode is asked for by people, and that is the same step.
#[test]
fn a_request_is_the_step_that_the_mode_makes_of_it() {
    let world = risen(Protect);
    let own = crate::control::Own {
        cluster: 1,
        name: String::new(),
        region: String::new(),
        endpoints: Vec::new(),
        health: world.level().health(),
    };
    for (mode, force) in [(Performance, false), (Availability, true)] {
        let change = decide(&world.registry, &own, &Request::SetMode { mode, force });
        let step = What::Mode(world.mode().asked(mode, force));
        assert_eq!(change.expect("allowed").expect("a change").what, step);
    }
}
