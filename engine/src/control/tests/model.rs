//! Every state of the world, from several beginnings, within bounds.
//!
//! `LEVEL_MODEL=large` explores more than a machine of CI has time for.

use stateright::{Checker, Model, Property};

use super::world::{Action, Budget, Link, ONE_NODE, Shape, THREE_NODES, World};
use crate::control::{Phase, Proof};
use crate::status::Protection::{self, Availability, Performance, Protection as Protect, Resync};

#[derive(Clone)]
struct Levels {
    shape: Shape,
    begin: Begin,
    budget: Budget,
    /// Whether steps of the level are committed as soon as they are proposed.
    eager: bool,
    /// Modes that may be asked for.
    asks: &'static [(Protection, bool)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// The mode was asked for, nothing more.
    Asked(Protection),
    /// The level is that of the mode.
    Risen(Protection),
    /// It fell from MAXIMUM AVAILABILITY, because the standby did not answer. The second stream
    /// has acked a record alone, and the catalogue was idle.
    Fallen,
}

/// One node, where everything may happen once.
const PLAIN: Levels = Levels {
    shape: ONE_NODE,
    begin: Begin::Risen(Availability),
    budget: Budget {
        ticks: 4,
        turns: 2,
        appends: [1, 1],
        elections: 0,
        heirs: 0,
        requests: 0,
        forces: 0,
        late: 0,
    },
    eager: true,
    asks: &[],
};

impl Levels {
    fn begin(&self) -> World {
        let mut world = World::new(self.shape);
        world.settle();
        let mode = match self.begin {
            Begin::Asked(mode) | Begin::Risen(mode) => mode,
            Begin::Fallen => Availability,
        };
        let first = if mode == Performance { Performance } else { Availability };
        world.apply(Action::Request(first, false));
        world.settle();
        if matches!(self.begin, Begin::Asked(_)) {
            return world;
        }
        for _ in 0..4 {
            world.apply(Action::Tick);
            world.settle();
        }
        assert_eq!(world.mode().level, Availability, "{world:?}");
        world.apply(Action::Request(mode, false));
        world.settle();
        assert_eq!((world.mode().level, world.mode().phase), (mode, Phase::Steady));
        if self.begin == Begin::Fallen {
            world.budget.appends = [0, 1];
            (world.logs[0].link, world.logs[1].link) = (Link::Down, Link::Down);
            for _ in 0..2 {
                world.settle();
                world.apply(Action::Tick);
            }
            world.settle();
            assert_eq!((world.mode().level, world.mode().phase), (Resync, Phase::Steady));
            assert_eq!(world.logs[1].gate.released().0, world.logs[1].end(), "acked alone");
        }
        world
    }
}

impl Model for Levels {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = self.begin();
        (world.budget, world.eager) = (self.budget, self.eager);
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let budget = world.budget;
        actions.extend((budget.ticks > 0).then_some(Action::Tick));
        for stream in 0..2 {
            actions.push(Action::Act(stream));
            let links = [Link::Up, Link::Deaf, Link::Down].into_iter();
            let links = links.filter(|_| budget.turns > 0);
            let other = links.filter(|link| *link != world.logs[stream].link);
            actions.extend(other.map(|link| Action::Link(stream, link)));
        }
        let there = |node: &usize| world.levels[*node].is_some();
        let nodes: Vec<usize> = (0..world.levels.len()).filter(there).collect();
        for at in 0..world.leases.len() {
            let to = nodes.iter().map(|node| Some(*node)).chain([None]);
            let other = to.filter(|to| *to != world.talks[at] && budget.turns > 0);
            actions.extend(other.map(|to| Action::Talk(at, to)));
            let mute = world.talks[at].is_none() && world.late[at].is_none() && budget.late > 0;
            let due = mute && world.leases[at].is_due(world.is_marked(at), world.now);
            let late = nodes.iter().filter(|_| due).map(|node| Action::AskLate(at, *node));
            actions.extend(late);
            actions.extend(world.late[at].map(|_| Action::Late(at)));
        }
        actions.extend(world.proposed.map(|_| Action::Commit));
        actions.extend((budget.elections > 0).then_some(Action::Elect));
        actions.extend((budget.heirs > 0).then_some(Action::Heir));
        let asks = self.asks.iter().filter(|(_, force)| !force || budget.forces > 0);
        let asks = asks.filter(|_| budget.requests > 0);
        actions.extend(asks.map(|(mode, force)| Action::Request(*mode, *force)));
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let left = &mut world.budget;
        match action {
            Action::Tick => left.ticks -= 1,
            Action::Link(..) | Action::Talk(..) => left.turns -= 1,
            Action::Elect => left.elections -= 1,
            Action::Heir => left.heirs -= 1,
            Action::AskLate(..) => left.late -= 1,
            Action::Request(_, force) => {
                left.requests -= 1;
                left.forces -= u8::from(force);
            }
            _ => {}
        }
        let changed = world.apply(action);
        world.flow();
        changed.then_some(world)
    }

    fn properties(&self) -> Vec<Property<Levels>> {
        vec![
            Property::always("nothing is broken", |_, world: &World| world.broken.is_none()),
            Property::always("what is kept has its causes", |_, world: &World| {
                world.keeps_causes()
            }),
            Property::always("what is proven is so", |_, world: &World| world.proves_what_is_so()),
            Property::sometimes("it acks again alone", |_, world: &World| {
                let log = &world.logs[1];
                let alone = log.last().is_some_and(|mark| mark.cluster().is_none());
                alone && log.gate.released().0 == log.end() && log.held < log.end()
            }),
            Property::sometimes("it is proven", |_, world: &World| {
                world.proof() == Some(Proof::ProvenUnlessForced)
            }),
            Property::sometimes("the level rises", |_, world: &World| {
                world.mode().level == world.mode().mode && world.mode().mode != Performance
            }),
        ]
    }
}

