//! The replica against a model of everything around it.

mod cases;
mod cluster;
mod failover;
mod floors;
mod heartbeats;
mod lies;
mod node;
mod oracle;
mod walk;
mod window;
