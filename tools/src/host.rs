//! The only place that names the engine's node: everything else goes through these few calls.

use palisade::{Buffers, Config, Error, ErrorKind, Node};

use crate::exit::{Exit, Failure};
use crate::text;

/// A node that runs in this process.
pub(crate) struct Host {
    node: Node,
}

/// Makes the data directory of a node.
pub(crate) fn format(config: &Config) -> Result<(), Failure> {
    palisade::format(config).map_err(|error| failure(&error))
}

impl Host {
    /// Recovers and listens.
    pub(crate) fn open(config: Config) -> Result<Host, Failure> {
        let node = Node::open(config).map_err(|error| failure(&error))?;
        Ok(Host { node })
    }

    /// What a person should know about a node that runs all the same.
    pub(crate) fn notice(&self) -> Option<String> {
        let Buffers { registered_bytes, wanted_bytes } = self.node.buffers();
        (registered_bytes < wanted_bytes).then(|| {
            format!(
                "{} of {} of buffers are registered with the kernel, the node goes on with the \
                 rest unregistered; raise memlock (`ulimit -l unlimited`, LimitMEMLOCK=infinity)",
                text::size(registered_bytes),
                text::size(wanted_bytes)
            )
        })
    }

    /// Whether it stopped by itself, and why.
    pub(crate) fn failed(&self) -> Option<Failure> {
        self.node.failed().map(|error| failure(&error))
    }

    /// Stops gracefully.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        self.node.stop().map_err(|error| failure(&error))
    }
}

/// The exit code of an error.
pub(crate) fn failure(error: &Error) -> Failure {
    let exit = match error.kind() {
        ErrorKind::Config => Exit::Configuration,
        ErrorKind::InUse => Exit::InUse,
        ErrorKind::Corrupt => Exit::Corrupt,
        ErrorKind::Io | ErrorKind::Poisoned => Exit::Io,
        ErrorKind::Broken => Exit::Invariant,
        ErrorKind::Unreachable => Exit::Unreachable,
        _ => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}
