//! Real nodes: processes with direct I/O, loopback sockets, SIGKILL.
//!
//! `PALISADE_HISTORY_SECONDS` makes the long story longer; `PALISADE_SEED` repeats its choices.

mod agreement;
mod by_hand;
mod cascade;
mod cluster;
mod contract;
mod failover;
mod fence;
mod history;
mod kills;
mod leader;
mod mode;
mod producer;
mod reading;
mod recycled;
mod refusals;
mod registry;
mod run;
mod seen;
mod shards;
mod switchover;
mod truncation;
mod watch;
