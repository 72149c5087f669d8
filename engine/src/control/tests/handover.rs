//! Every state of two sites that are cut apart while the primary role goes from one to the other,
//! within bounds.
//!
//! `LEVEL_MODEL=large` explores more than a machine of CI has time for.

use stateright::{Checker, Model, Property};

use super::sites::{Action, Budget, Link, World};
use crate::control::Phase;

#[derive(Clone)]
struct Switchover {
    sync: bool,
    budget: Budget,
    /// The role was at the other site before.
    back: bool,
}

const PLAIN: Budget =
    Budget { ticks: 2, turns: 1, appends: [1, 1], switches: 1, crashes: 0, slips: 0, late: 0 };

impl Switchover {
    fn begin(&self) -> World {
        let mut world = World::new(self.sync);
        if self.back {
            world.apply(Action::Switch(0));
            world.settle();
            assert!(world.serves(1) && world.mode(1).office.role_epoch == 2, "{world:?}");
        }
        world.budget = self.budget;
        world
    }
}

impl Model for Switchover {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let left = world.budget;
        actions.extend((left.ticks > 0).then_some(Action::Tick));
        for (at, site) in world.sites.iter().enumerate() {
            actions.extend(site.proposed.map(|_| Action::Commit(at)));
            actions.extend((left.switches > 0).then_some(Action::Switch(at)));
            actions.extend((left.turns > 0).then_some(Action::Talk(at)));
            let mute = !site.talks && site.late.is_none() && left.late > 0;
            actions.extend(mute.then_some(Action::AskLate(at)));
            actions.extend(site.late.map(|_| Action::Late(at)));
            for (stream, log) in site.logs.iter().enumerate() {
                actions.push(Action::Act(at, stream));
                let slips = !log.slips && left.slips > 0;
                actions.extend(slips.then_some(Action::Slip(at, stream)));
                actions.extend(log.slips.then_some(Action::Land(at, stream)));
                actions.extend((left.crashes > 0).then_some(Action::Crash(at, stream)));
            }
        }
        for stream in 0..2 {
            let links = [Link::Up, Link::Deaf, Link::Down].into_iter();
            let links = links.filter(|_| left.turns > 0);
            let other = links.filter(|link| *link != world.links[stream]);
            actions.extend(other.map(|link| Action::Link(stream, link)));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let left = &mut world.budget;
        match action {
            Action::Tick => left.ticks -= 1,
            Action::Link(..) | Action::Talk(_) => left.turns -= 1,
            Action::Switch(_) => left.switches -= 1,
            Action::Crash(..) => left.crashes -= 1,
            Action::Slip(..) => left.slips -= 1,
            Action::AskLate(_) => left.late -= 1,
            _ => {}
        }
        let changed = world.apply(action);
        world.flow();
        changed.then_some(world)
    }

    fn properties(&self) -> Vec<Property<Switchover>> {
        vec![
            Property::always("nothing is broken", |_, world: &World| world.broken.is_none()),
            Property::always("it is well when the faults end", |_, world: &World| {
                let mut world = world.clone();
                world.heal();
                world.broken.is_none() && world.is_well()
            }),
            Property::sometimes(GOES, |model: &Switchover, world: &World| {
                let to = usize::from(!model.back);
                world.serves(to) && world.mode(to).office.role_epoch == 2 + u64::from(model.back)
            }),
            Property::sometimes(RESUMES, |model: &Switchover, world: &World| {
                let at = usize::from(model.back);
                world.serves(at) && world.mode(at).office.role_epoch == 3 + u64::from(model.back)
            }),
            Property::sometimes(NOTHING, |model: &Switchover, world: &World| {
                let mode = world.mode(usize::from(model.back));
                let waited = world.budget.ticks < model.budget.ticks;
                let over = mode.phase == Phase::Steady && world.budget.switches == 0;
                waited && over && mode.office.role_epoch == 1 + u64::from(model.back)
            }),
        ]
    }
}

const GOES: &str = "the role goes";
const RESUMES: &str = "the primary resumes";
const NOTHING: &str = "nothing comes of it";
/// How a switchover may end.
const ENDS: [&str; 3] = [GOES, RESUMES, NOTHING];

/// Explores; nothing forbidden may be found, and everything `seen`.
#[track_caller]
fn explore(name: &str, switchover: Switchover, seen: &[&'static str]) {
    let begun = std::time::Instant::now();
    let checker = switchover.checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, depth {depth}, {:.1} s", begun.elapsed().as_secs_f64());
    for (property, path) in checker.discoveries() {
        let (last, forbidden) = (path.last_state().broken, !ENDS.contains(&property));
        assert!(!forbidden, "{name}: not so: {property}: {last:?}\n{:#?}", path.into_actions());
    }
    for property in seen {
        assert!(checker.discovery(property).is_some(), "{name}: never: {property}");
    }
}

fn more() -> u8 {
    u8::from(std::env::var("LEVEL_MODEL").is_ok_and(|size| size == "large"))
}

/// What goes between the sites ends at any moment, for any stream, one way or both.
#[test]
fn the_role_is_at_one_site_whatever_is_cut() {
    let budget = Budget { turns: 2 + more(), ..PLAIN };
    explore("cut", Switchover { sync: false, budget, back: false }, &ENDS);
}

/// At a SYNC level the old primary is the SYNC standby of the new one.
#[test]
fn the_role_goes_at_a_sync_level() {
    let budget = Budget { turns: 2 + more(), ..PLAIN };
    explore("sync", Switchover { sync: true, budget, back: false }, &[GOES, RESUMES]);
}

/// Who leads next knows what is committed, and nothing of a hand-over that is not.
#[test]
fn what_a_leader_logged_may_come_to_nothing() {
    let budget = Budget { turns: more(), crashes: 1, slips: 1, ..PLAIN };
    explore("slip", Switchover { sync: false, budget, back: false }, &[GOES, RESUMES]);
}

#[test]
fn leaders_go_while_the_sites_are_cut_apart() {
    let budget = Budget { crashes: 1 + more(), ..PLAIN };
    explore("crash", Switchover { sync: false, budget, back: false }, &ENDS);
}

/// The logs have the marks of the first switchover.
#[test]
fn the_role_comes_back() {
    let budget = Budget { crashes: 1 + more(), ..PLAIN };
    explore("back", Switchover { sync: false, budget, back: true }, &ENDS);
}

/// What was said to a shard arrives when it is over.
#[test]
fn an_old_word_gives_nobody_the_role() {
    let budget = Budget { ticks: 1 + more(), turns: 2, late: 1, ..PLAIN };
    explore("late", Switchover { sync: false, budget, back: false }, &[GOES, RESUMES]);
}
