//! Who the clusters are, and what an ack must be worth: the registry and the protection mode.
//!
//! All of it is configured at the primary and stands in the catalogue (stream 1), so that every
//! standby holds it before it may have to become the primary. A [`Request`] says what somebody
//! wants; [`decide`] refuses it by a named rule, or gives the [`Change`] that is appended. A
//! change names the version of the registry that it was decided on: applied to another version it
//! has no effect, on every replica alike, and who asked is told *conflict*.
//!
//! Modes are asked for, levels follow: [`Level`] decides at the leader of the catalogue, each shard
//! obeys by its [`LevelLease`]. So does the role of the primary ([`Office`]) when it is handed
//! over.
//!
//! No I/O, no clock, no thread, no randomness.

mod change;
mod image;
mod lease;
mod level;
pub mod limits;
mod mode;
mod refusal;
mod registry;
mod request;
mod role;
mod rules;
#[cfg(test)]
mod rules_tests;
mod term;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod wire;

pub use change::{Change, What};
pub(crate) use change::{protection_code, read_protection};
pub use lease::{LevelLease, Next, Standing};
pub use level::{Health, Leading, Level, LevelEffect, Place};
pub use mode::{Mode, Phase, Proof, Step};
pub use refusal::Refusal;
pub use registry::{Cluster, Hold, Registry};
pub use request::{Request, Settings};
pub use role::{Act, Office, RoleStep, SEIZED_EPOCHS};
pub use rules::{Own, check_switchover, decide, decide_failover};
pub(crate) use term::RawTerm;
pub use term::{Term, fence};
pub use view::{ClusterView, Controlled, ModeView, RegistryView};
pub use wire::{LevelAsk, LevelTold};
