//! The log on a disk in memory.

mod disk;
mod node;
mod random;
mod recovery;
mod writing;
