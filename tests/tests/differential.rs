//! The virtual ring against itself: the same script sees the same on any seed of the world, as
//! long as no fault strikes.

use std::path::Path;

use palisade_netio::Quotas;
use palisade_tests::differential::differential;
use palisade_tests::sim::{Universe, VirtualRing};

fn run(world_seed: u64, script_seed: u64) -> Vec<String> {
    let universe = Universe::new(world_seed);
    let host = universe.add_host();
    universe.make_dir(host, "/data");
    let ring = VirtualRing::new(&universe, universe.spawn(host));
    let each = 4 << 20;
    let quotas = Quotas { write: each, receive: each, tail: each, read: each };
    let mut pool = VirtualRing::pool(quotas);
    let mut idle = || drop(universe.step());
    differential(ring, &mut pool, Path::new("/data"), script_seed, 400, &mut idle)
}

#[test]
fn timing_changes_nothing_that_a_script_sees() {
    for script in 0..20 {
        let seen = run(1, script);
        assert!(seen.len() > 200);
        assert_eq!(seen, run(2, script));
    }
}
