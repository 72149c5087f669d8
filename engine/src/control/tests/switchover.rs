//! A switchover step by step, at the leader of the catalogue.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use crate::control::limits::{END_NS, LEVEL_RENEW_NS, PREPARE_NS, SWITCH_BEHIND_MAX};
use crate::control::{
    Act, Change, Cluster, Leading, Level, LevelAsk, LevelEffect, Phase, Place, Registry, RoleStep,
    Step, What,
};
use crate::status::Protection::{Availability, Performance};
use crate::status::Transfer;

const BALLOT: Ballot = Ballot { round: 1, node: 1, incarnation: 1 };
const TARGET: u32 = 2;
const PLACE: Place = Place { node: 1, shard: 0 };

/// The leader of the catalogue of a primary with two streams.
pub(super) struct Seat {
    pub(super) registry: Registry,
    pub(super) level: Level,
    pub(super) out: Vec<LevelEffect>,
    pub(super) now: Nanos,
}

impl Seat {
    fn new() -> Seat {
        let (mut registry, mut out, now) = (Registry::default(), Vec::new(), Nanos(1 << 40));
        let whats = [
            What::Put(Cluster::new(TARGET, Transfer::Async)),
            What::Primary(Cluster::new(1, Transfer::Async)),
        ];
        for (on, what) in (0..).zip(whats) {
            assert!(registry.apply(&Change { by: 1, on, what }));
        }
        let leading = Leading {
            ballot: BALLOT,
            me: PLACE,
            members: &[1],
            shards: 1,
            streams: &[1, 2],
            end: Lsn(64),
        };
        let level = Level::new(&leading, &registry, now, &mut out);
        let mut seat = Seat { registry, level, out, now };
        seat.commit(1, Act::Prepare { target: TARGET });
        seat
    }

    /// A step of the role is committed.
    pub(super) fn commit(&mut self, by: u32, act: Act) {
        let step = RoleStep { epoch: self.registry.mode().epoch, act };
        let change = Change { by, on: self.registry.version(), what: What::Role(step) };
        assert!(self.registry.apply(&change), "{act:?}");
        self.out.clear();
        self.level.on_registry(&self.registry, Lsn(72), self.now, &mut self.out);
    }

    /// What is proposed, once.
    pub(super) fn act(&mut self) -> Option<Act> {
        let act = |effect: LevelEffect| match effect {
            LevelEffect::Turn { step, .. } => Some(step.act),
            LevelEffect::Propose { .. } | LevelEffect::Tell { .. } => None,
        };
        let acts: Vec<Act> = self.out.drain(..).filter_map(act).collect();
        assert!(acts.len() <= 1, "{acts:?}");
        acts.first().copied()
    }

    pub(super) fn pass(&mut self, ns: u64) -> Option<Act> {
        self.now = self.now.after(ns);
        self.level.on_time(self.now, &mut self.out);
        self.act()
    }

    /// A shard asks, which leads both streams and heard something at `token`.
    pub(super) fn ask(&mut self, token: Nanos, behind: u64, done: &[u64]) -> Option<Act> {
        self.now = self.now.after(LEVEL_RENEW_NS);
        let ask = LevelAsk {
            asked_at: self.now.0,
            heard: BALLOT,
            token: token.0,
            leads: 2,
            behind,
            scn: 700 + done.len() as u64,
            mark: self.registry.mode().mark.epoch(),
            done: done.to_vec(),
            ..LevelAsk::default()
        };
        self.level.on_ask(PLACE, &ask, self.now, &mut self.out);
        self.act()
    }
}

#[test]
fn the_streams_end_when_the_target_is_close_and_not_before() {
    let mut seat = Seat::new();
    let before = Nanos(seat.now.0 - 1);
    assert_eq!(seat.ask(before, 0, &[]), None, "it has not heard of the target");
    let heard = seat.now;
    assert_eq!(seat.ask(heard, SWITCH_BEHIND_MAX + 1, &[]), None);
    assert_eq!(seat.ask(heard, SWITCH_BEHIND_MAX, &[]), Some(Act::End));
    let mut slow = Seat::new();
    assert_eq!(slow.pass(PREPARE_NS - 1), None);
    assert_eq!(slow.pass(1), Some(Act::GiveUp), "nothing happened");
}

