//! A replicated redo-log engine.
#![forbid(unsafe_code)]

mod append;
pub mod client;
pub mod config;
mod error;
pub mod forward;
mod handle;
mod limits;
pub mod paxos;
pub mod shard;
pub mod status;
pub mod stream;

pub use append::{AppendFuture, Appended, Outcome};
pub use config::Config;
pub use error::{Error, ErrorKind};
pub use status::Protection;
pub use handle::{NewRecord, Reader, Record, Stream};
