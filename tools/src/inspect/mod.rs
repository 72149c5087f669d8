//! `palisade inspect`: segment files, read with the log's own parsers.

mod chains;
mod decoder;
mod direct;
mod files;
mod scan;
mod segment;
mod verify;
mod walk;

use crate::cli::InspectCommand;
use crate::exit::{Exit, Failure};

/// `palisade inspect ...`
pub(crate) fn run(command: &InspectCommand) -> Result<Exit, Failure> {
    match command {
        InspectCommand::Segment(files) => segment::run(files),
        InspectCommand::Verify(files) => verify::run(files),
    }
}