#[test]
fn the_role_goes_with_the_last_end() {
    let mut seat = Seat::new();
    seat.commit(1, Act::End);
    let heard = seat.now;
    assert_eq!(seat.ask(heard, 0, &[1]), None, "stream 2 has no END");
    assert_eq!(seat.ask(heard, 0, &[2]), Some(Act::HandOver { scn: 701 }));
    let mut slow = Seat::new();
    slow.commit(1, Act::End);
    assert_eq!(slow.ask(heard, 0, &[2]), None);
    assert_eq!(slow.pass(END_NS), Some(Act::Resume { scn: 701 }));
    slow.commit(1, Act::Resume { scn: 701 });
    assert_eq!(slow.registry.mode().phase, Phase::Starting);
    assert_eq!(slow.ask(heard, 0, &[1]), None, "stream 2 has no START");
    assert_eq!(slow.ask(heard, 0, &[1, 2]), Some(Act::Serve));
    slow.commit(1, Act::Serve);
    assert_eq!(slow.pass(PREPARE_NS), None);
}

/// A stream that was created before the catalogue ended gets its END too.
#[test]
fn a_stream_that_is_created_meanwhile_is_waited_for() {
    let mut seat = Seat::new();
    seat.commit(1, Act::End);
    seat.level.on_created(3, None);
    let heard = seat.now;
    assert_eq!(seat.ask(heard, 0, &[1, 2]), None);
    assert_eq!(seat.ask(heard, 0, &[3]), Some(Act::HandOver { scn: 702 }));
}

/// A cluster has handed the role to another one at a SYNC level, and is to be its SYNC standby.
pub(crate) fn handed_over(by: u32, target: u32, net_timeout_ms: u32) -> Registry {
    let mut registry = Registry::default();
    let sync = |id| Cluster { net_timeout_ms, ..Cluster::new(id, Transfer::Sync) };
    let level = |level, phase, sync| {
        let (epoch, mode, forced) = (0, Availability, false);
        What::Mode(Step { epoch, mode, level, phase, sync, forced })
    };
    let role = |act| What::Role(RoleStep { epoch: 0, act });
    let whats = [
        What::Put(sync(target)),
        What::Primary(sync(by)),
        level(Performance, Phase::Steady, 0),
        level(Performance, Phase::Rising, target),
        level(Availability, Phase::Steady, target),
        role(Act::Prepare { target }),
        role(Act::End),
        role(Act::HandOver { scn: 1 }),
    ];
    for (on, mut what) in (0..).zip(whats) {
        let epoch = registry.mode().epoch;
        match &mut what {
            What::Mode(step) => step.epoch = epoch,
            What::Role(step) => step.epoch = epoch,
            _ => {}
        }
        let change = Change { by, on, what };
        assert!(registry.apply(&change), "{change:?}");
    }
    registry
}

/// The old primary needs a moment until it takes the streams: what waited before anything was
/// served is no reason to do without it.
#[test]
fn a_new_primary_waits_for_the_old_one_from_when_it_serves() {
    let (registry, mut out, now) = (handed_over(1, TARGET, 500), Vec::new(), Nanos(1 << 40));
    let leading = Leading {
        ballot: BALLOT,
        me: PLACE,
        members: &[1],
        shards: 1,
        streams: &[1, 2],
        end: Lsn(64),
    };
    let level = Level::new(&leading, &registry, now, &mut out);
    let mut seat = Seat { registry, level, out, now };
    seat.now = seat.now.after(10_000_000_000);
    assert_eq!(seat.ask(now, 0, &[1, 2]), Some(Act::Serve));
    seat.commit(TARGET, Act::Serve);
    let served = seat.now;
    let falls = |seat: &mut Seat, after: u64| {
        let (asked_at, still_ns) = (served.after(after), 10_000_000_000);
        let ask = LevelAsk { asked_at: asked_at.0, leads: 2, still_ns, ..LevelAsk::default() };
        seat.level.on_ask(PLACE, &ask, asked_at, &mut seat.out);
        let falls = |effect: LevelEffect| match effect {
            LevelEffect::Propose { step, .. } => step.phase == Phase::Falling,
            LevelEffect::Turn { .. } | LevelEffect::Tell { .. } => false,
        };
        seat.out.drain(..).any(falls)
    };
    for after in [0, LEVEL_RENEW_NS, 499_999_999] {
        assert!(!falls(&mut seat, after), "after {after} ns");
    }
    assert!(falls(&mut seat, 500_000_000));
}
