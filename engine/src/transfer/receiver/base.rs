//! What an upstream does not keep any more: a base stands for it in the log of a standby that has
//! nothing of the stream yet, or is to begin it anew.

use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::{Output, Phase, Receiver, State};
use crate::forward::wire::ChunkHead;
use crate::stream::catalogue::FIRST_STREAM;
use crate::transfer::limits::RETRY_NS;

impl Receiver {
    /// An operator wants the stream to begin anew where the upstream's log begins, if nothing less
    /// brings it on.
    pub fn on_rebuild(&mut self, stream: u64, out: &mut Vec<Output>) {
        let Some(inbound) = self.streams.get_mut(&stream) else { return };
        inbound.takes_base = stream >= FIRST_STREAM;
        if inbound.phase == Phase::Held {
            return;
        }
        let fetching = inbound.phase == Phase::Fetching;
        self.release(stream, Phase::Idle);
        if fetching {
            self.stop(stream, out);
        }
        self.start(stream, out);
        self.feed(out);
    }

    /// An upstream does not have the first byte of a stream, of which nothing is here that would be
    /// let go. When none has it the stream begins further up, but for the cluster's own.
    pub(super) fn may_begin_anew(&mut self, stream: u64) -> bool {
        let (endpoint, endpoints) = (self.endpoint, self.endpoints);
        let inbound = self.streams.get_mut(&stream).expect("a stream that is received");
        if inbound.position.lsn > Lsn::ZERO || stream < FIRST_STREAM {
            return false;
        }
        inbound.gaps.insert(endpoint);
        assert!(inbound.gaps.len() <= endpoints, "more upstreams than there are");
        inbound.takes_base |= inbound.gaps.len() == endpoints;
        inbound.takes_base
    }

    /// The upstream began the stream anew itself, above the end of the log here.
    pub(super) fn refuse_base(
        &mut self,
        stream: u64,
        head: &ChunkHead,
        now: Nanos,
        out: &mut Vec<Output>,
    ) {
        let reason = format!("the upstream begins at {}", head.end);
        self.set_state(stream, State::SourceHasAGap, &reason, now, out);
        self.release(stream, Phase::Paused(now.after(RETRY_NS)));
        self.stop(stream, out);
        self.feed(out);
    }
}
