//! The choice of the upstream of each stream that a shard of a standby leads.
//!
//! ```text
//! no upstream --answers, or their time is over--> the best that may be chosen
//! upstream    --it ends (see Ending)------------> the best of the others; none: it stays
//!             --a better one is there for long--> that one
//! ```
//!
//! The best is the lowest [`Rank`], then cluster id, node, address; it has everything that is here.
//! A stall is a pulse that stands still while that of another is ahead and goes on: with the
//! primary dead all stand still, and nobody moves. A standby whose path names this cluster takes
//! from here and is never chosen; what chose it by older facts leaves it when it hears so. No I/O,
//! no clock, and no randomness but the seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use palisade_netio::Nanos;
use palisade_wal::Lsn;

use super::candidates::{Asking, Candidate, Candidates, Known};
use super::facts::{Facts, Path, Pulse, Wanted};
use super::limits::{
    BAN_NS_MAX, BANS_MAX, BETTER_NS, GATHER_NS, HASTY_NS, KEEP_NS, LOOK_NS, PATIENCE_NS, PAUSE_NS,
    STALL_NS,
};
use super::rank::{Me, Rank, Unfit, fit, may_choose, rank};
use super::receiver::State;
use crate::control::Term;

/// Candidates that a reason names.
const REASONS_MAX: usize = 4;

/// Why an upstream is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Its connection ended.
    Lost,
    /// It does not answer.
    Silent,
    /// Its pulse stands still while another's is ahead.
    Stalled,
    /// Nobody knows it any more, or it is no upstream for the stream any more.
    Removed,
    /// It takes the stream from us.
    Loop,
    /// It knows of an earlier primary than we do.
    Outranked,
    /// Its log is another than ours.
    Diverged,
    /// It refuses to send the stream.
    Refused,
    /// It no longer has the bytes that come next.
    Gap,
    /// It cannot read them.
    Damaged,
    /// It has less than we have.
    Behind,
}

impl Ending {
    /// In words.
    pub fn reason(self) -> &'static str {
        match self {
            Ending::Lost => "the connection ended",
            Ending::Silent => "it did not answer",
            Ending::Stalled => "nothing came there any more",
            Ending::Removed => "it no longer serves the stream",
            Ending::Loop => "it takes the stream from us",
            Ending::Outranked => "it has the log of a primary that is none any more",
            Ending::Diverged => "its log is another",
            Ending::Refused => "it refused",
            Ending::Gap => "its log begins later",
            Ending::Damaged => "it could not read the bytes",
            Ending::Behind => "it had less than we have",
        }
    }

    /// For how long it is avoided the first time.
    fn ban_ns(self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        match self {
            Ending::Lost => SECOND,
            Ending::Silent | Ending::Removed | Ending::Refused => 2 * SECOND,
            Ending::Stalled | Ending::Loop | Ending::Outranked | Ending::Behind => 5 * SECOND,
            Ending::Diverged | Ending::Gap | Ending::Damaged => 30 * SECOND,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Keep a connection for questions to this node; say `on_link`.
    Connect(SocketAddr),
    /// End it.
    Disconnect(SocketAddr),
    /// Ask.
    Ask(Asking),
    /// Take the stream from there from now on, from the end of the log here; none: from nobody.
    Switch {
        /// The stream.
        stream: u64,
        /// From whom.
        to: Option<SocketAddr>,
    },
}

/// The upstream that a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where it is.
    pub addr: SocketAddr,
    /// How good it was when it was chosen.
    pub rank: Rank,
    /// Since when.
    pub since: Nanos,
    /// Why the one before was left.
    pub after: Option<Ending>,
}

#[derive(Clone, Copy, Debug)]
struct Ban {
    addr: SocketAddr,
    until: Nanos,
    ns: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    taken: Option<Taken>,
    /// Why the upstream is to be left.
    ending: Option<Ending>,
    /// Answers from then on count for the next choice.
    began: Nanos,
    /// Before that nothing is chosen, so that not all who lost the same upstream choose at once.
    pause: Nanos,
    /// Until then others may still answer.
    gather: Nanos,
    /// A better one, and when it is taken.
    better: Option<(SocketAddr, Nanos)>,
    bans: Vec<Ban>,
    /// The highest that came from an upstream.
    pulse: Pulse,
    /// The node of the primary that ships it here before it acks: no upstream is looked for.
    shipper: Option<(u32, u32)>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Chooser {
    me: Me,
    candidates: Candidates,
    connected: BTreeSet<SocketAddr>,
    streams: BTreeMap<u64, Stream>,
    /// Streams with something to wait for.
    unsettled: BTreeSet<u64>,
    look_at: Nanos,
    seed: u64,
}

impl Chooser {
    /// Nothing is led yet. `endpoints` are always asked.
    pub fn new(me: Me, endpoints: &[SocketAddr], seed: u64, now: Nanos) -> Chooser {
        let mut candidates = Candidates::default();
        candidates.configure(endpoints, now);
        candidates.configure_fixed(me.fixed, now);
        Chooser {
            me,
            candidates,
            connected: BTreeSet::new(),
            streams: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            look_at: now,
            seed: seed | 1,
        }
    }

