//! Clusters over regions: one network namespace each, and borders of limited bandwidth. The lane
//! `namespaces` of `cargo xtask machine` runs this in network and mount namespaces of its own.

mod chain;
mod figures;
mod load;
mod region;
mod stall;
mod switch;
mod topology;
