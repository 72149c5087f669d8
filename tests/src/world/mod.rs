//! Worlds: a primary cluster and its standbys, made of real shards and forwarders on virtual
//! rings, with clients, faults and checks.
//!
//! A world follows from its seed. [`run_seed`] runs one; the `sim` program runs many:
//!
//! ```text
//! cargo run --release -p palisade-tests --bin sim -- --minutes 5
//! cargo run --release -p palisade-tests --bin sim -- --seed 42
//! ```
//!
//! Parts: [`Settings`] draws what the world is like; a [`Fleet`] holds the nodes, each a process
//! of a [`Universe`](crate::sim::Universe) with its shards; a [`Workload`] holds the clients and
//! the [`History`] of what they asked and were told; [`Faults`] says what goes wrong; [`Checks`]
//! knows what must never be.

mod agenda;
mod check;
mod client;
mod faults;
mod fleet;
mod forwarder;
mod history;
mod marker;
mod operator;
mod payload;
mod registrar;
mod report;
mod rot;
mod run;
mod settings;
mod switcher;
mod truncation;
mod workload;
#[expect(clippy::module_inception, reason = "the noun of this module")]
mod world;

pub use check::{Checks, FullCopy, Raised, Seat, Violation};
pub use faults::{Blow, Faults, Step, is_contest};
pub use fleet::{Cluster, Fleet, Node, Turned};
pub use history::{Attempt, History, Stretch, Told, Wanted};
pub use report::{FailedOver, Failure, SeedReport, Shipped};
pub use run::{run_failover, run_late, run_seed};
pub use settings::{MS, SECOND, Settings, Standby, Upstream};
pub use workload::{Wake, Workload};
pub use world::World;
