//! The level at a shard that may lead streams: what it may write, and under which mark.
//!
//! Under a SYNC mark a shard writes while it has a lease for that mark. A stream whose last mark
//! is ASYNC needs none: it acks alone whatever the level, and the level does not rise before it
//! has another mark.

use std::collections::BTreeSet;

use palisade_netio::Nanos;
use palisade_wal::Ballot;

use super::limits::{LEVEL_DONE_MAX, LEVEL_RENEW_NS};
use super::mode::{Mode, Phase};
use super::wire::{LevelAsk, LevelTold};
use crate::seeded::is_seeded;
use crate::status::Protection;
use crate::stream::mark::Mark;

/// What a stream may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// Write its next group.
    Write,
    /// Write this mark first. A SYNC mark at once; an ASYNC mark when something waits: to be
    /// written, or to be acked.
    Mark(Mark),
    /// Write nothing: the level may have fallen, or is falling; or the role is not here, or not
    /// yet, or no longer.
    Hold,
}

/// How the streams that a shard leads stand to the SYNC standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Standing {
    /// What the shard's replica of the catalogue has promised; none where it has no replica.
    pub promised: Ballot,
    /// Streams that it leads.
    pub leads: u32,
    /// How long the worst of them has waited for the SYNC standby, which did not move.
    pub still_ns: u64,
    /// Bytes that the SYNC standby lacks of the worst of them.
    pub behind: u64,
    /// The highest SCN in them.
    pub scn: u64,
}

/// The level as a shard was told of it, and its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LevelLease {
    mode: Mode,
    /// Something may be written under the mark so long.
    until: Nanos,
    /// Nothing more is written under marks up to this epoch.
    closed: u64,
    /// The newest word of the catalogue's leader: its ballot, its time.
    heard: (Ballot, u64),
    /// When it was asked last, and whether it answered.
    asked: Option<Nanos>,
    answered: bool,
    /// It has something to say at once.
    hurry: bool,
    /// Streams of which it was said that the SYNC standby has the mark, and of which that was said
    /// in the open question.
    reported: BTreeSet<u64>,
    reporting: Vec<u64>,
}

impl LevelLease {
    /// The mode as this node's own copy of the catalogue has it committed.
    pub fn on_mode(&mut self, mode: Mode) {
        if mode.epoch <= self.mode.epoch {
            return;
        }
        if mode.mark != self.mode.mark {
            (self.until, self.reported) = (Nanos(0), BTreeSet::new());
            self.reporting.clear();
        }
        self.mode = mode;
        let over = match mode.mark {
            Mark::Sync { epoch, .. } if mode.phase != Phase::Falling => epoch.saturating_sub(1),
            mark => mark.epoch(),
        };
        self.closed = self.closed.max(over);
        self.hurry = true;
    }

    /// The leader of the catalogue says something.
    pub fn on_told(&mut self, told: &LevelTold, now: Nanos) {
        self.on_mode(told.mode);
        if told.ballot > self.heard.0 {
            // Who leads now knows no shard yet, and the one before will not be heard any more.
            self.reported.clear();
            (self.hurry, self.answered) = (true, true);
        }
        self.heard = self.heard.max((told.ballot, told.token));
        if told.asked_at == 0 || told.asked_at > now.0 {
            return;
        }
        // One that led before may answer too: what it was told is lost.
        let leads = told.ballot == self.heard.0;
        if leads && self.asked == Some(Nanos(told.asked_at)) {
            self.answered = true;
            self.reported.extend(self.reporting.drain(..));
        }
        let mark = self.mode.mark;
        if told.lease_ns > 0 && told.mode.mark == mark && self.closed < mark.epoch() {
            assert!(mark.epoch() > 0, "a lease is for a SYNC mark");
            let from = match is_seeded("lease_from_its_receipt") {
                true => now,
                false => Nanos(told.asked_at),
            };
            self.until = self.until.max(from.after(told.lease_ns));
        }
    }

    /// The SYNC standby has committed the mark of a stream that is led here: that is worth a
    /// question at once.
    pub fn on_marked(&mut self, stream: u64) {
        self.hurry |= !self.reported.contains(&stream);
    }

    /// Whether the leader of the catalogue is to be asked. `marked` says that this shard leads a
    /// stream with a SYNC mark.
    pub fn is_due(&self, marked: bool, now: Nanos) -> bool {
        self.due_at(marked).is_some_and(|at| at <= now)
    }