    /// Nodes of the cluster `named` go before all others from now on (0: of none). `endpoints`
    /// are always asked.
    pub fn on_named(&mut self, named: u32, endpoints: &[SocketAddr], now: Nanos) {
        if self.me.named != named {
            // What was best because it was named is looked at anew.
            for (stream, known) in &mut self.streams {
                let Some(taken) = known.taken.as_mut().filter(|it| it.rank == Rank::Fixed) else {
                    continue;
                };
                taken.rank = Rank::FarStandby;
                self.unsettled.insert(*stream);
            }
        }
        self.me.named = named;
        self.candidates.configure(endpoints, now);
        self.candidates.configure_fixed(self.me.fixed, now);
        self.look_at = self.look_at.min(now);
    }

    /// The highest term of the primary's role that is known here: nothing is taken from who knows
    /// of a lower one alone although it was told.
    pub fn on_term(&mut self, term: Term, now: Nanos) {
        self.candidates.on_term(term);
        self.candidates.hurry(now, now);
        self.look_at = self.look_at.min(now);
    }

    /// Whether who listens at `addr` knows of a lower one alone although it was told.
    pub fn is_outranked(&self, addr: SocketAddr) -> bool {
        self.candidates.get(addr).is_some_and(Candidate::is_outranked)
    }

    /// Another cluster is about to be the primary.
    pub fn hurry(&mut self, now: Nanos) {
        self.candidates.hurry(now, now.after(HASTY_NS));
        self.look_at = self.look_at.min(now);
    }

    /// This shard leads a stream.
    pub fn on_leading(&mut self, stream: u64, now: Nanos) {
        if self.streams.contains_key(&stream) {
            return;
        }
        let gather = now.after(self.spread(GATHER_NS));
        let new = Stream {
            taken: None,
            ending: None,
            began: now,
            pause: now,
            gather,
            better: None,
            bans: Vec::new(),
            pulse: Pulse::default(),
            shipper: None,
        };
        self.streams.insert(stream, new);
        self.unsettle(stream, now);
    }

    /// This shard does not lead it any more.
    pub fn on_not_leading(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.unsettled.remove(&stream);
        self.candidates.drop_stream(stream);
    }

    /// This node of the primary ships a stream here, or nobody does any more; `pulse` is how far
    /// the life of its leader was seen.
    pub fn on_shipped(&mut self, stream: u64, by: Option<(u32, u32)>, pulse: Pulse, now: Nanos) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        known.pulse = known.pulse.max(pulse);
        if known.shipper == by {
            return;
        }
        (known.shipper, known.better) = (by, None);
        if by.is_none() {
            self.unsettle(stream, now);
        } else {
            self.unsettled.remove(&stream);
        }
    }

    /// A candidate can be asked, or not any more.
    pub fn on_link(&mut self, addr: SocketAddr, up: bool, now: Nanos) {
        self.candidates.on_link(addr, up, now);
        self.look_at = self.look_at.min(now);
    }

    /// A candidate said what makes no sense: it is connected to anew.
    pub fn on_broken(&mut self, addr: SocketAddr, now: Nanos) {
        self.connected.remove(&addr);
        self.candidates.on_link(addr, false, now);
    }

    /// A candidate answered.
    pub fn on_facts(&mut self, addr: SocketAddr, facts: &Facts, now: Nanos, out: &mut Vec<Advice>) {
        self.candidates.on_facts(addr, facts, now);
        self.candidates.on_named(&facts.places, self.me.cluster, now);
        for said in &facts.streams {
            self.look(said.stream, now, out);
        }
    }

