//! Every rule, as tables.

use Protection::{Availability, Performance, Protection as Protect};
use Transfer::{Async, Sync};

use super::limits::{CLUSTERS_MAX, NAME_BYTES_MAX, TIME_MS_MAX, TIME_MS_MIN};
use super::{
    Change, Health, Own, Phase, Refusal, Registry, Request, Settings, Step, What, check_switchover,
    decide,
};
use crate::status::{Protection, Transfer};

const MODES: [Protection; 3] = [Performance, Availability, Protect];

fn own() -> Own {
    Own {
        cluster: 1,
        name: "shanghai".to_owned(),
        region: "sh".to_owned(),
        endpoints: vec!["127.0.0.1:7001".to_owned()],
        health: Health::Unseen,
    }
}

fn settings(transfer: Option<Transfer>) -> Settings {
    Settings {
        name: Some("s".to_owned()),
        region: Some("hz".to_owned()),
        endpoints: Some(vec!["127.0.0.1:7004".to_owned()]),
        transfer,
        ..Settings::default()
    }
}

fn only(transfer: Transfer) -> Settings {
    Settings { transfer: Some(transfer), ..Settings::default() }
}

fn add_as(cluster: u32, transfer: Transfer) -> Request {
    Request::Add { cluster, settings: settings(Some(transfer)) }
}

fn set_as(cluster: u32, transfer: Transfer) -> Request {
    Request::Set { cluster, settings: only(transfer) }
}

fn mode_as(mode: Protection) -> Request {
    Request::SetMode { mode, force: false }
}

/// Decides and applies: whether anything changed.
fn change(registry: &mut Registry, request: &Request) -> Result<bool, Refusal> {
    let Some(change) = decide(registry, &own(), request)? else { return Ok(false) };
    let read = Change::decode(&change.encode()).expect("it reads back");
    assert_eq!(read, change);
    assert!(registry.apply(&change), "decided on the newest version");
    Ok(true)
}

/// A registry with these standbys, from cluster 2 on, and a mode that they allow.
fn registry(mode: Protection, standbys: &[Transfer]) -> Registry {
    let mut registry = Registry::default();
    for (transfer, id) in standbys.iter().zip(2..) {
        assert_eq!(change(&mut registry, &add_as(id, *transfer)), Ok(true));
    }
    change(&mut registry, &mode_as(mode)).expect("these standbys allow it");
    registry
}

#[track_caller]
fn refused(registry: &Registry, request: &Request, rule: &str) {
    let before = registry.clone();
    let refusal = decide(registry, &own(), request).expect_err(rule);
    assert_eq!(refusal.rule(), rule, "{request:?}");
    let text = refusal.to_string();
    assert!(text.starts_with(&format!("{rule}: ")) && text.len() <= 400, "{text}");
    assert_eq!(*registry, before);
}

#[track_caller]
fn allowed(registry: &Registry, request: &Request) -> Registry {
    let mut after = registry.clone();
    assert_eq!(change(&mut after, request), Ok(true), "{request:?}");
    after
}

/// The table of the seed: three modes, a standby in SYNC and one in ASYNC.
#[test]
fn one_sync_standby_where_a_mode_asks_for_it_and_any_number_elsewhere() {
    for mode in MODES {
        let with = |standbys: &[Transfer]| registry(mode, standbys);
        let (one, some) = (with(&[Sync]), with(&[Sync, Async]));
        // ASYNC standbys come and go in every mode.
        let more = allowed(&some, &add_as(9, Async));
        allowed(&more, &Request::Remove { cluster: 9 });
        assert_eq!(more.effective(9), Some(Async));
        if mode == Performance {
            // SYNC has no effect there, and any number may be set so.
            let two = allowed(&allowed(&one, &add_as(8, Sync)), &add_as(9, Sync));
            assert!(two.standbys().all(|c| two.effective(c.id) == Some(Async)));
            allowed(&two, &Request::Remove { cluster: 2 });
            allowed(&allowed(&one, &set_as(2, Async)), &set_as(2, Sync));
            continue;
        }
        assert_eq!((some.effective(2), some.effective(3)), (Some(Sync), Some(Async)));
        refused(&one, &add_as(9, Sync), "two-sync-standbys");
        refused(&some, &set_as(3, Sync), "two-sync-standbys");
        refused(&some, &set_as(2, Async), "sync-standby-needed");
        refused(&some, &Request::Remove { cluster: 2 }, "sync-standby-needed");
        refused(&some, &Request::Suspend { cluster: 2, until_scn: None }, "sync-suspended");
        allowed(&some, &Request::Suspend { cluster: 3, until_scn: None });
        // With the mode gone, so are its rules.
        let free = allowed(&some, &mode_as(Performance));
        allowed(&free, &set_as(3, Sync));
        allowed(&free, &Request::Remove { cluster: 2 });
    }
}

