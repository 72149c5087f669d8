//! `palisade bench`: closed loops that print what the contract says.

mod append;
mod compression;
mod environment;
mod forward;
mod fsync;
mod lane;
mod machine;
mod report;
mod sendfile;
mod wal;

use std::path::Path;

use tempfile::TempDir;

use crate::cli::BenchCommand;
use crate::exit::{Exit, Failure};
use crate::host;
use crate::text;

/// `palisade bench ...`
pub(crate) fn run(command: &BenchCommand) -> Result<Exit, Failure> {
    let (report, json) = match command {
        BenchCommand::Fsync(options) => return fsync::run(options),
        BenchCommand::Append(options) if options.nodes == 1 => {
            (host::bench_append(options)?, options.load.run.json)
        }
        BenchCommand::Append(options) => (append::run(options)?, options.load.run.json),
        BenchCommand::Forward(options) if options.compression => {
            return compression::run(options);
        }
        BenchCommand::Forward(options) => (forward::run(options)?, options.run.json),
        BenchCommand::Wal(options) => (wal::run(&options.load)?, options.load.run.json),
    };
    text::say(format!("{}\n", if json { report.json() } else { report.text() }))?;
    Ok(Exit::Ok)
}

/// A directory for one run, removed when dropped.
pub(crate) fn temporary_dir(parent: &Path) -> Result<TempDir, Failure> {
    let made = tempfile::Builder::new().prefix("palisade-bench-").tempdir_in(parent);
    made.map_err(|error| Failure::io(parent.display(), &error))
}

pub(crate) use machine::own_cpu_us;
pub(crate) use report::Measured;
