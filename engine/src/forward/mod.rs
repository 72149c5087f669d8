//! The forwarding shard: committed groups for readers and standby clusters.
//!
//! [`Readers`] decides who gets which bytes next; [`Exchange`] puts the queues from and to the log
//! shards ([`port()`]), the maps of sealed segments and the bytes of connections ([`flow`]) around
//! it. Both do no I/O. The [`Forwarder`]'s thread does: recent bytes are sent from the slots that
//! hold them, older ones from the maps. Where bytes stand is asked
//! of the shard that owns the stream, so that nothing uncommitted or voided is sent; the active
//! segment is never mapped.

pub mod compress;
#[cfg(test)]
mod compression_tests;
mod connection;
#[cfg(test)]
mod crowd_tests;
mod cursor;
pub mod cut;
pub mod doorbell;
pub mod driver;
#[cfg(test)]
mod driver_tests;
mod effect;
pub mod exchange;
pub mod flow;
pub mod limits;
pub mod maps;
mod memory;
#[cfg(test)]
mod pressure_tests;
pub mod queue;
pub mod sender;
#[cfg(test)]
mod sender_tests;
pub mod tail;
#[cfg(test)]
pub(crate) mod testlog;
mod turns;
mod watchers;
pub mod windows;
pub mod wire;

pub use driver::{ForwardError, Forwarder, ForwarderHandle};
pub use exchange::{Exchange, ForwarderConfig};
pub use limits::{EXTENTS_MAX, Limits};
pub use queue::{
    Depth, Feed, ForwardEvent, ForwardPort, ForwarderSide, Lease, LocateRequest, Located, Recent,
    Reply, SealedExtent, Socket, port,
};
pub use sender::{Effect, ReaderId, Readers, Source, Stats};
