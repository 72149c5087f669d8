//! Fuzz targets, one a file. Each begins with valid bytes that the code made, changes them, and
//! asks for more than that nothing panics.
//!
//! `cargo test` runs each for a moment. `cargo xtask fuzz` runs them for longer, and says how many
//! inputs each had. A failure shows the smallest input that was found, and the seed to run it
//! again with: `PALISADE_FUZZ_SEED=... cargo test -p palisade-tests --test fuzz TARGET`.

mod change;
mod chunk;
mod configuration;
#[path = "../../../wal/tests/log/disk.rs"]
#[allow(dead_code)]
mod disk;
mod formats;
#[path = "../../../wal/tests/log/node.rs"]
#[allow(dead_code)]
mod node;
mod recovery;
mod run;
