//! The forwarding shard: committed groups for readers and standby clusters.

pub mod doorbell;
pub mod limits;
pub mod queue;
pub mod wire;