    /// An upstream brings the stream again: a lost connection is back.
    pub fn on_served(&mut self, stream: u64, addr: SocketAddr) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        // Or, where no other has the first bytes either, it begins further up.
        let goes_on = matches!(known.ending, Some(Ending::Lost | Ending::Gap));
        if goes_on && known.taken.is_some_and(|t| t.addr == addr) {
            known.ending = None;
        }
    }

    /// An upstream cannot go on with a stream.
    pub fn on_ended(&mut self, stream: u64, addr: SocketAddr, why: Ending, now: Nanos) {
        let is_it = |known: &Stream| known.taken.is_some_and(|taken| taken.addr == addr);
        if self.streams.get(&stream).is_some_and(is_it) {
            self.end(stream, why, now);
        }
    }

    fn end(&mut self, stream: u64, why: Ending, now: Nanos) {
        let (pause, gather) = (self.spread(PAUSE_NS), self.spread(GATHER_NS));
        let extra = self.spread(0);
        let known = self.streams.get_mut(&stream).expect("it is led here");
        let Some(taken) = known.taken else { return };
        if known.ending.is_some_and(|ending| ending != Ending::Lost || why == Ending::Lost) {
            return;
        }
        (known.ending, known.better) = (Some(why), None);
        known.began = now;
        (known.pause, known.gather) = (now.after(pause), now.after(gather));
        let old = known.bans.iter().position(|ban| ban.addr == taken.addr);
        let before = old.map(|at| known.bans.swap_remove(at));
        // Again soon after the last time: it is avoided for longer.
        let again = before.filter(|ban| now < ban.until.after(ban.ns));
        let ns = again.map_or(why.ban_ns(), |ban| (2 * ban.ns).max(why.ban_ns())).min(BAN_NS_MAX);
        if known.bans.len() == BANS_MAX {
            let first = known.bans.iter().enumerate().min_by_key(|(_, ban)| ban.until);
            let first = first.map_or(0, |(at, _)| at);
            known.bans.swap_remove(first);
        }
        let until = now.after(ns + extra % (ns / 2));
        known.bans.push(Ban { addr: taken.addr, until, ns });
        self.unsettle(stream, now);
    }

    fn unsettle(&mut self, stream: u64, now: Nanos) {
        self.unsettled.insert(stream);
        self.look_at = self.look_at.min(now);
    }

    /// Time passed. `end` says where the log of a stream ends here.
    pub fn on_time(&mut self, now: Nanos, end: impl Fn(u64) -> Lsn, out: &mut Vec<Advice>) {
        if now < self.look_at && self.candidates.next_time().is_none_or(|due| now < due) {
            return;
        }
        self.look_at = now.after(LOOK_NS);
        self.keep_links(now, out);
        for stream in self.doubtful(now) {
            self.look(stream, now, out);
        }
        let wanted: BTreeMap<u64, (Wanted, Nanos)> =
            self.streams.keys().map(|&stream| (stream, self.wanted(stream))).collect();
        let asking = self.candidates.ask(now, &wanted, &self.unsettled, end);
        out.extend(asking.into_iter().map(Advice::Ask));
    }

    /// When [`on_time`](Chooser::on_time) is due.
    pub fn next_time(&self) -> Option<Nanos> {
        if self.streams.is_empty() && self.connected.is_empty() {
            return None;
        }
        let look = !self.unsettled.is_empty() || self.links_differ();
        let look = look.then_some(self.look_at);
        self.candidates.next_time().into_iter().chain(look).min()
    }

    fn links_differ(&self) -> bool {
        if self.streams.is_empty() {
            return !self.connected.is_empty();
        }
        !self.candidates.iter().map(|(addr, _)| addr).eq(self.connected.iter().copied())
    }

    fn keep_links(&mut self, now: Nanos, out: &mut Vec<Advice>) {
        let used = self.streams.values().filter_map(|known| known.taken);
        let used: BTreeSet<SocketAddr> = used.map(|taken| taken.addr).collect();
        self.candidates.forget(&used, now);
        let wanted: BTreeSet<SocketAddr> = match self.streams.is_empty() {
            true => BTreeSet::new(),
            false => self.candidates.iter().map(|(addr, _)| addr).collect(),
        };
        for &addr in self.connected.difference(&wanted) {
            self.candidates.on_link(addr, false, now);
            out.push(Advice::Disconnect(addr));
        }
        out.extend(wanted.difference(&self.connected).copied().map(Advice::Connect));
        self.connected = wanted;
    }

    /// Streams that something may have changed for: those that wait, and those of an upstream
    /// that does not answer.
    fn doubtful(&self, now: Nanos) -> Vec<u64> {
        let silent = |known: &Stream| {
            let candidate = known.taken.map(|taken| self.candidates.get(taken.addr));
            candidate.is_some_and(|candidate| candidate.is_none_or(|c| !c.answers(now)))
        };
        let doubtful = self.streams.iter().filter(|(stream, known)| {
            self.unsettled.contains(stream) || known.shipper.is_none() && silent(known)
        });
        doubtful.map(|(stream, _)| *stream).collect()
    }

    fn wanted(&self, stream: u64) -> (Wanted, Nanos) {
        let across = self.across(stream);
        (Wanted { stream, across, has: Lsn::ZERO }, self.streams[&stream].began)
    }

    /// Between one and two times `ns`; from 0 a random number.
    fn spread(&mut self, ns: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        if ns == 0 { self.seed >> 1 } else { ns + self.seed % ns }
    }
}

