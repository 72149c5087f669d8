//! The forwarding shard: committed groups for readers and standby clusters.

mod connection;
mod cursor;
pub mod cut;
pub mod doorbell;
pub mod driver;
#[cfg(test)]
mod driver_tests;
pub mod limits;
mod maps;
pub mod queue;
pub mod sender;
#[cfg(test)]
mod sender_tests;
pub mod tail;
#[cfg(test)]
pub(crate) mod testlog;
pub mod wire;

pub use limits::EXTENTS_MAX;
pub use driver::{ForwardError, Forwarder, ForwarderConfig, ForwarderHandle};
pub use queue::{
    ForwardEvent, ForwardPort, ForwarderSide, Lease, LocateRequest, Located, Recent, Reply,
    SealedExtent, Socket, port,
};
pub use sender::{Effect, Limits, ReaderId, Readers, Source, Stats};
