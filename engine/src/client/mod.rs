//! Talking to a cluster from outside: the client protocol and a blocking client.
//!
//! This is no part of the core: it may use sockets, threads and clocks.

pub mod wire;