/// What is known.
impl Chooser {
    /// The region of who listens at `addr`; empty while nobody has said it.
    pub fn region_at(&self, addr: SocketAddr) -> Option<&str> {
        self.candidates.get(addr).map(|candidate| candidate.region.as_str())
    }

    /// The upstream of a stream.
    pub fn taken(&self, stream: u64) -> Option<Taken> {
        self.streams.get(&stream)?.taken
    }

    /// Why the upstream of a stream is to be left, while there is no other.
    pub fn ending(&self, stream: u64) -> Option<Ending> {
        self.streams.get(&stream)?.ending
    }

    /// A stream without an upstream: state, since when, and why.
    pub fn waiting(&self, stream: u64, now: Nanos) -> Option<(State, Nanos, String)> {
        let known = self.streams.get(&stream)?;
        let why = |(addr, it): (SocketAddr, &Candidate)| {
            let unfit = may_choose(&self.me, it, stream, now).err()?;
            Some(format!("{addr} {}", unfit.reason()))
        };
        let answers = self.candidates.iter().any(|(_, candidate)| candidate.answers(now));
        let state = if answers { State::Wait } else { State::CheckNetwork };
        let mut reasons: Vec<String> = self.candidates.iter().filter_map(why).collect();
        reasons.truncate(REASONS_MAX);
        let reason = match reasons.is_empty() {
            true => "looks for an upstream".to_owned(),
            false => reasons.join(", "),
        };
        Some((state, known.began, reason))
    }

    fn shipper(&self, stream: u64) -> Option<(u32, u32)> {
        self.streams.get(&stream)?.shipper
    }

    fn upstream(&self, stream: u64) -> Option<&Candidate> {
        let known = self.streams.get(&stream).filter(|known| known.ending.is_none())?;
        self.candidates.get(known.taken?.addr)
    }

    /// Whether a stream is received from another region.
    pub fn across(&self, stream: u64) -> bool {
        let shipper = self.shipper(stream);
        let is_it = |(_, it): &(SocketAddr, &Candidate)| it.id == shipper;
        let upstream = match shipper {
            Some(_) => self.candidates.iter().find(is_it).map(|(_, it)| it),
            None => self.upstream(stream),
        };
        upstream.is_some_and(|it| it.id.is_some() && it.region != self.me.region)
    }

    /// How a stream comes here; empty while it does not.
    pub fn path(&self, stream: u64) -> Path {
        if let Some((cluster, _)) = self.shipper(stream) {
            return Path::of(&[cluster]).unwrap_or_default();
        }
        let upstream = self.upstream(stream);
        let id = upstream.and_then(|upstream| upstream.id);
        let known = upstream.and_then(|upstream| upstream.known(stream));
        let (Some((cluster, _)), Some(known)) = (id, known) else { return Path::default() };
        let rooted = upstream.is_some_and(|it| it.role == crate::config::Role::Primary)
            || !known.path.is_empty();
        match Path::through(cluster, &known.path) {
            Some(path) if rooted => path,
            _ => Path::default(),
        }
    }

    /// Whether a leader of the primary says that it acks only what this cluster has.
    pub fn is_sync(&self, stream: u64) -> bool {
        let names_us = |(_, it): (SocketAddr, &Candidate)| {
            let names = |known: &Known| known.sync == self.me.cluster && !known.outranked;
            it.role == crate::config::Role::Primary && it.known(stream).is_some_and(names)
        };
        self.candidates.iter().any(names_us)
    }

