//! `palisade bench`: closed loops that print what the contract says.

mod append;
mod machine;
mod report;

use crate::cli::BenchCommand;
use crate::exit::{Exit, Failure};
use crate::host;

/// `palisade bench ...`
pub(crate) fn run(command: &BenchCommand) -> Result<Exit, Failure> {
    let (report, json) = match command {
        BenchCommand::Append(options) if options.nodes == 1 => {
            (host::bench_append(options)?, options.json)
        }
        BenchCommand::Append(options) => (append::run(options)?, options.json),
        BenchCommand::Wal(options) => (host::bench_wal(options)?, options.json),
    };
    println!("{}", if json { report.json() } else { report.text() });
    Ok(Exit::Ok)
}

pub(crate) use machine::own_cpu_us;
pub(crate) use report::Measured;
