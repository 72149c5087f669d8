//! The `palisade` program: every command is a module, [`run`] is the whole of `main`.
#![forbid(unsafe_code)]

mod append;
mod bench;
mod cli;
mod config_file;
mod control_cli;
pub mod demo;
mod exit;
mod failover;
mod host;
mod inspect;
mod leader;
mod mode;
mod node;
mod read;
mod signals;
mod standby;
mod status;
mod stream;
mod switchover;
mod text;
mod tree;

pub use cli::run;
pub use config_file::parse as parse_config;
pub use exit::{Exit, Failure};