    /// The nodes of the primary that are known: where, who, and how many shards each has.
    pub fn primaries(&self) -> impl Iterator<Item = (SocketAddr, (u32, u32), u16)> {
        let primary = |(addr, it): (SocketAddr, &Candidate)| {
            let is_it = it.role == crate::config::Role::Primary && !it.is_outranked();
            Some((addr, it.id.filter(|_| is_it)?, it.shards))
        };
        self.candidates.iter().filter_map(primary)
    }

    /// How far the life of the primary's leader was seen here: what came by way of the upstream.
    pub fn pulse(&self, stream: u64) -> Pulse {
        self.streams.get(&stream).map(|known| known.pulse).unwrap_or_default()
    }
}

/// Choosing.
impl Chooser {
    /// Looks whether a stream needs another upstream.
    fn look(&mut self, stream: u64, now: Nanos, out: &mut Vec<Advice>) {
        let Some(known) = self.streams.get(&stream) else { return };
        if known.shipper.is_some() {
            self.unsettled.remove(&stream);
            return;
        }
        if let Some(taken) = known.taken.filter(|_| known.ending.is_none()) {
            if let Some(why) = self.trouble(stream, taken, now) {
                self.end(stream, why, now);
                if matches!(why, Ending::Loop | Ending::Outranked) {
                    self.switch(stream, None, now, out);
                }
            } else {
                self.relay(stream, taken.addr);
                return self.look_for_better(stream, taken, now, out);
            }
        }
        self.look_for_next(stream, now, out);
    }

    fn relay(&mut self, stream: u64, addr: SocketAddr) {
        let heard = self.candidates.get(addr).and_then(|it| it.known(stream)).map(|it| it.pulse);
        let known = self.streams.get_mut(&stream).expect("it is led here");
        known.pulse = known.pulse.max(heard.unwrap_or_default());
    }

    /// Why an upstream cannot stay.
    fn trouble(&self, stream: u64, taken: Taken, now: Nanos) -> Option<Ending> {
        let Some(candidate) = self.candidates.get(taken.addr) else {
            return Some(Ending::Removed);
        };
        match fit(&self.me, candidate, stream, now) {
            // Who receives nothing itself is left when others do: that is a stall.
            Ok(()) | Err(Unfit::Rootless | Unfit::Behind | Unfit::Unasked) => {}
            Err(Unfit::Silent) => return Some(Ending::Silent),
            Err(Unfit::Absent | Unfit::Own) => return Some(Ending::Removed),
            Err(Unfit::Loop) => return Some(Ending::Loop),
            Err(Unfit::Outranked) => return Some(Ending::Outranked),
        }
        let known = candidate.known(stream)?;
        let still = known.heard.since(known.moved) >= STALL_NS;
        // Ahead, and still moving when this one no longer did: at the end of a leader nobody has
        // seen quite the same.
        let ahead = |(addr, other): (SocketAddr, &Candidate)| {
            let goes_on = other.known(stream).is_some_and(|other| {
                other.pulse > known.pulse && other.moved.since(known.moved) >= STALL_NS
            });
            addr != taken.addr && goes_on && fit(&self.me, other, stream, now).is_ok()
        };
        (still && self.candidates.iter().any(ahead)).then_some(Ending::Stalled)
    }

    fn is_banned(&self, stream: u64, addr: SocketAddr, now: Nanos) -> bool {
        let bans = &self.streams[&stream].bans;
        bans.iter().any(|ban| ban.addr == addr && now < ban.until)
    }

    /// The best that may be chosen now.
    fn best(&self, stream: u64, now: Nanos) -> Option<(Rank, SocketAddr)> {
        let choice = |(addr, candidate): (SocketAddr, &Candidate)| {
            may_choose(&self.me, candidate, stream, now).ok()?;
            if self.is_banned(stream, addr, now) {
                return None;
            }
            let rank = rank(&self.me, addr, candidate, stream)?;
            // Facts from before may not know that it lost its upstream as we did.
            if candidate.role == crate::config::Role::Standby
                && !candidate.answered(stream, self.streams[&stream].began)
            {
                return None;
            }
            self.may_take(stream, rank, candidate).then_some((rank, candidate.id, addr))
        };
        self.candidates.iter().filter_map(choice).min().map(|(rank, _, addr)| (rank, addr))
    }

