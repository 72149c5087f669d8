//! Pins, driven: what standbys say that they have holds the bases of streams back, and an alarm
//! names those for which no more is kept.
//!
//! Each replica of each cluster hears of standbys by itself, as these ask all nodes that they know;
//! so every one that may lead next, and every cluster that may be the next primary or an upstream,
//! keeps as much. One that has not heard of a registered standby keeps everything for it, up to the
//! cap: a new leader needs nobody's word for what others knew.

use std::collections::{BTreeMap, BTreeSet};

use palisade_netio::{Nanos, Ring};
use palisade_wal::Lsn;

use crate::config::Role;
use crate::control::Cluster;
use crate::seeded::is_seeded;
use crate::shard::Shard;
use crate::status::PinStatus;
use crate::stream::catalogue::FIRST_STREAM;
use crate::stream::pin::{Need, held};
use crate::transfer::Question;
use crate::transfer::limits::{ASK_STREAMS_MAX, POLL_NS, SILENT_NS};

/// Between two looks at all pins.
const LOOK_NS: u64 = 500_000_000;
/// A standby may be ahead of its last word: it is lost when it does not say so for this long, and
/// for as long again as it takes to speak of so many streams.
const LOST_NS: u64 = 3_000_000_000;

const _: () = assert!(LOST_NS > POLL_NS + SILENT_NS);

/// What a shard knows of pins beside those of its streams.
#[derive(Debug, Default)]
pub(crate) struct Pinning {
    /// Streams whose bases wait for a standby: until it says something, or the next look.
    waiting: BTreeSet<u64>,
    look_at: Nanos,
    /// Something may be lost: there is a look then.
    due: Option<Nanos>,
    /// Streams that are led here, the standbys of which something that they lack is gone, and
    /// since when.
    lost: BTreeMap<(u64, u32), Nanos>,
}

impl Pinning {
    /// Whether the base of a stream waits.
    pub(crate) fn waits(&self, stream: u64) -> bool {
        self.waiting.contains(&stream)
    }

    /// It may move on.
    pub(crate) fn hurry(&mut self, stream: u64) {
        self.waiting.remove(&stream);
    }

    /// All may, for instance as a standby is none any more.
    pub(crate) fn look_soon(&mut self) {
        self.look_at = Nanos(0);
    }

    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        self.due
    }
}

impl<R: Ring> Shard<R> {
    /// A standby asks, and says what it has.
    pub(crate) fn on_needs(&mut self, question: &Question) {
        let cluster = question.from.cluster;
        if cluster == self.me.cluster || self.registry.standby(cluster).is_none() {
            return;
        }
        for wanted in question.streams.iter().filter(|wanted| wanted.stream >= FIRST_STREAM) {
            let Some(state) = self.streams.get_mut(&wanted.stream) else { continue };
            let base = state.kept_from();
            state.pins.on_said(cluster, wanted.has, base);
            self.checkpoints.pinning.hurry(wanted.stream);
        }
    }

    /// Whether this cluster is the one that has to say so when it keeps a standby's log no more:
    /// the primary, or the standby that it is told to take its log from.
    fn is_keeper(&self, standby: &Cluster) -> bool {
        match self.registry.standby(standby.upstream) {
            Some(named) => named.id == self.me.cluster,
            None => self.role() == Role::Primary,
        }
    }

    /// How far the pins of a stream let its base go, of which readers need nothing below `to`.
    pub(crate) fn pinned_below(&mut self, stream: u64, to: Lsn) -> Lsn {
        let standbys = self.registry.standbys().map(|standby| standby.id);
        let standbys: Vec<u32> = standbys.filter(|id| *id != self.me.cluster).collect();
        // What is retained goes before segments run short, and so does what is pinned.
        let cap = if self.is_to_recycle() { 0 } else { self.config.pin_bytes_max };
        let bound = self.may_wait();
        let state = self.state(stream);
        let base = state.kept_from();
        state.pins.keep_for(standbys.into_iter(), base);
        // Behind a range that nobody has nothing is sent either.
        if state.has_lost(bound) || is_seeded("pins_ignored") {
            return to;
        }
        let free = state.pins.free_below(base, to, cap);
        if free < to {
            self.checkpoints.pinning.waiting.insert(stream);
        }
        free
    }

