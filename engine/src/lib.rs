#![forbid(unsafe_code)]
//! A replicated redo-log engine.

pub mod client;
pub mod config;
pub mod forward;
pub mod status;

pub use config::Config;
