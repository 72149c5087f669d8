//! The receiving side of log transfer.

pub mod check;
pub mod limits;
pub mod receiver;
#[cfg(test)]
mod receiver_tests;

pub use check::{BadChunk, Continuation, continues};
pub use receiver::{Output, Receiver, ReceiverLimits, Report, State};
