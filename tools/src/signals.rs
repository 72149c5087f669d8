//! SIGINT and SIGTERM as a flag. A second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::{Exit, Failure};

/// Set once the user asked for the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches both signals from now on.
    pub(crate) fn catch() -> Result<Interrupt, Failure> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set.
            let flag = || Arc::clone(&interrupt.0);
            signal_hook::flag::register_conditional_shutdown(signal, Exit::Failed as i32, flag())
                .and_then(|_| signal_hook::flag::register(signal, flag()))
                .map_err(|error| Failure::io("signal handler", &error))?;
        }
        Ok(interrupt)
    }

    /// Whether the user asked for the end.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once the user asked for the end.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.is_set() {
            true => Err(Failure::new(Exit::Failed, "interrupted")),
            false => Ok(()),
        }
    }
}
