//! Whole frames between shards that are lost, come twice, or come late.
//!
//! A connection does neither; the protocol between replicas, and that between the leaders of a
//! stream in two clusters, promise to stand all three, so that no rule of theirs leans on the order
//! of a connection, or of two beside each other. What readers and
//! clients say counts on its connection, and is left alone.

use palisade::kinds::{
    KIND_FLOOR_HELD, KIND_MESSAGES, KIND_SYNC_CHUNK, KIND_SYNC_FETCH, KIND_SYNC_HELD,
};
use palisade_netio::limits::FRAME_HEAD_BYTES;

use super::fault::FaultKind;
use super::state::State;

/// Bytes of a head that tell what it is and how long its frame is.
const ENOUGH: usize = 16;
/// Frames that wait to come late, at most.
const LATE_MAX: usize = 16;
/// Whether it is a frame between shards; but not news of closed SCNs, which count on their
/// connection.
fn is_touched(kind: u16) -> bool {
    let peers = KIND_MESSAGES..=KIND_FLOOR_HELD;
    let clusters = KIND_SYNC_FETCH..=KIND_SYNC_CHUNK;
    peers.contains(&kind) || clusters.contains(&kind) || kind == KIND_SYNC_HELD
}

/// Where a pipe's bytes stand in its frames.
#[derive(Default)]
pub(crate) struct Framer {
    /// Bytes of the frame under way that are still to come, once its head is known.
    rest: usize,
    /// The head under way, as far as it came.
    head: Vec<u8>,
    /// Frames that come later, each after so many others.
    late: Vec<(u64, Vec<u8>)>,
}

impl Framer {
    /// Steps over bytes of a frame that began before. Gives how many there were.
    fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if !self.head.is_empty() {
            let more = (ENOUGH - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..more]);
            at = more;
            if self.head.len() < ENOUGH {
                return at;
            }
            self.rest = length(&self.head) - ENOUGH;
            self.head.clear();
        }
        let more = self.rest.min(bytes.len() - at);
        self.rest -= more;
        at + more
    }

    fn is_between_frames(&self) -> bool {
        self.rest == 0 && self.head.is_empty()
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// Bytes of a whole frame.
fn length(head: &[u8]) -> usize {
    let body = u32::from_le_bytes(head[12..16].try_into().expect("four bytes"));
    let len = number(head, 8) + body as usize;
    assert!(len >= FRAME_HEAD_BYTES, "what is sent is frames");
    len
}

impl State {
    /// What becomes of bytes that `end` sends: the same, or with whole frames lost, again, late.
    pub(crate) fn pass_frames(&mut self, connection: u64, end: usize, bytes: Vec<u8>) -> Vec<u8> {
        let Some(open) = self.network.connections.get_mut(&connection) else { return bytes };
        let mut framer = std::mem::take(&mut open.pipes[end].framer);
        let mut passed = Vec::with_capacity(bytes.len());
        let mut at = framer.finish(&bytes);
        passed.extend_from_slice(&bytes[..at]);
        while at < bytes.len() {
            let rest = &bytes[at..];
            let len = if rest.len() < ENOUGH { usize::MAX } else { length(rest) };
            if len > rest.len() {
                // Only a frame that is sent at once is touched.
                if rest.len() < ENOUGH {
                    framer.head = rest.to_vec();
                } else {
                    framer.rest = len - rest.len();
                }
                passed.extend_from_slice(rest);
                break;
            }
            self.pass_frame(&mut framer, &rest[..len], &mut passed);
            at += len;
        }
        if let Some(open) = self.network.connections.get_mut(&connection) {
            open.pipes[end].framer = framer;
        }
        passed
    }

    fn pass_frame(&mut self, framer: &mut Framer, frame: &[u8], passed: &mut Vec<u8>) {
        assert!(framer.is_between_frames(), "a frame begins where another ended");
        let touched = is_touched(number(frame, 6) as u16);
        let lost = touched && self.strikes(FaultKind::FrameLost);
        let again = touched && self.strikes(FaultKind::FrameAgain);
        let late = touched && self.strikes(FaultKind::FrameLate);
        if !lost && !late {
            passed.extend_from_slice(frame);
        }
        if (again || late) && framer.late.len() < LATE_MAX {
            framer.late.push((self.random.below(8), frame.to_vec()));
        }
        framer.late.retain_mut(|(after, frame)| {
            if *after == 0 {
                passed.extend_from_slice(frame);
            }
            let keeps = *after > 0;
            *after = after.saturating_sub(1);
            keeps
        });
    }
}
