//! A replicated redo-log engine.
#![forbid(unsafe_code)]

mod append;
pub mod client;
pub mod config;
mod error;
pub mod forward;
mod handle;
mod limits;
mod node;
pub mod paxos;
pub mod shard;
pub mod status;
pub mod stream;
pub mod transfer;

pub use append::{AppendFuture, Appended, Outcome};
pub use config::Config;
pub use error::{Error, ErrorKind};
pub use handle::{NewRecord, Reader, Record, Stream};
pub use node::{Buffers, Node, ShardDriver, format};
pub use status::Protection;
