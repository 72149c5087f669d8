//! `palisade bench`

use crate::cli::BenchCommand;
use crate::exit::{Exit, Failure};

/// `palisade bench ...`
pub(crate) fn run(command: &BenchCommand) -> Result<Exit, Failure> {
    let _ = command;
    Err(Failure::new(Exit::Failed, "not in this build"))
}
