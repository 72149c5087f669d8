//! The liveness of nodes, beat by beat.

use palisade_netio::Nanos;

use super::super::*;

const MS: u64 = 1_000_000;

fn at(ms: u64) -> Nanos {
    Nanos(ms * MS)
}

fn states(fx: &[LivenessEffect]) -> Vec<PeerState> {
    let state = |e: &LivenessEffect| match e {
        LivenessEffect::Peer { state, .. } => Some(*state),
        LivenessEffect::Send { .. } => None,
    };
    fx.iter().filter_map(state).collect()
}

/// Gives each side what the other sent, until both are quiet.
fn exchange(a: &mut Liveness, b: &mut Liveness, now: Nanos, fx: Vec<LivenessEffect>) -> bool {
    let (mut to_b, mut up) = (fx, false);
    for _ in 0..8 {
        let mut to_a = Vec::new();
        for effect in to_b.drain(..) {
            if let LivenessEffect::Send { heartbeat, .. } = effect {
                b.on_heartbeat(1, heartbeat, now, &mut to_a);
            }
        }
        for effect in to_a.drain(..) {
            if let LivenessEffect::Send { heartbeat, .. } = effect {
                a.on_heartbeat(2, heartbeat, now, &mut to_b);
            }
        }
        up |= states(&to_b).contains(&PeerState::Up);
    }
    up
}

fn linked() -> (Liveness, Liveness) {
    let tuning = Tuning::default();
    let (mut a, mut b) = (Liveness::new(1, &[2], &tuning), Liveness::new(1, &[1], &tuning));
    let mut fx = Vec::new();
    b.on_link_up(1, at(0), &mut Vec::new());
    a.on_link_up(2, at(0), &mut fx);
    assert!(exchange(&mut a, &mut b, at(0), fx));
    assert!(a.is_up(2) && b.is_up(1));
    (a, b)
}

#[test]
fn a_link_makes_both_sides_up_at_once_and_its_end_down_at_once() {
    let (mut a, _) = linked();
    let mut fx = Vec::new();
    a.on_link_down(2, &mut fx);
    assert_eq!(states(&fx), [PeerState::Down { lease_until: at(200) }]);
}

#[test]
fn silence_is_noticed_after_the_election_timeout() {
    let (mut a, _) = linked();
    let mut fx = Vec::new();
    a.on_time(at(199), &mut fx);
    assert!(states(&fx).is_empty());
    assert_eq!(a.next_deadline(), at(200));
    a.on_time(at(200), &mut fx);
    assert_eq!(states(&fx), [PeerState::Down { lease_until: at(200) }]);
}

#[test]
fn a_peer_that_does_not_hear_is_not_up() {
    let (mut a, _) = linked();
    let mut fx = Vec::new();
    for beat in 1..=5 {
        a.on_time(at(beat * 50), &mut fx);
        let deaf = Heartbeat {
            boot: 1,
            counter: 100 + beat,
            echo_boot: 1,
            echo_counter: 0,
            progress: 0,
            waiting_us: 0,
        };
        a.on_heartbeat(2, deaf, at(beat * 50), &mut fx);
    }
    a.on_time(at(260), &mut fx);
    assert!(matches!(states(&fx)[..], [PeerState::Down { .. }]), "{fx:?}");
}

#[test]
fn a_new_boot_ends_the_lease() {
    let (mut a, _) = linked();
    let mut fx = Vec::new();
    let heartbeat = Heartbeat {
        boot: 2,
        counter: 1,
        echo_boot: 0,
        echo_counter: 0,
        progress: 0,
        waiting_us: 0,
    };
    a.on_heartbeat(2, heartbeat, at(10), &mut fx);
    assert_eq!(states(&fx), [PeerState::Down { lease_until: at(10) }]);
    assert!(!a.is_up(2));
    let old = Heartbeat {
        boot: 1,
        counter: 900,
        echo_boot: 0,
        echo_counter: 0,
        progress: 0,
        waiting_us: 0,
    };
    fx.clear();
    a.on_heartbeat(2, old, at(11), &mut fx);
    assert!(fx.is_empty());
}

#[test]
fn a_stalled_disk_silences_the_node() {
    let (mut a, _) = linked();
    let mut fx = Vec::new();
    a.on_disk_stalled(true);
    a.on_time(at(60), &mut fx);
    assert!(fx.is_empty());
    a.on_disk_stalled(false);
    a.on_time(at(120), &mut fx);
    assert_eq!(fx.len(), 1);
}

