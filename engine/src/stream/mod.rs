//! Streams: what a shard knows of each beyond its replica.

pub mod catalogue;
pub mod derived;
pub mod producers;
