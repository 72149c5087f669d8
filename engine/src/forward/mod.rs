//! The forwarding shard: committed groups for readers and standby clusters.

mod cursor;
pub mod cut;
pub mod doorbell;
pub mod limits;
pub mod queue;
pub mod sender;
#[cfg(test)]
mod sender_tests;
pub mod tail;
#[cfg(test)]
pub(crate) mod testlog;
pub mod wire;

pub use limits::EXTENTS_MAX;
pub use queue::{
    ForwardEvent, ForwardPort, ForwarderSide, Lease, LocateRequest, Located, Recent, Reply,
    SealedExtent, Socket, port,
};
