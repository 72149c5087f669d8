//! How a target is run: batches of inputs from numbered seeds, until its time is over.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

/// Inputs from one seed.
const BATCH: u32 = 256;
/// Inputs that are tried to make a failing one smaller.
const SHRINK_MAX: u32 = 4096;
/// How long a target runs where nobody says: a look, in every run of the tests.
const MOMENT: Duration = Duration::from_millis(500);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Gives inputs to `test` until the time is over, or once with a seed that was named.
///
/// # Panics
/// With the smallest input that fails.
pub fn fuzz<S>(target: &str, strategy: S, test: impl Fn(S::Value))
where
    S: Strategy,
    S::Value: Debug,
{
    let only = number("PALISADE_FUZZ_SEED");
    let time = number("PALISADE_FUZZ_MS").map_or(MOMENT, Duration::from_millis);
    // Other inputs each night, the same ones in every run of the tests.
    let first = only.or_else(|| number("PALISADE_FUZZ_FROM")).unwrap_or(1);
    let started = Instant::now();
    let mut inputs = 0;
    for seed in first.. {
        let config = Config {
            cases: BATCH,
            max_shrink_iters: SHRINK_MAX,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(seed),
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&strategy, |input| {
            test(input);
            Ok::<(), TestCaseError>(())
        });
        if let Err(error) = result {
            fail(target, seed, &error);
        }
        inputs += u64::from(BATCH);
        if only.is_some() || started.elapsed() >= time {
            break;
        }
    }
    println!("{target}: {inputs} inputs in {:.1} s", started.elapsed().as_secs_f64());
}

fn fail<T: Debug>(target: &str, seed: u64, error: &TestError<T>) -> ! {
    println!(
        "to replay: PALISADE_FUZZ_SEED={seed} cargo test -p palisade-tests --test fuzz {target}"
    );
    match error {
        TestError::Fail(why, input) => panic!("{why}\nthe smallest input: {input:?}"),
        TestError::Abort(why) => panic!("{why}"),
    }
}
