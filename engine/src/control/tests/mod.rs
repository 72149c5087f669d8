//! The level: a world of two streams, their shards, the leaders of the catalogue and a SYNC
//! standby, with everything that may happen to them. One file explores it state by state, one
//! walks through it at random and lets the faults end, one goes single roads. A switchover is gone
//! through beside that; and another world, of two sites, is explored while the role goes from one
//! to the other.

mod failover;
mod handover;
mod model;
mod oversight;
mod sites;
mod steps;
pub(crate) mod switchover;
mod walk;
mod world;
