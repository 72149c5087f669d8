#![forbid(unsafe_code)]
//! Simulator and checkers.
//!
//! [`sim`] is a deterministic world (clock, disks, network, processes) behind the same
//! [`Ring`](palisade_netio::Ring) that production shards use. [`differential`] runs one script on
//! any ring, so that the virtual one is held against the real one. [`formats`] has a sample of
//! everything that goes to a disk or over a wire, for the golden files and the fuzz targets.

pub mod differential;
pub mod formats;
pub mod sim;
pub mod world;
