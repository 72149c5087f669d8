//! Frames on their way out of one link.
//!
//! A frame stays at the front of the queue until its last byte is taken by the kernel, so a short
//! send is continued from the exact byte, joined by what was queued meanwhile.

use std::collections::VecDeque;

use super::event::{Full, Outgoing};
use crate::limits::{BACKLOG_BYTES_MAX, BACKLOG_FRAMES_MAX, COALESCE_BYTES_MAX, SEND_RUNS_MAX};
use crate::op::Run;
use crate::pool::Pool;

pub(super) struct Outbox {
    frames: VecDeque<Outgoing>,
    /// Bytes of the first frame that the kernel has taken.
    sent: usize,
    /// Frames that the last send was made of, in part or as a whole.
    offered: usize,
    backlog_bytes: usize,
    /// Bytes of the slots that the frames hold, which a small body takes a whole page of.
    slot_bytes: usize,
    pub(super) bytes_max: usize,
}

impl Outbox {
    pub(super) fn new() -> Outbox {
        Outbox {
            frames: VecDeque::new(),
            sent: 0,
            offered: 0,
            backlog_bytes: 0,
            slot_bytes: 0,
            bytes_max: BACKLOG_BYTES_MAX,
        }
    }

    pub(super) fn push(&mut self, pool: &mut Pool, frame: Outgoing) -> Result<(), Full> {
        let len = frame.len();
        // A single frame always fits an empty queue, whatever the bound.
        let fits = self.backlog_bytes + len <= self.bytes_max || self.frames.is_empty();
        if !fits || self.frames.len() >= BACKLOG_FRAMES_MAX {
            return Err(Full);
        }
        if len > 0 {
            frame.runs.iter().for_each(|run| pool.retain(run.slot));
            self.backlog_bytes += len;
            self.slot_bytes += slot_bytes_of(pool, &frame.runs);
            self.frames.push_back(frame);
        }
        Ok(())
    }

    /// Bytes that the kernel has not taken.
    pub(super) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Bytes of the slots that wait with them.
    pub(super) fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The next send: heads and inline bodies joined up to the first frame with runs.
    pub(super) fn next_send(&mut self) -> (Vec<u8>, Vec<Run>) {
        let (mut prefix, mut runs) = (Vec::with_capacity(self.prefix_len()), Vec::new());
        let mut skip = self.sent;
        self.offered = 0;
        for frame in &self.frames {
            if !prefix.is_empty() && prefix.len() + frame.head.len() > COALESCE_BYTES_MAX {
                break;
            }
            self.offered += 1;
            prefix.extend_from_slice(&frame.head[skip.min(frame.head.len())..]);
            skip = skip.saturating_sub(frame.head.len());
            for run in &frame.runs {
                let cut = skip.min(run.len as usize) as u32;
                skip -= cut as usize;
                if cut < run.len && runs.len() < SEND_RUNS_MAX {
                    runs.push(Run { slot: run.slot, at: run.at + cut, len: run.len - cut });
                }
            }
            if !runs.is_empty() {
                break;
            }
        }
        (prefix, runs)
    }

    /// The kernel took `bytes` more.
    pub(super) fn taken(&mut self, pool: &mut Pool, bytes: usize) {
        assert!(bytes <= self.backlog_bytes, "more was sent than queued");
        self.backlog_bytes -= bytes;
        self.sent += bytes;
        while let Some(frame) = self.frames.front() {
            let len = frame.len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            self.slot_bytes -= slot_bytes_of(pool, &frame.runs);
            frame.runs.iter().for_each(|run| pool.release(run.slot));
            self.frames.pop_front();
        }
    }

    /// Drops the frames of which no byte is sent or on its way: `flying` says whether the last
    /// [`next_send`](Outbox::next_send) is in flight.
    pub(super) fn drop_waiting(&mut self, pool: &mut Pool, flying: bool) {
        let begun = if flying { self.offered } else { usize::from(self.sent > 0) };
        for frame in self.frames.drain(begun.min(self.frames.len())..) {
            self.backlog_bytes -= frame.len();
            self.slot_bytes -= slot_bytes_of(pool, &frame.runs);
            frame.runs.iter().for_each(|run| pool.release(run.slot));
        }
    }

