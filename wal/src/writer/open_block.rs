//! The open block: the last one that waits for the device takes more small bodies into its pad.
//!
//! A follower of several leaders gets many small bodies while one write is in flight. Each as a
//! block of its own would take a page.

use palisade_netio::Pool;

use super::Writer;
use crate::limits::{BLOCK_HEAD_BYTES, SMALL_BODY_BYTES};
use crate::record::RECORD_HEADER_BYTES;
use crate::room::NewBlock;
use crate::segment::Place;

impl Writer {
    /// The block whose pad takes a body of `len` bytes. None for a body that is not small, and
    /// where no block waits in the active segment, or the last one holds hard state.
    pub(crate) fn open_block(&self, len: usize) -> Option<Place> {
        let last = self.waiting.back().filter(|_| self.error.is_none())?;
        let small = len < SMALL_BODY_BYTES && (last.body_len as usize) < SMALL_BODY_BYTES;
        let end = BLOCK_HEAD_BYTES + last.body_len as usize + len;
        let soft = last.hard_state_block < last.place.block;
        // The index of an older segment is made already.
        let here = last.place.segment == self.active.seq;
        let open = small && soft && here && end <= last.place.len as usize;
        assert!(last.place.block == self.appended, "the last block has the highest number");
        assert!(last.place.block > self.submitted, "what waits was not submitted");
        open.then_some(last.place)
    }

    /// Copies a body into the [open block](Writer::open_block), and gives its slot back.
    pub(crate) fn join(&mut self, pool: &mut Pool, block: NewBlock) -> Place {
        let NewBlock { slot, body, .. } = block;
        let place = self.open_block(body.len as usize).expect("asked for in this turn");
        body.assert_whole();
        assert!(!body.holds_hard_state(), "hard state has a block of its own");
        let last = self.waiting.back_mut().expect("the open block waits");
        let end = BLOCK_HEAD_BYTES + last.body_len as usize;
        let (from, to) = pool.pair_from(slot, last.slot, end);
        let bytes = &from[BLOCK_HEAD_BYTES..][..body.len as usize];
        to[..bytes.len()].copy_from_slice(bytes);
        for meta in &body.metas {
            let header = &bytes[meta.at as usize..][..RECORD_HEADER_BYTES];
            last.headers_crc = crc32c::crc32c_append(last.headers_crc, header);
        }
        last.body_len += body.len;
        assert!(BLOCK_HEAD_BYTES + last.body_len as usize <= place.len as usize, "it had room");
        assert!(last.place == place, "a block that grows keeps its place");
        pool.release(slot);
        self.index.note_more(&place, &body.metas);
        self.touched = true;
        self.assert_invariants();
        place
    }
}
