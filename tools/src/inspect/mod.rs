//! `palisade inspect`: segment files, read with the log's own reader.

mod segment;

use crate::cli::InspectCommand;
use crate::exit::{Exit, Failure};

/// `palisade inspect ...`
pub(crate) fn run(command: &InspectCommand) -> Result<Exit, Failure> {
    let _ = (command, segment::NOT_YET);
    Err(Failure::new(Exit::Failed, "not in this build"))
}