#[test]
fn a_new_peer_takes_nothing_from_those_that_are_up() {
    let (mut a, _) = linked();
    a.add(3);
    assert!(a.is_up(2) && !a.is_up(3));
    let mut fx = Vec::new();
    a.on_time(at(50), &mut fx);
    assert!(matches!(fx[..], [LivenessEffect::Send { to: 2, .. }]), "{fx:?}");
}

#[test]
fn a_node_on_another_disk_is_heard_although_its_boots_begin_anew() {
    let (mut a, _) = linked();
    let later = Heartbeat {
        boot: 7,
        counter: 1,
        echo_boot: 0,
        echo_counter: 0,
        progress: 0,
        waiting_us: 0,
    };
    a.on_heartbeat(2, later, at(10), &mut Vec::new());
    let mut b = Liveness::new(1, &[1], &Tuning::default());
    let mut fx = Vec::new();
    a.on_replaced(2, &mut fx);
    a.on_link_up(2, at(20), &mut fx);
    b.on_link_up(1, at(20), &mut Vec::new());
    assert!(exchange(&mut a, &mut b, at(20), fx));
    assert!(a.is_up(2) && b.is_up(1));
}

/// The next beat of `b`, with what it has in flight, and everything that follows from it.
fn beat(
    a: &mut Liveness,
    b: &mut Liveness,
    ms: u64,
    writes: (u64, Option<Nanos>),
) -> Vec<PeerState> {
    let (mut to_a, mut to_b) = (Vec::new(), Vec::new());
    b.on_writes(writes.0, writes.1);
    a.on_time(at(ms), &mut to_b);
    let mut seen = states(&to_b);
    b.on_time(at(ms), &mut to_a);
    for effect in to_a.drain(..) {
        if let LivenessEffect::Send { heartbeat, .. } = effect {
            a.on_heartbeat(2, heartbeat, at(ms), &mut to_b);
        }
    }
    seen = [seen, states(&to_b)].concat();
    exchange(a, b, at(ms), to_b);
    seen
}

#[test]
fn a_heartbeat_says_what_is_in_flight() {
    let (mut a, mut b) = linked();
    assert_eq!(a.waiting_us(2), Some(0));
    beat(&mut a, &mut b, 60, (7, Some(at(10))));
    assert_eq!(a.waiting_us(2), Some(50_000));
    beat(&mut a, &mut b, 120, (8, None));
    assert_eq!(a.waiting_us(2), Some(0));
    a.on_link_down(2, &mut Vec::new());
    assert_eq!(a.waiting_us(2), None, "nobody knows");
}

#[test]
fn a_peer_whose_log_stands_still_is_not_heard_until_it_moves() {
    let (a, mut b) = linked();
    let mut a = a.with_stall(1000 * MS);
    // Its own clock says that the write is young each time: it was stopped again and again.
    let mut down = None;
    for ms in (50..9000).step_by(50) {
        beat(&mut a, &mut b, ms, (5, Some(at(ms - 20))));
        down = down.or((!a.is_up(2)).then_some(ms));
        assert!(down.is_none() || !a.is_up(2), "back at {ms} ms without progress");
    }
    assert_eq!(down, Some(2250), "twice the stall, and the election timeout");
    beat(&mut a, &mut b, 9000, (6, Some(at(8990))));
    assert!(a.is_up(2), "its log moves");
}

#[test]
fn a_peer_that_writes_all_the_time_is_up_all_the_time() {
    let (a, mut b) = linked();
    let mut a = a.with_stall(1000 * MS);
    for ms in (50..9000).step_by(50) {
        // One write after the other, each of them slow.
        let write = ms / 900;
        let seen = beat(&mut a, &mut b, ms, (write, Some(at(write * 900))));
        assert!(a.is_up(2) && seen.is_empty(), "{seen:?} at {ms} ms");
    }
}

#[test]
fn a_heartbeat_that_was_not_counted_is_none() {
    let beat = Heartbeat {
        boot: 1,
        counter: 1,
        echo_boot: 0,
        echo_counter: 0,
        progress: 0,
        waiting_us: 0,
    };
    let mut bytes = Vec::new();
    beat.encode_into(&mut bytes);
    assert_eq!(Heartbeat::decode(&bytes), Ok(beat));
    bytes[8] = 0;
    assert_eq!(Heartbeat::decode(&bytes), Err(DecodeError::Inconsistent));
}