    /// When [`is_due`](LevelLease::is_due) becomes true, if nothing else happens.
    pub fn due_at(&self, marked: bool) -> Option<Nanos> {
        let moves = self.mode.phase.is_role();
        let concerned = marked || moves || self.mode.mark.cluster().is_some();
        let asks = concerned || Mode::wants_sync(self.mode.mode);
        let next = self.asked.map_or(Nanos(0), |asked| asked.after(LEVEL_RENEW_NS));
        // One question at a time: its answer may say more, and that of an older one counts less.
        match self.hurry {
            true if self.answered => Some(Nanos(0)),
            hurry => (asks || hurry).then_some(next),
        }
    }

    /// Whether something may be written under the current SYNC mark.
    pub fn may(&self, now: Nanos) -> bool {
        let want = self.mode.mark;
        let is_open = self.closed < want.epoch() || is_seeded("confirmed_and_goes_on");
        let leased = now < self.until || is_seeded("writes_without_lease");
        want.cluster().is_some() && is_open && leased
    }

    /// The question. `done` are the led streams whose last mark is the current one, committed here
    /// and by the SYNC standby.
    pub fn ask(
        &mut self,
        shard: u16,
        standing: &Standing,
        done: impl Iterator<Item = u64>,
        now: Nanos,
    ) -> LevelAsk {
        if !self.answered {
            // It may not have heard of them.
            self.reported.clear();
        }
        let news = done.filter(|stream| !self.reported.contains(stream));
        let mut news: Vec<u64> = news.take(LEVEL_DONE_MAX + 1).collect();
        self.hurry = news.len() > LEVEL_DONE_MAX;
        news.truncate(LEVEL_DONE_MAX);
        self.reporting.clone_from(&news);
        (self.asked, self.answered) = (Some(now), false);
        let Standing { promised, leads, still_ns, behind, scn } = *standing;
        LevelAsk {
            shard,
            asked_at: now.0,
            heard: self.heard.0,
            token: self.heard.1,
            promised,
            closed: self.closed,
            leads,
            still_ns,
            behind,
            mark: self.mode.mark.epoch(),
            scn,
            done: news,
        }
    }

    /// What a stream that is led here may do, whose last mark is `last`, committed or not.
    pub fn next(&self, last: Option<Mark>, now: Nanos) -> Next {
        let want = self.mode.mark;
        let may = self.may(now);
        let epoch = last.map_or(0, Mark::epoch);
        if epoch > want.epoch() {
            // This shard has not heard of that mark: it may be another cluster's.
            return Next::Hold;
        }
        let phase = self.mode.phase;
        let role_mark = matches!(phase, Phase::Ending | Phase::Starting | Phase::Seizing);
        if role_mark && epoch < want.epoch() {
            return match phase {
                Phase::Seizing => Next::Mark(self.mode.fence(last)),
                // Who was handed the role begins behind the END, and has it: where not, it waits.
                Phase::Starting if !self.mode.begins_behind(last) => Next::Hold,
                _ => Next::Mark(want),
            };
        }
        if !self.mode.serves(last) {
            return Next::Hold;
        }
        // The level rose when every stream had the mark: the log of this one lost it, and it must
        // not ack alone beside the others.
        let risen = matches!(self.mode.phase, Phase::Steady | Phase::Leaving | Phase::Preparing);
        if want.cluster().is_some() && epoch < want.epoch() && risen && !may {
            return Next::Hold;
        }
        let Some(cluster) = last.and_then(Mark::cluster) else {
            return if may && want.epoch() > epoch { Next::Mark(want) } else { Next::Write };
        };
        if epoch == want.epoch() {
            let early = self.mode.phase == Phase::Falling
                && is_seeded("marked_async_before_the_fall_ended");
            return match may {
                _ if early => Next::Mark(Mark::Async { epoch: self.mode.epoch }),
                true => Next::Write,
                false => Next::Hold,
            };
        }
        // A mark of before: its fall is over, since another one is wanted.
        match want {
            Mark::Sync { cluster: other, .. } if may && other == cluster => Next::Mark(want),
            Mark::Sync { epoch, .. } => Next::Mark(Mark::Async { epoch: epoch - 1 }),
            Mark::Async { .. } | Mark::End { .. } | Mark::Fence { .. } => Next::Mark(want),
        }
    }

    /// What an ack is worth that did or did not wait for the SYNC standby.
    pub fn worth(&self, waited: bool) -> Protection {
        match self.mode.level {
            level if waited == Mode::is_sync(level) => level,
            Protection::Resync => Protection::Resync,
            _ => Protection::Performance,
        }
    }

    /// Mode and level as far as they are known here.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}