#[test]
fn a_mode_is_set_with_exactly_one_sync_standby() {
    for mode in [Availability, Protect] {
        for (standbys, rule) in [
            (&[][..], "no-sync-standby"),
            (&[Async, Async], "no-sync-standby"),
            (&[Sync, Sync], "two-sync-standbys"),
            (&[Sync, Async, Sync], "two-sync-standbys"),
        ] {
            refused(&registry(Performance, standbys), &mode_as(mode), rule);
        }
        let held = Request::Suspend { cluster: 2, until_scn: Some(5) };
        let suspended = allowed(&registry(Performance, &[Sync]), &held);
        refused(&suspended, &mode_as(mode), "sync-suspended");
        allowed(&allowed(&suspended, &Request::Resume { cluster: 2 }), &mode_as(mode));
    }
    refused(&registry(Performance, &[Sync]), &mode_as(Protection::Resync), "not-a-mode");
}

#[test]
fn every_mode_follows_every_mode_and_the_level_does_not_rise_by_itself() {
    for (from, to) in MODES.into_iter().flat_map(|from| MODES.map(|to| (from, to))) {
        let mut registry = registry(from, &[Sync, Async]);
        let epoch = registry.mode().epoch;
        assert_eq!(change(&mut registry, &mode_as(to)), Ok(from != to));
        let mode = registry.mode();
        assert_eq!((mode.mode, mode.level), (to, Performance));
        assert_eq!(mode.epoch, epoch + u64::from(from != to));
        assert_eq!(mode.reason().is_empty(), to == Performance);
        assert_eq!(mode.forced, 0);
    }
}

/// A registry with the level on its way up to its mode, and when it is there.
fn risen(mode: Protection) -> [Registry; 2] {
    let mut registry = registry(mode, &[Sync, Async]);
    let step = |registry: &mut Registry, phase, level| {
        let epoch = registry.mode().epoch;
        let step = Step { epoch, mode, level, phase, sync: 2, forced: false };
        let on = registry.version();
        assert!(registry.apply(&Change { by: 1, on, what: What::Mode(step) }));
    };
    step(&mut registry, Phase::Rising, Performance);
    let rising = registry.clone();
    step(&mut registry, Phase::Steady, mode);
    [rising, registry]
}

#[test]
fn protection_that_holds_is_left_with_force_or_by_a_standby_that_answers() {
    let [_, registry] = risen(Protect);
    for mode in [Performance, Availability] {
        refused(&registry, &mode_as(mode), "force-needed");
        let forced = allowed(&registry, &Request::SetMode { mode, force: true }).mode();
        assert_eq!((forced.forced, forced.phase == Phase::Leaving), (forced.epoch, false));
        let well = Own { health: Health::Well, ..own() };
        let leaving = decide(&registry, &well, &mode_as(mode)).expect("it answers");
        let mut after = registry.clone();
        assert!(after.apply(&leaving.expect("a change")));
        let left = after.mode();
        assert_eq!((left.level, left.phase, left.forced), (Protect, Phase::Leaving, 0));
        // It may be forced on its way, or be taken back.
        let forced = allowed(&after, &Request::SetMode { mode, force: true }).mode();
        assert_eq!((forced.forced, forced.phase == Phase::Leaving), (forced.epoch, false));
        let back = allowed(&after, &mode_as(Protect)).mode();
        assert_eq!((back.level, back.phase), (Protect, Phase::Steady));
    }
}

#[test]
fn protection_is_asked_for_with_a_standby_that_keeps_up() {
    let ill = Own { health: Health::Ill, ..own() };
    let rule = |registry: &Registry, own: &Own, mode| {
        decide(registry, own, &mode_as(mode)).map_err(|refusal| refusal.rule()).map(|_| ())
    };
    for from in [Performance, Availability] {
        let registry = registry(from, &[Sync, Async]);
        assert_eq!(rule(&registry, &ill, Protect), Err("standby-behind"));
        assert_eq!(rule(&registry, &Own { health: Health::Well, ..own() }, Protect), Ok(()));
        assert_eq!(rule(&registry, &ill, Availability), Ok(()));
        assert_eq!(rule(&registry, &ill, Performance), Ok(()));
    }
    let [rising, risen] = risen(Availability);
    for registry in [rising, risen] {
        assert_eq!(rule(&registry, &ill, Protect), Err("standby-behind"));
        assert_eq!(rule(&registry, &ill, Performance), Ok(()));
    }
}

