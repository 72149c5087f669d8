//! Running one seed, with its panics caught.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::check::Violation;
use super::report::{Failure, SeedReport};
use super::world::World;

thread_local! {
    static RUNS_SEED: Cell<bool> = const { Cell::new(false) };
    /// The last panic of this thread while a seed ran here: words and place.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one seed. A panic of the code under test is a broken invariant like any other.
///
/// # Errors
/// A broken invariant.
///
/// # Panics
/// When not even the directories of the world can be formatted.
pub fn run_seed(seed: u64) -> Result<SeedReport, Box<Failure>> {
    keep_panics();
    RUNS_SEED.set(true);
    let mut world = match World::new(seed) {
        Ok(world) => world,
        Err(violation) => panic!("the world of seed {seed} cannot begin: {violation}"),
    };
    let lived = catch_unwind(AssertUnwindSafe(|| world.live()));
    outcome(world, lived)
}

/// Runs the world of a seed with a standby that comes late, or one that was away for too long and
/// returns. None in it where there is no such standby.
///
/// # Errors
/// What went wrong, with everything that helps to see why.
///
/// # Panics
/// As [`run_seed`].
pub fn run_late(seed: u64, returns: bool) -> Result<Option<SeedReport>, Box<Failure>> {
    keep_panics();
    RUNS_SEED.set(true);
    let mut world = match World::new(seed) {
        Ok(world) if world.has_latecomer() => world,
        Ok(_) => {
            RUNS_SEED.set(false);
            return Ok(None);
        }
        Err(violation) => panic!("the world of seed {seed} cannot begin: {violation}"),
    };
    let mut was_late = false;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        was_late = world.live_late(returns)?;
        Ok(())
    }));
    Ok(Some(outcome(world, lived)?).filter(|_| was_late))
}

/// Runs the world of a seed whose primary dies, and a standby takes its role.
///
/// # Errors
/// As [`run_late`].
///
/// # Panics
/// As [`run_seed`].
pub fn run_failover(seed: u64) -> Result<SeedReport, Box<Failure>> {
    keep_panics();
    RUNS_SEED.set(true);
    let mut world = match World::with_failover(seed) {
        Ok(world) => world,
        Err(violation) => panic!("the world of seed {seed} cannot begin: {violation}"),
    };
    let lived = catch_unwind(AssertUnwindSafe(|| world.live_failover()));
    outcome(world, lived)
}

fn outcome(
    world: World,
    lived: std::thread::Result<Result<(), Violation>>,
) -> Result<SeedReport, Box<Failure>> {
    RUNS_SEED.set(false);
    match lived {
        Ok(Ok(())) => Ok(world.report()),
        Ok(Err(violation)) => Err(Box::new(world.failure(violation))),
        Err(_) => {
            let violation = Violation::new("panic", PANIC.take());
            let failure = world.failure(violation);
            // What panicked is in no state to be taken apart.
            std::mem::forget(world);
            Err(Box::new(failure))
        }
    }
}

/// Keeps the panics of threads that run seeds to themselves, for the report.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !RUNS_SEED.get() {
                return usual(info);
            }
            let trace = std::backtrace::Backtrace::force_capture().to_string();
            let own = |line: &&str| line.contains("palisade") || line.contains("./");
            let frames: Vec<&str> = trace.lines().filter(own).take(24).collect();
            PANIC.replace(format!("{info}\n{}", frames.join("\n")));
        }));
    });
}
