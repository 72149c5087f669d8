//! The replica against a model of everything around it.

mod cases;
mod cluster;
mod failover;
mod floors;
mod hand_over;
mod heartbeats;
mod lies;
mod node;
mod oracle;
mod repair;
mod walk;
mod window;
