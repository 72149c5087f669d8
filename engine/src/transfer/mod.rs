//! The receiving side of log transfer.
//!
//! A standby's shard has one [`Receiver`] for the streams that it leads. It fetches from the end
//! of the log here, grants credit, and hands out what continues that log by every checksum and by
//! the chain; the shard imports it through its own replicas. The sending side is
//! [`forward`](crate::forward).

pub mod arbiter;
pub mod candidates;
pub mod check;
pub mod facts;
pub mod limits;
pub mod rank;
pub mod receiver;
#[cfg(test)]
mod receiver_tests;
pub mod ship;
pub mod sync;
pub mod upstream;
#[cfg(test)]
mod upstream_tests;

pub use arbiter::Arbiter;
pub use check::{BadChunk, Continuation, continues};
pub use facts::{Facts, Question};
pub use rank::Me;
pub use receiver::{Output, Receiver, ReceiverLimits, Report, State};
pub use upstream::{Advice, Chooser, Ending};
