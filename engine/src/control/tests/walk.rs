//! Random walks through the world, with everything that may happen any number of times; then the
//! faults end, or the standby is gone for good, and what was appended must be acked as the mode
//! says.
//!
//! `LEVEL_SEED=7` walks one way again; `LEVEL_SEEDS=100000` walks that many.

use super::world::{Action, Link, ONE_NODE, THREE_NODES, World};
use crate::control::{Phase, Refusal};
use crate::status::Protection::{Availability, Performance, Protection as Protect};
use crate::stream::mark::Mark;

const STEPS: usize = 150;

/// A sequence that follows from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }
}

fn action(world: &World, dice: &mut Dice) -> Action {
    let stream = dice.roll(2) as usize;
    let at = dice.roll(world.leases.len() as u64) as usize;
    let there = |node: &usize| world.levels[*node].is_some();
    let nodes: Vec<usize> = (0..world.levels.len()).filter(there).collect();
    let node = dice.pick(&nodes);
    match dice.roll(100) {
        0..15 => Action::Tick,
        15..45 => Action::Act(stream),
        45..65 => Action::Commit,
        65..73 => Action::Link(stream, dice.pick(&[Link::Up, Link::Up, Link::Deaf, Link::Down])),
        73..82 => Action::Talk(at, dice.pick(&[Some(node), Some(world.leads), None])),
        82..86 if world.talks[at].is_none() => Action::AskLate(at, node),
        82..91 => Action::Late(at),
        91..93 => Action::Elect,
        93..95 => Action::Heir,
        _ => {
            let mode = dice.pick(&[Performance, Availability, Availability, Protect, Protect]);
            Action::Request(mode, dice.roll(4) == 0)
        }
    }
}

fn check(world: &World, seed: u64) {
    assert_eq!(world.broken, None, "seed {seed}: {world:#?}");
    assert!(world.keeps_causes(), "seed {seed}: an effect without its cause: {world:#?}");
    assert!(world.proves_what_is_so(), "seed {seed}: proven and not so: {world:#?}");
}

/// The faults end; the standby may be gone for good.
fn end(world: &mut World, seed: u64, gone: bool) {
    world.link(if gone { Link::Down } else { Link::Up });
    let leads = world.leads;
    world.talks.iter_mut().for_each(|node| *node = Some(leads));
    world.pass(12);
    world.budget.appends = [2, 2];
    world.pass(12);
    check(world, seed);
    let mode = world.mode();
    let stops = gone && mode.mark.cluster().is_some();
    assert_eq!(world.is_acked(), !stops, "seed {seed}: {world:#?}");
    match mode.mode {
        Performance if stops => assert_eq!(mode.phase, Phase::Leaving, "seed {seed}"),
        Performance => assert!(matches!(mode.mark, Mark::Async { .. }), "seed {seed}: {mode:?}"),
        Availability if stops => assert_eq!(mode.phase, Phase::Leaving, "seed {seed}"),
        Availability if gone => assert_eq!(mode.phase, Phase::Steady, "seed {seed}: {mode:?}"),
        asked if !gone => assert_eq!(mode.level, asked, "seed {seed}: {world:#?}"),
        _ => {}
    }
    if !stops {
        return;
    }
    // Nothing else stops: the mode can be left, by force, and acks go on.
    let asked = if mode.mode == Protect { Performance } else { mode.mode };
    let protected = mode.level == Protect;
    if protected && mode.mode == Protect {
        assert_eq!(world.request(asked, false), Err(Refusal::ForceNeeded), "seed {seed}");
    }
    assert_eq!(world.request(asked, true), Ok(true), "seed {seed}: {world:#?}");
    world.pass(8);
    assert!(world.is_acked(), "seed {seed}: {world:#?}");
    assert_eq!(world.mode().forced > mode.forced, protected, "seed {seed}");
    check(world, seed);
}

fn walk(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::new(if dice.roll(3) == 0 { THREE_NODES } else { ONE_NODE });
    world.settle();
    world.budget.appends = [200, 200];
    for _ in 0..STEPS {
        let action = action(&world, &mut dice);
        world.apply(action);
        world.flow();
        check(&world, seed);
    }
    let gone = dice.roll(2) == 0;
    end(&mut world, seed, gone);
}

#[test]
fn whatever_happens_acks_are_what_they_say_and_go_on_when_the_faults_end() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("LEVEL_SEED") {
        return walk(seed);
    }
    (0..number("LEVEL_SEEDS").unwrap_or(20_000)).for_each(walk);
}
