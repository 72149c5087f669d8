//! The virtual ring and the world behind it.
//!
//! One [`Universe`] holds virtual time, every host's disk, the network and one seeded source of
//! randomness. A [`VirtualRing`] is one shard's way into it. Nothing here blocks or reads a real
//! clock: the world's loop asks for the next event, moves the clock there and runs the shards
//! whose rings have something due:
//!
//! ```
//! use palisade_tests::sim::{Universe, VirtualRing};
//! let universe = Universe::new(7);
//! let host = universe.add_host();
//! let process = universe.spawn(host);
//! let ring = VirtualRing::new(&universe, process);
//! let id = ring.id();
//! // let shard = Shard::new(ring, ...);
//! for due in universe.step() {
//!     assert_eq!(due, id); // run the turn of the shard that owns this ring
//! }
//! ```
//!
//! The same seed and the same calls give the same [`Universe::trace_hash`].

mod clock;
mod connection;
mod disk;
mod event;
mod fault;
mod file;
mod file_operation;
mod frames;
mod latency;
mod machine;
mod network;
mod operation;
mod random;
mod ring;
mod socket_operation;
mod state;
mod trace;
mod tree;
mod universe;

pub use fault::{FaultKind, FaultPlan};
pub use latency::{Latencies, Latency};
pub use random::Random;
pub use ring::VirtualRing;
pub use state::{HostId, ProcessId, RingId};
pub use universe::Universe;

/// Unit in which a device writes atomically, in bytes.
pub const SECTOR_BYTES: usize = 512;
/// Most bytes that one direction of a connection holds between sender and receiver.
pub const SOCKET_BYTES_MAX: usize = 256 << 10;
/// Most connections that wait at one listener.
pub const BACKLOG_MAX: usize = 128;