/// Explores; nothing forbidden may be found, and everything `seen`.
#[track_caller]
fn explore(name: &str, levels: Levels, seen: &[&'static str]) {
    let begun = std::time::Instant::now();
    let checker = levels.checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, depth {depth}, {:.1} s", begun.elapsed().as_secs_f64());
    for (property, path) in checker.discoveries() {
        let forbidden = !property.starts_with("it ") && property != "the level rises";
        assert!(!forbidden, "{name}: not so: {property}\n{:#?}", path.into_actions());
    }
    for property in seen {
        assert!(checker.discovery(property).is_some(), "{name}: never: {property}");
    }
}

fn more() -> u8 {
    u8::from(std::env::var("LEVEL_MODEL").is_ok_and(|size| size == "large"))
}

#[test]
fn a_level_falls_whenever_the_standby_is_failed_over() {
    let budget = Budget { turns: 2 + more(), appends: [1, 2], ..PLAIN.budget };
    explore("fall", Levels { budget, ..PLAIN }, &["it acks again alone"]);
}

#[test]
fn a_rise_is_done_or_given_up() {
    let budget = Budget { turns: 2 + more(), ..PLAIN.budget };
    let begin = Begin::Asked(Availability);
    explore("rise", Levels { begin, budget, ..PLAIN }, &["the level rises", "it acks again alone"]);
}

#[test]
fn a_second_rise_begins_with_what_the_first_left() {
    let budget = Budget { turns: 3 + more(), ..PLAIN.budget };
    explore("again", Levels { begin: Begin::Fallen, budget, ..PLAIN }, &["the level rises"]);
}

const ANY: [(Protection, bool); 4] =
    [(Performance, false), (Availability, false), (Protect, false), (Performance, true)];

#[test]
fn protection_is_left_when_the_standby_knows_or_by_force() {
    let ticks = 2 + more();
    let budget = Budget { ticks, requests: 2, forces: 1, appends: [0, 1], ..PLAIN.budget };
    let begin = Begin::Risen(Protect);
    let levels = Levels { begin, budget, asks: &ANY, ..PLAIN };
    explore("protect", levels, &["it is proven", "it acks again alone"]);
}

#[test]
fn a_leader_of_the_catalogue_goes_on_from_its_entries() {
    let budget = Budget { turns: 2 + more(), elections: 1, late: 1, ..PLAIN.budget };
    explore("elect", Levels { budget, eager: false, ..PLAIN }, &["it acks again alone"]);
}

#[test]
fn a_leader_of_a_stream_learns_the_level() {
    let budget = Budget { turns: 2 + more(), heirs: 1, late: 1, ..PLAIN.budget };
    explore("heir", Levels { budget, ..PLAIN }, &["it acks again alone"]);
}

#[test]
fn a_leader_that_is_one_no_more_gives_no_leases() {
    let budget = Budget { turns: 2 + more(), elections: 1, ..PLAIN.budget };
    let levels = Levels { shape: THREE_NODES, budget, ..PLAIN };
    explore("deposed", levels, &["it acks again alone"]);
}
