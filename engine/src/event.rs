//! Leadership events of a node, for an embedder that acts on them.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};

use crate::limits::EVENTS_MAX;

/// What happened to a stream on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// This node leads the stream: appends are taken here.
    Leading {
        /// The stream.
        stream: u64,
        /// Round of its ballot; grows with each leader of the stream.
        round: u64,
    },
    /// This node leads the stream no more.
    SteppedDown {
        /// The stream.
        stream: u64,
    },
    /// The stream exists on this node from now on.
    Created {
        /// The stream.
        stream: u64,
    },
}

/// Who listens to the events of a node.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<Vec<SyncSender<Event>>>);

impl Listeners {
    fn lock(&self) -> MutexGuard<'_, Vec<SyncSender<Event>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn add(&self) -> Receiver<Event> {
        let (sender, receiver) = sync_channel(EVENTS_MAX);
        self.lock().push(sender);
        receiver
    }

    /// Tells everyone. Who is gone, or does not take its events, is dropped: its channel ends.
    pub(crate) fn tell(&self, event: Event) {
        self.lock().retain(|listener| listener.try_send(event).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_takes_nothing_is_dropped_after_the_limit() {
        let listeners = Listeners::default();
        let (slow, quick) = (listeners.add(), listeners.add());
        for stream in 0..=EVENTS_MAX as u64 {
            listeners.tell(Event::Created { stream });
            assert_eq!(quick.try_recv(), Ok(Event::Created { stream }));
        }
        assert_eq!(slow.iter().count(), EVENTS_MAX);
        listeners.tell(Event::SteppedDown { stream: 7 });
        assert_eq!(quick.try_recv(), Ok(Event::SteppedDown { stream: 7 }));
    }
}
