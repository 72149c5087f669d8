//! Tests that need programs which a machine with a Rust toolchain may lack: strace, setpriv,
//! prlimit. `cargo test --workspace` leaves them out; `cargo xtask machine restricted` runs them.

// Shared with the other tests over processes, which use more of them.
#[allow(dead_code)]
#[path = "../processes/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "../processes/history.rs"]
mod history;
mod limits;
#[allow(dead_code)]
#[path = "../processes/producer.rs"]
mod producer;
#[allow(dead_code)]
#[path = "../processes/reading.rs"]
mod reading;
#[allow(dead_code)]
#[path = "../processes/run.rs"]
mod run;
