//! The only place that names the engine's node: everything else goes through these few calls.

use palisade::Config;

use crate::bench::Measured;
use crate::cli::BenchOptions;
use crate::exit::{Exit, Failure};

/// A node that runs in this process.
#[derive(Debug)]
pub(crate) struct Host {}

/// Makes the data directory of a node.
pub(crate) fn format(_config: &Config) -> Result<(), Failure> {
    Err(missing())
}

impl Host {
    /// Recovers and listens.
    pub(crate) fn open(_config: Config) -> Result<Host, Failure> {
        Err(missing())
    }

    /// Whether it stopped by itself, and why.
    pub(crate) fn failed(&self) -> Option<Failure> {
        None
    }

    /// Stops gracefully.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        Ok(())
    }
}

/// `bench append --nodes 1`: appends through a node of this process.
pub(crate) fn bench_append(_options: &BenchOptions) -> Result<Measured, Failure> {
    Err(missing())
}

/// `bench wal`: durable blocks of one log.
pub(crate) fn bench_wal(_options: &BenchOptions) -> Result<Measured, Failure> {
    Err(missing())
}

fn missing() -> Failure {
    Failure::new(Exit::Failed, "this build has no node; build it with the engine's node")
}
