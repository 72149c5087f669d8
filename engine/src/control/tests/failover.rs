//! A failover step by step, at the leader of the catalogue of the standby that takes the role.

use palisade_netio::Nanos;
use palisade_wal::{Ballot, Lsn};

use super::switchover::Seat;
use crate::control::{
    Act, Change, Cluster, Leading, Level, Phase, Place, Proof, Registry, RoleStep, Step, What,
};
use crate::status::Protection::{self, Performance};
use crate::status::Transfer;

const OWN: u32 = 2;

/// What the standby knows: cluster 1 is the primary, and acks wait for cluster 2.
fn known(mode: Protection) -> Registry {
    let mut registry = Registry::default();
    let level = |level, phase, sync| {
        let forced = false;
        What::Mode(Step { epoch: 0, mode, level, phase, sync, forced })
    };
    let whats = [
        What::Put(Cluster::new(OWN, Transfer::Sync)),
        What::Put(Cluster { upstream: OWN, ..Cluster::new(3, Transfer::Async) }),
        What::Primary(Cluster::new(1, Transfer::Sync)),
        level(Performance, Phase::Steady, 0),
        level(Performance, Phase::Rising, OWN),
        level(mode, Phase::Steady, OWN),
    ];
    for (on, mut what) in (0..).zip(whats) {
        if let What::Mode(step) = &mut what {
            step.epoch = registry.mode().epoch;
        }
        assert!(registry.apply(&Change { by: 1, on, what }));
    }
    registry
}

fn seize(registry: &mut Registry, by: u32) -> bool {
    let step = RoleStep { epoch: registry.mode().epoch, act: Act::Seize };
    registry.apply(&Change { by, on: registry.version(), what: What::Role(step) })
}

/// Whoever comes to lead the catalogue while the role is taken.
fn seat(registry: Registry) -> Seat {
    let (mut out, now) = (Vec::new(), Nanos(1 << 40));
    let leading = Leading {
        ballot: Ballot { round: 1, node: 1, incarnation: 1 },
        me: Place { node: 1, shard: 0 },
        members: &[1],
        shards: 1,
        streams: &[1, 2],
        end: Lsn(64),
    };
    let level = Level::new(&leading, &registry, now, &mut out);
    Seat { registry, level, out, now }
}

#[test]
fn the_role_is_taken_when_every_stream_is_fenced() {
    let mut registry = known(Protection::Protection);
    assert!(!seize(&mut registry, 3), "acks do not wait for it");
    assert!(seize(&mut registry, OWN));
    assert_eq!(registry.primary().map(|it| it.id), Some(OWN));
    let standbys: Vec<u32> = registry.standbys().map(|it| it.id).collect();
    assert_eq!(standbys, [1, 3], "the old primary is a standby to come");
    assert_eq!(registry.standby(3).map(|it| it.upstream), Some(0));
    assert_eq!(registry.mode().office.proof, Some(Proof::ProvenUnlessForced));

    let mut seat = seat(registry);
    let heard = seat.now;
    assert_eq!(seat.ask(heard, 0, &[1]), None, "stream 2 has no FENCE");
    assert_eq!(seat.pass(60_000_000_000), None, "and time makes none");
    assert_eq!(seat.ask(heard, 0, &[2]), Some(Act::Begin { scn: 701 }));
    seat.commit(OWN, Act::Begin { scn: 701 });
    assert_eq!(seat.ask(heard, 0, &[1]), None, "stream 2 has no START");
    assert_eq!(seat.ask(heard, 0, &[1, 2]), Some(Act::Serve));
    seat.commit(OWN, Act::Serve);
    let mode = seat.registry.mode();
    assert!(mode.is_steady() && mode.mode == Performance && mode.office.scn == 701);
}

/// The journal is the catalogue: at each step another leader goes on from what is committed.
#[test]
fn another_leader_of_the_catalogue_goes_on() {
    let mut registry = known(Protection::Availability);
    assert!(seize(&mut registry, OWN));
    assert_eq!(registry.mode().office.proof, Some(Proof::NothingCut));
    for (act, next) in [(None, Phase::Seizing), (Some(Act::Begin { scn: 702 }), Phase::Starting)] {
        if let Some(act) = act {
            let mut before = seat(registry.clone());
            before.commit(OWN, act);
            registry = before.registry;
        }
        assert_eq!(registry.mode().phase, next);
        let mut seat = seat(registry.clone());
        let heard = seat.now;
        assert_eq!(seat.ask(heard, 0, &[1]), None, "it knows of no stream yet");
        assert!(seat.ask(heard, 0, &[1, 2]).is_some(), "{next:?}");
    }
}
