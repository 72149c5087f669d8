//! Bytes on their way into one link, and the frames in them.

use super::event::{Frame, Framing};
use crate::frame::{FrameError, FrameHead, FrameLimits};
use crate::limits::{
    FIRST_SLOT_BYTES, FRAME_BULK_HEAD_BYTES, FRAME_HEAD_BYTES, INBOX_BYTES, SURPLUS_BYTES_MAX,
};
use crate::op::Run;
use crate::pool::{PAGE_BYTES, Pool, Purpose, SlotId};

/// Where the next bytes of a connection may go.
pub(crate) enum Room {
    /// Here.
    Run(Run),
    /// Nowhere until slots for receiving come free.
    Starved,
    /// Nowhere ever: the frame of so many bytes is above the quota.
    Never(usize),
}

pub(crate) struct Inbox {
    framing: Framing,
    limits: FrameLimits,
    slot: Option<SlotId>,
    filled: u32,
    parsed: u32,
    /// Length of the unfinished frame at `parsed`, once its head is known.
    need: usize,
    /// Slotted: the slot of the last frame given out.
    handed: Option<SlotId>,
    /// Slotted: bytes beyond a frame for which no slot was free.
    spill: Vec<u8>,
}

impl Inbox {
    pub(crate) fn new(framing: Framing) -> Inbox {
        let mut inbox = Inbox {
            framing,
            limits: FrameLimits::ANY,
            slot: None,
            filled: 0,
            parsed: 0,
            need: 0,
            handed: None,
            spill: Vec::new(),
        };
        inbox.set_framing(framing);
        inbox
    }

    /// Changes how the following frames arrive.
    pub(crate) fn set_framing(&mut self, framing: Framing) {
        assert!(self.filled == self.parsed && self.spill.is_empty(), "bytes are waiting");
        self.framing = framing;
        self.limits = match framing {
            Framing::Packed | Framing::Slotted => FrameLimits::ANY,
            Framing::Exact => FrameLimits::GREETING,
        };
    }

    /// Takes back the slot of the last frame.
    pub(crate) fn release_handed(&mut self, pool: &mut Pool) {
        if let Some(slot) = self.handed.take() {
            pool.release(slot);
        }
    }

    /// Whether bytes wait for a slot before they can be read as frames.
    pub(crate) fn has_spill(&self) -> bool {
        !self.spill.is_empty()
    }

