//! The forwarding shard: committed groups for readers and standby clusters.
//!
//! [`Readers`] decides who gets which bytes next, without I/O. The [`Forwarder`]'s thread does it:
//! it takes events from log shards by bounded queues ([`port()`]), sends recent bytes from the
//! slots that hold them, and older ones from maps of sealed segments. Where bytes stand is asked
//! of the shard that owns the stream, so that nothing uncommitted or voided is sent; the active
//! segment is never mapped.

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

pub use driver::{ForwardError, Forwarder, ForwarderConfig, ForwarderHandle};
pub use limits::EXTENTS_MAX;
pub use queue::{
    ForwardEvent, ForwardPort, ForwarderSide, Lease, LocateRequest, Located, Recent, Reply,
    SealedExtent, Socket, port,
};
pub use sender::{Effect, Limits, ReaderId, Readers, Source, Stats};
