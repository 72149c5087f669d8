//! Streams: what a shard knows of each beyond its replica.
//!
//! All of it derives from the log alone and is made again by recovery, but for what standbys say of
//! themselves. No I/O, no clock.

pub mod base;
pub mod catalogue;
pub mod derived;
pub mod image;
pub mod mark;
pub mod pin;
pub mod producers;
pub mod scns;