    pub(super) fn clear(&mut self, pool: &mut Pool) {
        for frame in self.frames.drain(..) {
            frame.runs.iter().for_each(|run| pool.release(run.slot));
        }
        (self.sent, self.offered) = (0, 0);
        (self.backlog_bytes, self.slot_bytes) = (0, 0);
    }

    fn prefix_len(&self) -> usize {
        let mut len = 0;
        for frame in &self.frames {
            len += frame.head.len();
            if len >= COALESCE_BYTES_MAX || !frame.runs.is_empty() {
                break;
            }
        }
        len
    }
}

/// Bytes of the slots behind some runs.
pub(super) fn slot_bytes_of(pool: &Pool, runs: &[Run]) -> usize {
    runs.iter().map(|run| pool.capacity(run.slot)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Purpose, Quotas};

    #[test]
    fn every_cut_of_a_send_continues_at_the_exact_byte() {
        let mut pool =
            Pool::new(Quotas { write: 1 << 20, receive: 1 << 20, tail: 0, read: 0 }).unwrap();
        let slot = pool.take(Purpose::Write, 4096).unwrap();
        pool.bytes_mut(slot).iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        for cut in 1..60 {
            let mut outbox = Outbox::new();
            let run = |at, len| Run { slot, at, len };
            let frames = [
                (vec![1; 10], vec![]),
                (vec![2; 5], vec![]),
                (vec![3; 7], vec![run(0, 9), run(100, 11)]),
                (vec![4; 3], vec![run(50, 4)]),
                (vec![5; 6], vec![]),
            ];
            let mut expected = Vec::new();
            for (head, runs) in frames {
                expected.extend_from_slice(&head);
                for run in &runs {
                    let bytes = pool.bytes(slot);
                    expected.extend_from_slice(&bytes[run.at as usize..][..run.len as usize]);
                }
                outbox.push(&mut pool, Outgoing { head, runs }).unwrap();
            }
            let mut sent = Vec::new();
            while !outbox.is_empty() {
                let (mut bytes, runs) = outbox.next_send();
                for run in &runs {
                    let slot = pool.bytes(run.slot);
                    bytes.extend_from_slice(&slot[run.at as usize..][..run.len as usize]);
                }
                bytes.truncate(cut);
                outbox.taken(&mut pool, bytes.len());
                sent.extend_from_slice(&bytes);
            }
            assert_eq!(sent, expected, "cut {cut}");
            assert_eq!((outbox.backlog_bytes(), pool.owners(slot)), (0, 1));
            assert_eq!(outbox.slot_bytes(), 0);
        }
    }

    #[test]
    fn what_has_begun_outlives_the_dropping_of_what_waits() {
        let quotas = Quotas { write: 4 << 20, receive: 0, tail: 0, read: 0 };
        let mut pool = Pool::new(quotas).unwrap();
        let mut outbox = Outbox::new();
        for mark in 0..4 {
            let slot = pool.take(Purpose::Write, 600).unwrap();
            let runs = vec![Run { slot, at: 0, len: 90 }];
            outbox.push(&mut pool, Outgoing { head: vec![mark; 10], runs }).unwrap();
            pool.release(slot);
        }
        // A page for each small body, and that is what counts.
        assert_eq!((outbox.backlog_bytes(), outbox.slot_bytes()), (400, 4 * 4096));
        assert_eq!(pool.used(Purpose::Write), 4 * 4096);
        let (prefix, runs) = outbox.next_send();
        assert_eq!((&prefix[..], runs.len()), (&[0; 10][..], 1));
        outbox.taken(&mut pool, 100);
        let _second = outbox.next_send();
        outbox.drop_waiting(&mut pool, true);
        assert_eq!((outbox.backlog_bytes(), outbox.slot_bytes()), (100, 4096));
        outbox.taken(&mut pool, 30);
        outbox.drop_waiting(&mut pool, false);
        assert_eq!(outbox.backlog_bytes(), 70, "a frame is cut");
        outbox.taken(&mut pool, 70);
        assert_eq!((outbox.slot_bytes(), pool.used(Purpose::Write)), (0, 0));
        let slot = pool.take(Purpose::Write, 600).unwrap();
        let runs = vec![Run { slot, at: 0, len: 90 }];
        outbox.push(&mut pool, Outgoing { head: vec![4; 10], runs }).unwrap();
        outbox.drop_waiting(&mut pool, false);
        assert!(outbox.is_empty() && pool.owners(slot) == 1);
    }
}
