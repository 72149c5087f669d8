#![forbid(unsafe_code)]
//! A replicated redo-log engine.

pub mod forward;
pub mod transfer;
