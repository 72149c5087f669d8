//! The log on a disk in memory.

mod body;
mod disk;
mod identity;
mod node;
mod random;
mod recovery;
mod recycling;
mod writing;
