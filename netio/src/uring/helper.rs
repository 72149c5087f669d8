//! A thread that syncs: `fdatasync(2)` beside the ring, for disks where that is faster.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;

use super::calls;
use super::doorbell::Bell;
use crate::limits::SYNCS_MAX;
use crate::op::{Errno, Handle};
use crate::ring::Wake;

/// The number of an operation, and what it came to.
type Answer = (u64, Result<u32, Errno>);

pub(super) struct Helper {
    ask: Option<SyncSender<(u64, Handle)>>,
    answers: Arc<ArrayQueue<Answer>>,
    /// Asked and not taken back.
    open: usize,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// Starts the thread; it rings `bell` after every answer.
    pub(super) fn new(bell: Arc<Bell>) -> std::io::Result<Helper> {
        let (ask, asked) = sync_channel(SYNCS_MAX);
        let answers = Arc::new(ArrayQueue::new(SYNCS_MAX));
        let answer = answers.clone();
        let builder = std::thread::Builder::new().name("palisade-sync".to_owned());
        let thread = builder.spawn(move || sync_each(&asked, &answer, &bell))?;
        Ok(Helper { ask: Some(ask), answers, open: 0, thread: Some(thread) })
    }

    /// Asks for a sync, whose number comes back. False when too many are open.
    pub(super) fn ask(&mut self, number: u64, handle: Handle) -> bool {
        let ask = self.ask.as_ref().expect("it stays until the helper is dropped");
        let taken = self.open < SYNCS_MAX && ask.try_send((number, handle)).is_ok();
        self.open += usize::from(taken);
        taken
    }

    /// The next answer, if there is one.
    pub(super) fn take(&mut self) -> Option<Answer> {
        let answer = self.answers.pop()?;
        self.open -= 1;
        Some(answer)
    }

    /// Whether an answer is on its way.
    pub(super) fn is_asked(&self) -> bool {
        self.open > 0
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.ask = None;
        // With a sync that the device does not end, the thread is left behind.
        if let Some(thread) = self.thread.take().filter(|_| self.open == 0) {
            let _ = thread.join();
        }
    }
}

fn sync_each(asked: &Receiver<(u64, Handle)>, answers: &ArrayQueue<Answer>, bell: &Bell) {
    while let Ok((number, handle)) = asked.recv() {
        let synced = rustix::fs::fdatasync(calls::borrow(handle)).map(|()| 0).map_err(Errno::from);
        // There is room for as many as may be open.
        let _ = answers.push((number, synced));
        bell.wake();
    }
}