/// Until the last stream may be marked ASYNC, its SYNC standby stays what it is.
#[test]
fn a_sync_standby_stays_until_the_level_has_fallen() {
    for mode in [Availability, Protect] {
        let [rising, risen] = risen(mode);
        let mut states = vec![allowed(&rising, &mode_as(Performance))];
        states.push(allowed(&risen, &Request::SetMode { mode: Performance, force: true }));
        for falling in states {
            assert_eq!(falling.mode().phase, Phase::Falling);
            refused(&falling, &Request::Remove { cluster: 2 }, "level-moving");
            refused(&falling, &set_as(2, Async), "level-moving");
            refused(&falling, &Request::Suspend { cluster: 2, until_scn: None }, "level-moving");
            refused(&falling, &mode_as(Protect), "level-moving");
            allowed(&falling, &mode_as(Availability));
            // Another one may be set to SYNC, but not be waited for yet.
            let two = allowed(&falling, &set_as(3, Sync));
            refused(&two, &mode_as(Availability), "two-sync-standbys");
            let mut fallen = falling.clone();
            let step = Step { phase: Phase::Steady, sync: 0, ..falling.mode().same() };
            let on = falling.version();
            assert!(fallen.apply(&Change { by: 1, on, what: What::Mode(step) }));
            allowed(&fallen, &Request::Remove { cluster: 2 });
            allowed(&fallen, &set_as(2, Async));
            allowed(&fallen, &mode_as(Protect));
        }
    }
}

#[test]
fn a_standby_is_added_with_a_choice_and_once() {
    let registry = registry(Performance, &[Async]);
    let add = |cluster, settings| Request::Add { cluster, settings };
    refused(&registry, &add(5, settings(None)), "transfer-not-chosen");
    refused(&registry, &add_as(0, Sync), "no-id");
    refused(&registry, &add_as(1, Sync), "own-cluster");
    refused(&registry, &add_as(2, Sync), "already-there");
    for request in [
        Request::Remove { cluster: 9 },
        set_as(9, Sync),
        Request::Suspend { cluster: 9, until_scn: None },
        Request::Resume { cluster: 9 },
    ] {
        refused(&registry, &request, "unknown-cluster");
    }
    refused(
        &registry,
        &Request::Set { cluster: 2, settings: Settings::default() },
        "nothing-given",
    );
}

#[test]
fn what_is_said_of_a_standby_is_within_its_bounds() {
    let registry = registry(Performance, &[Async]);
    type Edit = fn(&mut Settings);
    let edits: [(&str, Edit); 12] = [
        ("bad-text", |s| s.name = Some(String::new())),
        ("bad-text", |s| s.name = None),
        ("bad-text", |s| s.region = Some("r\n".to_owned())),
        ("bad-text", |s| s.name = Some("n".repeat(NAME_BYTES_MAX + 1))),
        ("bad-endpoint", |s| s.endpoints = None),
        ("bad-endpoint", |s| s.endpoints = Some(vec!["10.0.0.1:1".to_owned(); 2])),
        ("bad-endpoint", |s| {
            s.endpoints = Some((1..=17).map(|p| format!("10.0.0.1:{p}")).collect())
        }),
        ("out-of-bounds", |s| s.net_timeout_ms = Some(TIME_MS_MIN - 1)),
        ("out-of-bounds", |s| s.net_timeout_ms = Some(TIME_MS_MAX + 1)),
        ("out-of-bounds", |s| s.health_check_ms = Some(0)),
        ("own-cluster", |s| s.upstream = Some(1)),
        ("unknown-cluster", |s| s.upstream = Some(7)),
    ];
    for (rule, edit) in edits {
        let mut settings = settings(Some(Async));
        edit(&mut settings);
        refused(&registry, &Request::Add { cluster: 5, settings }, rule);
    }
    for text in ["", "host", "host:", ":7001", "host:0", "host:65536", "host:+1", "a b:1", "a/b:1"]
    {
        let endpoints = Some(vec![text.to_owned()]);
        let settings = Settings { endpoints, ..settings(Some(Async)) };
        refused(&registry, &Request::Add { cluster: 5, settings }, "bad-endpoint");
    }
    // A shard waits for no resolver: names are resolved by who asks.
    for text in ["db-1.example:65535", "localhost:7001", "127.0.0.1", "127.0.0.1:0", "::1:7001"] {
        let endpoints = Some(vec![text.to_owned()]);
        let settings = Settings { endpoints, ..settings(Some(Async)) };
        refused(&registry, &Request::Add { cluster: 5, settings }, "bad-endpoint");
    }
    for text in ["127.0.0.1:7001", "[::1]:7001", "10.1.2.3:65535"] {
        let endpoints = Some(vec![text.to_owned()]);
        let settings = Settings { endpoints, ..settings(Some(Async)) };
        allowed(&registry, &Request::Add { cluster: 5, settings });
    }
    for time in [TIME_MS_MIN, TIME_MS_MAX] {
        let time = Some(time);
        let settings =
            Settings { net_timeout_ms: time, health_check_ms: time, ..settings(Some(Async)) };
        allowed(&registry, &Request::Add { cluster: 5, settings });
    }
}

