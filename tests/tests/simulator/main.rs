//! Every rule of the simulator's world, seen through the ring as a shard sees it.

mod clocks;
mod disks;
mod networks;
mod rig;
mod worlds;