    /// The next whole frame. No receive may be in flight.
    pub(crate) fn next_frame(&mut self, pool: &mut Pool) -> Result<Option<Frame>, FrameError> {
        self.release_handed(pool);
        self.unspill(pool);
        let Some(slot) = self.slot else {
            return Ok(None);
        };
        let at = self.parsed as usize;
        let bytes = &pool.bytes(slot)[at..self.filled as usize];
        let head = match FrameHead::parse(bytes, &self.limits) {
            Ok(head) => head,
            Err(FrameError::Short { need }) => {
                self.need = need;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (start, len) = (usize::from(head.head_len), head.frame_len());
        self.need = len;
        let Some(body) = bytes.get(start..len) else {
            return Ok(None);
        };
        head.check_body(body)?;
        self.need = 0;
        let run = |from: usize, len: usize| Run { slot, at: (at + from) as u32, len: len as u32 };
        let frame = Frame {
            head,
            slot,
            prefix: run(FRAME_HEAD_BYTES, start - FRAME_HEAD_BYTES),
            body: run(start, len - start),
        };
        self.parsed += len as u32;
        if self.framing == Framing::Slotted {
            self.hand_over(pool, slot);
        }
        Ok(Some(frame))
    }

    /// Where the next receive goes. No receive may be in flight, and [`Inbox::next_frame`] has
    /// given all there was.
    pub(crate) fn room(&mut self, pool: &mut Pool) -> Room {
        if self.has_spill() {
            return Room::Starved;
        }
        let least = match self.framing {
            Framing::Packed => INBOX_BYTES,
            Framing::Slotted => FIRST_SLOT_BYTES,
            Framing::Exact => PAGE_BYTES,
        };
        let wanted = self.need.max(least);
        let bytes = Pool::slot_bytes(wanted);
        // While a frame moves to a bigger slot, both are held.
        let held = self.slot.map_or(0, |slot| pool.capacity(slot));
        let moving = if self.filled > self.parsed && held < bytes { held } else { 0 };
        if bytes + moving > pool.quota(Purpose::Receive) {
            return Room::Never(self.need);
        }
        let Some(slot) = self.place(pool, wanted, bytes) else {
            return Room::Starved;
        };
        let capacity = pool.capacity(slot);
        let end = match self.framing {
            Framing::Packed => capacity,
            Framing::Slotted => {
                (self.need.max(FRAME_BULK_HEAD_BYTES) + SURPLUS_BYTES_MAX).min(capacity)
            }
            Framing::Exact => self.need.max(FRAME_HEAD_BYTES),
        };
        Room::Run(Run { slot, at: self.filled, len: end as u32 - self.filled })
    }

    /// A receive into the room put `bytes` there.
    pub(crate) fn received(&mut self, bytes: u32) {
        self.filled += bytes;
    }

    /// Forgets everything, for the next connection.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.release_handed(pool);
        if let Some(slot) = self.slot.take() {
            pool.release(slot);
        }
        (self.filled, self.parsed, self.need) = (0, 0, 0);
        self.spill.clear();
    }

    /// A slot for `wanted` bytes that starts with what is not yet parsed.
    fn place(&mut self, pool: &mut Pool, wanted: usize, bytes: usize) -> Option<SlotId> {
        let rest = self.filled - self.parsed;
        if let Some(slot) = self.slot {
            let alone = pool.owners(slot) == 1;
            let capacity = pool.capacity(slot);
            if alone && capacity >= wanted && (rest > 0 || capacity == bytes) {
                if self.parsed > 0 && rest > 0 {
                    let (from, to) = (self.parsed as usize, self.filled as usize);
                    pool.bytes_mut(slot).copy_within(from..to, 0);
                }
                (self.filled, self.parsed) = (rest, 0);
                return Some(slot);
            }
            if rest == 0 {
                // Before the new one is taken, or a tight quota would refuse it.
                pool.release(slot);
                self.slot = None;
            }
        }
        let next = pool.take(Purpose::Receive, wanted)?;
        if let Some(old) = self.slot {
            pool.copy(Run { slot: old, at: self.parsed, len: rest }, next);
            pool.release(old);
        }
        self.slot = Some(next);
        (self.filled, self.parsed) = (rest, 0);
        Some(next)
    }

    /// Slotted: parts the slot of a whole frame from the bytes beyond it.
    fn hand_over(&mut self, pool: &mut Pool, slot: SlotId) {
        let (end, filled) = (self.parsed as usize, self.filled as usize);
        assert!(filled - end <= FIRST_SLOT_BYTES, "more surplus than was asked for");
        self.spill.extend_from_slice(&pool.bytes(slot)[end..filled]);
        let page_end = end.next_multiple_of(PAGE_BYTES);
        pool.bytes_mut(slot)[end..page_end].fill(0);
        self.handed = Some(slot);
        self.slot = None;
        (self.filled, self.parsed) = (0, 0);
        self.unspill(pool);
    }

    fn unspill(&mut self, pool: &mut Pool) {
        if self.spill.is_empty() {
            return;
        }
        assert!(self.slot.is_none(), "spilt bytes come before those in a slot");
        let Some(slot) = pool.take(Purpose::Receive, FIRST_SLOT_BYTES) else {
            return;
        };
        pool.bytes_mut(slot)[..self.spill.len()].copy_from_slice(&self.spill);
        self.slot = Some(slot);
        self.filled = self.spill.len() as u32;
        self.spill.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::splitmix;
    use crate::pool::Quotas;

    fn pool(receive: usize) -> Pool {
        Pool::new(Quotas { write: 0, receive, tail: 0, read: 0 }).unwrap()
    }

    fn frame(framing: Framing, number: u64, len: usize) -> Vec<u8> {
        let body: Vec<u8> = (0..len).map(|i| (i as u64 ^ number) as u8).collect();
        let bulk = match framing {
            Framing::Packed => number.is_multiple_of(5),
            Framing::Slotted => !number.is_multiple_of(5),
            Framing::Exact => false,
        };
        match bulk {
            true => [FrameHead::encode_bulk(20, number, 0, &[7], len), body].concat(),
            false => FrameHead::encode(20, number, 0, &body),
        }
    }

    /// Feeds `stream` in pieces of random length; gives the frames, keeping some slots a while.
    fn feed(
        framing: Framing,
        stream: &[u8],
        random: &mut u64,
        pool: &mut Pool,
    ) -> Result<Vec<(u64, usize)>, FrameError> {
        let mut inbox = Inbox::new(framing);
        let (mut at, mut out, mut kept) = (0, Vec::new(), Vec::new());
        loop {
            while let Some(frame) = inbox.next_frame(pool).inspect_err(|_| inbox.clear(pool))? {
                let bytes = &pool.bytes(frame.slot)[frame.body.at as usize..];
                let body = bytes[..frame.body.len as usize].to_vec();
                let right = |(i, &b): (usize, &u8)| b == (i as u64 ^ frame.head.tag) as u8;
                assert!(body.iter().enumerate().all(right));
                out.push((frame.head.tag, body.len()));
                if splitmix(random).is_multiple_of(3) {
                    pool.retain(frame.slot);
                    kept.push((frame, body));
                }
            }
            if kept.len() > 3 || splitmix(random).is_multiple_of(4) {
                for (frame, copy) in kept.drain(..) {
                    let body = &pool.bytes(frame.slot)[frame.body.at as usize..];
                    assert!(body[..copy.len()] == copy, "a kept frame was overwritten");
                    pool.release(frame.slot);
                }
            }
            let run = match inbox.room(pool) {
                Room::Run(run) => run,
                Room::Starved => {
                    assert!(!kept.is_empty() || inbox.handed.is_some(), "starved for nothing");
                    inbox.release_handed(pool);
                    kept.drain(..).for_each(|(frame, _)| pool.release(frame.slot));
                    continue;
                }
                Room::Never(_) => panic!("frames here fit the quota"),
            };
            assert!(run.len > 0, "a receive of nothing looks like the end");
            let most = (run.len as usize).min(stream.len() - at);
            if most == 0 {
                break;
            }
            let len = 1 + splitmix(random) as usize % most;
            pool.pin_fill(run);
            pool.fill(run, &stream[at..at + len]);
            pool.unpin_fill(run);
            inbox.received(len as u32);
            at += len;
        }
        kept.drain(..).for_each(|(frame, _)| pool.release(frame.slot));
        inbox.clear(pool);
        Ok(out)
    }

    #[test]
    fn frames_survive_every_way_of_cutting_with_scarce_slots() {
        for seed in 0..60 {
            let mut random = seed;
            for framing in [Framing::Packed, Framing::Slotted, Framing::Exact] {
                let mut pool = pool(512 << 10);
                pool.poison_freed();
                let (mut stream, mut expected) = (Vec::new(), Vec::new());
                for number in 0..40 {
                    let most = match framing {
                        Framing::Exact => 512,
                        _ => [16, 700, 5000, 120_000][splitmix(&mut random) as usize % 4],
                    };
                    let len = splitmix(&mut random) as usize % most;
                    stream.extend(frame(framing, number, len));
                    expected.push((number, len));
                }
                let found = feed(framing, &stream, &mut random, &mut pool);
                assert_eq!(found, Ok(expected), "seed {seed} {framing:?}");
                assert_eq!(pool.used(Purpose::Receive), 0);
            }
        }
    }

    #[test]
    fn a_damaged_stream_ends_in_an_error_and_holds_no_slot() {
        for seed in 0..200 {
            let mut random = seed;
            for framing in [Framing::Packed, Framing::Slotted, Framing::Exact] {
                let mut pool = pool(8 << 20);
                let mut stream = Vec::new();
                (0..8).for_each(|number| stream.extend(frame(framing, number, 300)));
                let at = splitmix(&mut random) as usize % 64;
                stream[at] ^= 1 << (splitmix(&mut random) % 8);
                let found = feed(framing, &stream, &mut random, &mut pool);
                assert!(found.is_err(), "seed {seed} {framing:?}");
                assert_eq!(pool.used(Purpose::Receive), 0);
            }
        }
    }
}
