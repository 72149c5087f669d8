//! How a command ends: a stable exit code and, when it failed, one message with the fix.

use std::fmt;
use std::process::ExitCode;

use palisade::client::ClientError;

/// Exit codes; scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// It was not done.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Corrupt data.
    Corrupt = 65,
    /// No node could be reached.
    Unreachable = 69,
    /// A broken invariant: a defect of the program.
    Invariant = 70,
    /// The data directory is in use.
    InUse = 73,
    /// Input or output failed.
    Io = 74,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened and what to do; may have several lines.
    pub text: String,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, text: impl Into<String>) -> Failure {
        Failure { exit, text: text.into() }
    }

    /// Input or output on `what` failed.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Failure {
        Failure::new(Exit::Io, format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        let (exit, fix) = match &error {
            ClientError::Address { .. } => (Exit::Usage, ""),
            _ if error.is_mismatch() => {
                (Exit::Configuration, "; check --cluster and --at, and the program's version")
            }
            _ if error.is_damage() => {
                (Exit::Corrupt, "; ask another node, and see `palisade inspect verify` there")
            }
            _ if error.is_unreachable() => {
                (Exit::Unreachable, "; check --at and that the node says ready")
            }
            _ => (Exit::Failed, ""),
        };
        Failure::new(exit, format!("{error}{fix}"))
    }
}
