//! Talking to a cluster from outside: the client protocol and a blocking client.
//!
//! This is no part of the core: it may use sockets, threads and clocks.

mod append;
mod connection;
mod endpoints;
mod error;
mod reader;
mod session;
pub mod wire;

pub use append::{AppendOptions, Fate, IN_FLIGHT_MAX, Next, Totals};
pub use connection::{Connection, Frame};
pub use endpoints::{Endpoints, resolve};
pub use error::ClientError;
pub use reader::{Ending, OnRecord, ReadOptions, ReadRecord};
pub use session::{Client, ClientOptions};