#[test]
fn there_are_so_many_standbys_and_no_more() {
    let mut registry = Registry::default();
    for id in 2..CLUSTERS_MAX as u32 + 2 {
        assert_eq!(change(&mut registry, &add_as(id, Async)), Ok(true));
    }
    refused(&registry, &add_as(500, Async), "too-many-clusters");
}

#[test]
fn a_sync_standby_is_no_cascade_and_a_cascade_is_no_loop() {
    let upstream = |id| Settings { upstream: Some(id), ..Settings::default() };
    let set = |cluster, settings| Request::Set { cluster, settings };
    for mode in MODES {
        let registry = registry(mode, &[Sync, Async, Async]);
        refused(&registry, &set(2, upstream(3)), "sync-cascade");
        let cascade = allowed(&registry, &set(3, upstream(4)));
        refused(&cascade, &set_as(3, Sync), "sync-cascade");
        refused(&cascade, &set(4, upstream(3)), "upstream-loop");
        refused(&cascade, &set(4, upstream(4)), "upstream-loop");
        refused(&cascade, &Request::Remove { cluster: 4 }, "upstream-of");
        let free = allowed(&cascade, &set(3, upstream(0)));
        allowed(&free, &Request::Remove { cluster: 4 });
    }
}

#[test]
fn a_switchover_at_a_sync_mode_is_between_sync_clusters() {
    for mode in MODES {
        let mut registry = registry(mode, &[Sync, Async]);
        let rule = |registry: &Registry, target| {
            check_switchover(registry, target).map_err(|refusal| refusal.rule())
        };
        assert_eq!(rule(&registry, 9), Err("unknown-cluster"));
        let sync = mode != Performance;
        let unless = |rule| if sync { Err(rule) } else { Ok(()) };
        assert_eq!(rule(&registry, 2), unless("primary-not-sync"));
        for transfer in [Async, Sync] {
            assert_eq!(change(&mut registry, &Request::SetPrimary { transfer }), Ok(true));
            assert_eq!(change(&mut registry, &Request::SetPrimary { transfer }), Ok(false));
            let expected = if transfer == Sync { Ok(()) } else { unless("primary-not-sync") };
            assert_eq!(rule(&registry, 2), expected, "{mode:?} {transfer:?}");
        }
        assert_eq!(rule(&registry, 3), unless("target-not-sync"));
        let held = allowed(&registry, &Request::Suspend { cluster: 3, until_scn: None });
        assert_eq!(rule(&held, 3), Err("target-suspended"));
    }
}

/// An earlier version let names pass. The old primary would dial none of them.
#[test]
fn the_role_goes_to_nobody_who_is_known_by_name() {
    let mut registry = registry(Performance, &[Sync]);
    let mut named = registry.standby(2).cloned().expect("it was added");
    named.endpoints = vec!["10.0.0.4:7001".to_owned(), "db-2.example:7001".to_owned()];
    let on = registry.version();
    assert!(registry.apply(&Change { by: 1, on, what: What::Put(named) }));
    assert_eq!(change(&mut registry, &Request::SetPrimary { transfer: Sync }), Ok(true));
    refused(&registry, &Request::Switchover { cluster: 2 }, "bad-endpoint");
    assert_eq!(change(&mut registry, &set_as(2, Async)), Ok(true), "it is about something else");
    let set = Request::Set { cluster: 2, settings: settings(None) };
    assert_eq!(change(&mut registry, &set), Ok(true));
    allowed(&registry, &Request::Switchover { cluster: 2 });
}

#[test]
fn the_primary_takes_down_where_it_is() {
    let mut registry = Registry::default();
    assert_eq!(change(&mut registry, &Request::SetPrimary { transfer: Sync }), Ok(true));
    let primary = registry.primary().expect("it was set");
    assert_eq!((primary.id, &primary.endpoints), (1, &own().endpoints));
    assert!(registry.serves(99), "no standby is registered");
}

/// Two who decide on the same version: the second has no effect and knows it.
#[test]
fn of_two_that_were_decided_on_one_version_the_first_acts() {
    let start = registry(Performance, &[Sync]);
    let decided = |request: &Request| decide(&start, &own(), request).unwrap().unwrap();
    let pairs = [
        (mode_as(Protect), add_as(9, Sync)),
        (mode_as(Availability), set_as(2, Async)),
        (mode_as(Protect), Request::Remove { cluster: 2 }),
        (set_as(2, Async), mode_as(Protect)),
    ];
    for (first, second) in pairs {
        let (first, second) = (decided(&first), decided(&second));
        let mut registry = start.clone();
        assert!(registry.apply(&first));
        let after = registry.clone();
        assert!(!registry.apply(&second), "{second:?} after {first:?}");
        assert!(!registry.apply(&first), "a change acts once");
        assert_eq!(registry, after);
    }
}
