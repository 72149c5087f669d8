//! Bases: what stands in a standby's log in the place of bytes that its upstream keeps no more.
//!
//! A base is a group like any other for who logs, sends, agrees on and recovers it; it takes all
//! positions from the end of the standby's log to the end of the first group that the upstream
//! has. So whatever holds for groups holds for it: it counts when a majority has it, is void when a
//! Takeover says so, and is fetched by a member that was away. What is special is who makes it (the
//! upstream, where it is asked for one), and that nothing below its end is read once it is
//! committed.

use palisade_netio::{HEAD_BYTES, Purpose, Ring};
use palisade_wal::{
    BodyBuilder, Boundary, GROUP_HEADER_BYTES, GroupKind, Lsn, Origin, RECORD_HEADER_BYTES,
    entry_bytes,
};

use crate::config::Role;
use crate::error::{Error, ErrorKind};
use crate::forward::{Located, Recent};
use crate::shard::Shard;
use crate::shard::deliver::Found;
use crate::shard::jobs::{Destination, Job};
use crate::stream::base::Base;
use crate::stream::catalogue::FIRST_STREAM;
use crate::transfer::State;

impl<R: Ring> Shard<R> {
    /// A base is committed: the log begins at its end.
    pub(crate) fn on_based(&mut self, stream: u64, end: Lsn) {
        self.imports.anew.remove(&stream);
        self.raise_floor(stream, end);
    }

    /// Below that nothing of a stream is sent as it stands to anybody, readers or standbys: it is
    /// let go, or a base stands there, which is for this log alone, or what was let go with it.
    pub(crate) fn kept_from(&self, stream: u64) -> Lsn {
        self.streams[&stream].kept_from()
    }

    /// An operator wants a stream to begin anew, of which nobody has what comes next. Above where
    /// its log ends now.
    ///
    /// # Errors
    /// Why it is not to.
    pub fn rebuild(&mut self, stream: u64) -> Result<Lsn, Error> {
        let state = self.check_stream(stream)?;
        if state.role != Role::Standby || stream < FIRST_STREAM {
            let text = match stream < FIRST_STREAM {
                true => format!("stream {stream} is the cluster's own and is kept whole"),
                false => "only a standby builds its streams anew; this is the primary".to_owned(),
            };
            return Err(Error::new(ErrorKind::Forbidden, text));
        }
        self.check_leader(stream, state)?;
        let end = state.replica.log().end().lsn;
        let gap = State::SourceHasAGap.name();
        let known = self.import_state(stream).map_or("not fetched", |it| it.state);
        if known != gap && self.imports.anew.get(&stream) == Some(&end) {
            // The upstreams are being asked: who asks them anew each time comes to no second one.
            return Ok(end);
        }
        if known != gap {
            let text = format!(
                "stream {stream} is in state {known}, not {gap}: what an upstream can bring on is \
                 not built anew"
            );
            return Err(Error::new(ErrorKind::Forbidden, text));
        }
        // Every upstream is asked again, those that had a gap too.
        self.stop_import(stream);
        self.imports.anew.insert(stream, end);
        self.start_import(stream);
        Ok(end)
    }

    /// A standby whose log ends at `from` asks for bytes that are gone: the first group that is
    /// left tells where it may go on, or the base that this log has itself.
    pub(crate) fn offer_base(&mut self, id: u64, stream: u64, from: Boundary) {
        assert!(from.lsn < self.kept_from(stream), "what is kept is sent as it is");
        let state = &self.streams[&stream];
        let log = state.replica.log();
        if stream < FIRST_STREAM || !from.lsn.0.is_multiple_of(Lsn::ALIGN) {
            return self.reply_forward(id, stream, Located::Recycled(None));
        }
        let (base, committed) = (log.base().lsn, log.committed());
        if let Some(own) = state.derived.rebased().filter(|own| own.end.lsn >= base) {
            return self.hand_base(id, stream, from, own.end, own.scn);
        }
        if base == committed.lsn {
            return self.hand_base(id, stream, from, committed, log.last_scn());
        }
        self.push_job(Job::new(stream, base, committed.lsn, Destination::Base { id, from }));
    }

    /// The first group that is left was read. The log goes on there where the chain before it is
    /// known, else behind it; readers need that group no more then.
    pub(crate) fn on_first_group(
        &mut self,
        (id, stream, from): (u64, u64, Boundary),
        first: &Found,
    ) {
        let Some(state) = self.streams.get(&stream) else {
            return self.reply_forward(id, stream, Located::Unknown);
        };
        let base = state.replica.log().base();
        if base.lsn > first.meta.lsn {
            // It was let go while it was read: the next one is the first now.
            return self.reply_forward(id, stream, Located::Busy);
        }
        let (lsn, chain) = (first.meta.end, first.chain);
        let known = base.chain != 0 && base.lsn == first.meta.lsn;
        let (end, scn) = match known {
            // SCNs grow from group to group.
            true => (base, first.meta.scn.saturating_sub(1)),
            false => (Boundary { lsn, chain }, first.meta.scn),
        };
        if end.lsn > state.floor {
            return self.reply_forward(id, stream, Located::Recycled(None));
        }
        self.hand_base(id, stream, from, end, scn);
    }

    /// The log goes on at `end` here; the SCN of the group before it is at most `scn`.
    fn hand_base(&mut self, id: u64, stream: u64, from: Boundary, end: Boundary, scn: u64) {
        let located = match self.make_base(stream, from, end, scn) {
            None => Located::Recycled(None),
            Some(None) => Located::Busy,
            Some(Some(base)) => Located::Recycled(Some(base)),
        };
        self.reply_forward(id, stream, located);
    }

    /// None when it cannot be told; nothing in it when there is no memory now.
    fn make_base(
        &mut self,
        stream: u64,
        from: Boundary,
        end: Boundary,
        scn: u64,
    ) -> Option<Option<Recent>> {
        let state = self.streams.get(&stream)?;
        if end.lsn <= from.lsn || end.lsn > state.gate.released() {
            return None;
        }
        let told = Base::of(&state.derived, end.lsn, scn)?.encode();
        let ballot = state.replica.log().accepting();
        let (role_epoch, cluster) = (self.role_epoch, self.me.cluster);
        let group = GROUP_HEADER_BYTES + entry_bytes(told.len());
        let pool = &mut self.io.pool;
        let bytes = HEAD_BYTES + RECORD_HEADER_BYTES + group;
        let Some(slot) = pool.take(Purpose::Tail, bytes) else { return Some(None) };
        let mut builder = BodyBuilder::new(&mut pool.bytes_mut(slot)[HEAD_BYTES..]);
        let origin = Origin { role_epoch, cluster, ballot };
        let opened = builder.begin_group(stream, from.lsn, ballot, GroupKind::Base, origin, 0);
        opened.expect("the slot was taken for it");
        builder.push_entry(&told, 0, 0).expect("the slot was taken for it");
        builder.end_base(scn, end, from.chain);
        let body = builder.finish();
        let view = pool.view(slot, HEAD_BYTES as u32..HEAD_BYTES as u32 + body.len);
        pool.release(slot);
        Some(view.map(|records| Recent { stream, start: from.lsn, end: end.lsn, records }))
    }
}