    /// The base of a stream moved.
    pub(crate) fn on_pinned_base(&mut self, stream: u64) {
        let state = self.state(stream);
        let base = state.kept_from();
        state.pins.on_base(base);
        if state.pins.lost().next().is_some() {
            let Pinning { look_at, due, .. } = &mut self.checkpoints.pinning;
            *due = Some(due.map_or(*look_at, |due| due.min(*look_at)));
        }
    }

    /// Looks at all pins once in a while; `full`: none holds anything any more.
    pub(crate) fn look_at_pins(&mut self, full: bool) {
        let now = self.io.now;
        if full {
            self.checkpoints.pinning.waiting.clear();
        }
        if now < self.checkpoints.pinning.look_at {
            return;
        }
        self.checkpoints.pinning.waiting.clear();
        self.checkpoints.pinning.look_at = now.after(LOOK_NS);
        let lost = self.lost_standbys();
        let known = &self.checkpoints.pinning.lost;
        let lost = lost.into_iter().map(|it| (it, known.get(&it).copied().unwrap_or(now)));
        self.checkpoints.pinning.lost = lost.collect();
        // All of them may be in one shard there.
        let streams = self.streams.len() * usize::from(self.me.shards);
        let patience = LOST_NS + (streams / ASK_STREAMS_MAX) as u64 * POLL_NS;
        let waits = |since: &Nanos| now.since(*since) < patience;
        let since = self.checkpoints.pinning.lost.values().copied();
        let due = since.filter(waits).min().map(|since| since.after(patience));
        self.checkpoints.pinning.due = due.map(|due| due.max(self.checkpoints.pinning.look_at));
        let told = self.checkpoints.pinning.lost.iter().filter(|(_, since)| !waits(since));
        let told: Vec<(u64, u32)> = told.map(|(it, _)| *it).collect();
        self.tell_lost(&told);
    }

    /// Streams and standbys for which this node should have kept what is gone.
    fn lost_standbys(&self) -> Vec<(u64, u32)> {
        let mut lost = Vec::new();
        if self.config.pin_bytes_max == 0 {
            return lost;
        }
        for (id, state) in self.streams.iter().filter(|(_, state)| state.leading) {
            let keeps = |cluster: &u32| {
                self.registry.standby(*cluster).is_some_and(|standby| self.is_keeper(standby))
            };
            lost.extend(state.pins.lost().filter(keeps).map(|cluster| (*id, cluster)));
        }
        lost
    }

    /// The alarm says which, as long as there is one.
    fn tell_lost(&mut self, lost: &[(u64, u32)]) {
        let Some((stream, cluster)) = lost.first() else {
            self.alarms.remove("standby-not-kept-for");
            return;
        };
        let more = match lost.len() {
            1 => String::new(),
            count => format!(" (and {} more such pairs)", count - 1),
        };
        let hint = format!(
            "standby {cluster} lacks a part of stream {stream} that is let go here{more}: see to \
             the standby, give log.pin_bytes_max and the disk room for what it may lack, then \
             `palisade standby rebuild --stream {stream}` there"
        );
        self.alarm("standby-not-kept-for", String::new());
        if let Some((_, told)) = self.alarms.get_mut("standby-not-kept-for") {
            *told = hint;
        }
    }

    /// What is kept of a stream for whom beyond its readers' need, and for whom no more.
    pub(crate) fn pin_statuses(&self, stream: u64) -> Vec<PinStatus> {
        let Some(state) = self.streams.get(&stream) else { return Vec::new() };
        if self.config.pin_bytes_max == 0 {
            return Vec::new();
        }
        let shown = state.pins.iter().filter_map(|(cluster, pin)| {
            let bytes = match pin.need {
                _ if pin.from < state.kept_from() => 0,
                _ => held(pin, state.floor),
            };
            let is_lost = pin.need == Need::Lost;
            let from_lsn = pin.from.0;
            (bytes > 0 || is_lost).then_some(PinStatus { cluster, from_lsn, bytes, is_lost })
        });
        shown.collect()
    }
}