    /// Of two that receive a stream across the same border, one goes to the other: not the one
    /// that the primary's leader names, or else the one with the higher id.
    fn may_take(&self, stream: u64, rank: Rank, candidate: &Candidate) -> bool {
        if rank != Rank::Standby || !self.across(stream) {
            return true;
        }
        match (self.crosser(stream), candidate.id) {
            (0, Some((cluster, _))) => cluster < self.me.cluster,
            (crosser, _) => crosser != self.me.cluster,
        }
    }

    /// The cluster that the primary's leader wants to receive a stream across; 0: nobody knows.
    fn crosser(&self, stream: u64) -> u32 {
        let leads = |(_, candidate): (SocketAddr, &Candidate)| {
            let known = candidate.known(stream)?;
            let leads = known.standing == super::facts::Standing::Leader;
            let primary = candidate.role == crate::config::Role::Primary;
            (primary && leads && !known.outranked).then_some((known.pulse, known.crosser))
        };
        self.candidates.iter().filter_map(leads).max().map_or(0, |(_, crosser)| crosser)
    }

    /// Another standby is to receive the stream across, and may soon serve it here.
    fn awaits_crosser(&self, stream: u64, now: Nanos) -> bool {
        let crosser = self.crosser(stream);
        let mut seen = false;
        let may_serve = |(addr, candidate): (SocketAddr, &Candidate)| {
            let is_it = candidate.id.is_some_and(|(cluster, _)| cluster == crosser);
            seen |= is_it;
            is_it && candidate.answers(now) && !self.is_banned(stream, addr, now)
        };
        let serves = self.candidates.iter().any(may_serve);
        crosser != 0 && crosser != self.me.cluster && (serves || !seen)
    }

    fn look_for_next(&mut self, stream: u64, now: Nanos, out: &mut Vec<Advice>) {
        let Some((rank, addr)) = self.best(stream, now) else { return };
        let known = &self.streams[&stream];
        let through = |(_, it): (SocketAddr, &Candidate)| it.is_through(stream, known.began, now);
        let waited = now >= known.gather || self.candidates.iter().all(through);
        let patient = now >= known.gather.after(PATIENCE_NS);
        let ready = match rank {
            Rank::Fixed => true,
            _ if rank.is_near() => waited,
            Rank::Across => patient || waited && !self.awaits_crosser(stream, now),
            _ => patient,
        };
        if ready && now >= known.pause {
            self.switch(stream, Some((rank, addr)), now, out);
        }
    }

    fn look_for_better(&mut self, stream: u64, taken: Taken, now: Nanos, out: &mut Vec<Advice>) {
        let (now_rank, best) = (self.rank_now(stream, taken), self.best(stream, now));
        let better = best.filter(|(rank, addr)| *addr != taken.addr && *rank < now_rank);
        let Some((rank, addr)) = better else {
            let known = self.streams.get_mut(&stream).expect("it is led here");
            known.better = None;
            self.unsettled.remove(&stream);
            return;
        };
        let wait = self.spread(BETTER_NS);
        let known = self.streams.get_mut(&stream).expect("it is led here");
        let due = now.after(wait).max(taken.since.after(KEEP_NS));
        let due = match known.better {
            Some((same, due)) if same == addr => due,
            _ => due,
        };
        known.better = Some((addr, due));
        if now >= due {
            self.switch(stream, Some((rank, addr)), now, out);
        } else {
            self.unsettled.insert(stream);
        }
    }

    /// Its rank by what it says now: it may have moved to another region, or stopped leading.
    fn rank_now(&self, stream: u64, taken: Taken) -> Rank {
        let candidate = self.candidates.get(taken.addr);
        let now = candidate.and_then(|it| rank(&self.me, taken.addr, it, stream));
        now.unwrap_or(taken.rank)
    }

    fn switch(
        &mut self,
        stream: u64,
        to: Option<(Rank, SocketAddr)>,
        now: Nanos,
        out: &mut Vec<Advice>,
    ) {
        let known = self.streams.get_mut(&stream).expect("it is led here");
        let after = known.ending.or(known.taken.and_then(|taken| match to {
            None => taken.after,
            Some(_) => None,
        }));
        known.taken = to.map(|(rank, addr)| Taken { addr, rank, since: now, after });
        known.better = None;
        if to.is_some() {
            known.ending = None;
            known.began = now;
            self.unsettled.remove(&stream);
        }
        out.push(Advice::Switch { stream, to: to.map(|(_, addr)| addr) });
    }
}
