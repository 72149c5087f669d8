//! The replica against a model of everything around it.

mod bases;
mod brief;
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
mod scripts;
mod walk;
mod window;
