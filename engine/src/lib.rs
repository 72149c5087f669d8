//! A replicated redo-log engine.
//!
//! A [`Node`] holds replicas of log streams. An append to a [`Stream`] is acknowledged when it is
//! durable on a majority of the stream's members; its place, an LSN, is the same on every node and
//! on every standby cluster.
//!
//! - [`format()`] makes a data directory, [`Node::open`] recovers it and serves.
//! - [`Stream::append`] never blocks; its [`AppendFuture`] says acknowledged, *failed* or
//!   *unknown*.
//! - [`Stream::reader`] reads what is committed, [`Stream::subscribe`] also what will be.
//! - [`client`] talks to a cluster from outside; [`status`] is what a node shows of itself.
//!
//! - [`control`] holds the rules of the registry of clusters and of the protection modes, which
//!   [`Node::control`] changes at the primary.
//!
//! The other modules are the parts of a node, public for the simulator and the tools: [`shard`]
//! drives [`paxos`], [`stream`] and [`transfer`], which decide and do no I/O; [`forward`] serves
//! readers and standbys. `ARCHITECTURE.md` has the map, `engine/PROTOCOL.md` the messages.
//!
//! # Example
//!
//! ```
//! use palisade::{Config, Node};
//!
//! let dir = tempfile::tempdir_in("/var/tmp")?;
//! let config = Config::embedded(dir.path().join("n1"));
//! palisade::format(&config)?;
//! let node = Node::open(config)?;
//! let stream = node.stream(node.create_stream()?);
//!
//! let debit = stream.append("debit 5").wait()?;
//! let credit = stream.append_after("credit 5", debit.scn).wait()?;
//! assert!(credit.lsn >= debit.end_lsn && credit.scn >= debit.scn);
//!
//! let records = stream.reader(debit.lsn).collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(records.len(), 2);
//! assert_eq!(records[1].payload, "credit 5");
//! node.stop()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod append;
pub mod client;
pub mod config;
pub mod control;
mod directory;
mod driver;
mod error;
mod event;
pub mod forward;
mod handle;
pub mod kinds;
mod limits;
mod node;
pub mod paxos;
mod plan;
#[cfg(test)]
mod protocol;
pub mod shard;
pub mod status;
pub mod stream;
pub mod transfer;
mod verdict;

use palisade_netio::seeded;

pub use append::{AppendFuture, Appended, Outcome};
pub use config::Config;
pub use driver::ShardDriver;
pub use error::{Error, ErrorKind};
pub use event::Event;
pub use handle::{NewRecord, Reader, Record, Stream};
pub use limits::STREAMS_MAX;
pub use node::{Buffers, Node, format};
pub use status::Protection;
