//! Tests that need root, or programs which a machine with a Rust toolchain may lack: strace,
//! setpriv, prlimit, mkfs, ip, nft. `cargo test --workspace` leaves them out; the lanes
//! `restricted`, `disks` and `namespaces` of `cargo xtask machine` run them.

// Shared with the other tests over processes, which use more of them.
#[allow(dead_code)]
#[path = "../processes/cluster.rs"]
mod cluster;
mod disk;
#[allow(dead_code)]
#[path = "../processes/history.rs"]
mod history;
mod limits;
mod namespaces;
#[allow(dead_code)]
#[path = "../processes/producer.rs"]
mod producer;
#[allow(dead_code)]
#[path = "../processes/reading.rs"]
mod reading;
#[allow(dead_code)]
#[path = "../processes/run.rs"]
mod run;
mod sysctl;
