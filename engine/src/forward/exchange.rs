//! Everything of the forwarder but its I/O: what shards and readers said goes in, frames for the
//! connections and reads of segments come out.
//!
//! A driver has a thread, sockets and files, and no choice: [`Exchange::take_events`],
//! [`Exchange::turn`] and each [`Work`] it gives, over and over, until both say that nothing is
//! left; then it sleeps until an event, a connection, the end of a read, or
//! [`Exchange::next_time`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use palisade_netio::{Identity, Nanos, Refusal, RefusalCode, Welcome};

use super::cursor::Source;
use super::cut::{Cut, NoCut, Want};
use super::flow::Body;
use super::limits::{ASKS_MAX, EVENTS_PER_TURN, LOADS_MAX, Limits, TURNS_MAX};
use super::maps::{Mapped, Maps};
use super::memory::trim;
use super::queue::{Feed, ForwardEvent, ForwardRequest, ForwarderSide, SealedExtent, Socket};
use super::sender::{Effect, ReaderId, Readers, Route, Stats};
use super::windows::{Warming, Windows};
use super::wire::{FEATURE_LZ4, FromReader};
use crate::control::Registry;
use crate::paxos::Publisher;
use crate::status::CompressionStatus;

/// Until requests that found no room are tried again.
const AGAIN_NS: u64 = 1_000_000;
/// Until what is closed is said again to those that had no room for it.
const SILENT_NS: u64 = 50_000_000;
/// Until idle maps are looked for.
const SWEEP_NS: u64 = 1_000_000_000;

/// Why a reader is refused: its cluster is not in the registry.
pub const NOT_REGISTERED: RefusalCode = RefusalCode::Other(256);

/// What a forwarder needs to know.
#[derive(Clone, Debug)]
pub struct ForwarderConfig {
    /// Who this node is, for its welcomes.
    pub identity: Identity,
    /// Which of the ports owns a stream.
    pub route: Route,
    /// The CPU to run on, if any.
    pub cpu: Option<usize>,
    /// Bounds.
    pub limits: Limits,
    /// The region of this node, if what goes to clusters in other regions is compressed.
    pub compressed_from: Option<String>,
}

/// A connection that a shard handed over.
#[derive(Debug)]
pub struct Arrival {
    /// The driver's from now on.
    pub socket: Socket,
    /// By which the readers know it. None: write the answer as far as it goes, and close.
    pub reader: Option<ReaderId>,
    /// The first bytes to be sent.
    pub answer: Vec<u8>,
}

/// What a driver has to do.
#[derive(Debug)]
pub enum Work<M> {
    /// Queue a frame for a connection; say [`Exchange::on_sent`] as its bytes leave.
    Push {
        /// Which.
        reader: ReaderId,
        /// Head, or the whole of a small frame.
        head: Vec<u8>,
        /// What follows it.
        body: Body<M>,
    },
    /// There may be room again for one that did not listen or was not copied: move it once more.
    Ring {
        /// Which.
        reader: ReaderId,
    },
    /// Say by [`Exchange::on_probed`] how much of what was written its peer has not acknowledged.
    Probe {
        /// Which.
        reader: ReaderId,
    },
    /// End a connection now, then say [`Exchange::on_closed`].
    Abort {
        /// Which.
        reader: ReaderId,
    },
    /// Do what [`Exchange::load`] says.
    Load(Load<M>),
    /// Do this too, then say [`Exchange::on_warmed`]; a failure is met again by the reader that
    /// comes there.
    Ahead(Warming<M>),
}

/// A read of a sealed segment for one reader.
#[derive(Debug)]
pub struct Load<M> {
    reader: ReaderId,
    stream: u64,
    ticket: u64,
    extent: SealedExtent,
    want: Want,
    mapped: Option<Rc<Mapped<M>>>,
    /// Whether it is one of those that may wait for the disk.
    slow: bool,
}

/// What a [`Load`] needs next.
#[derive(Debug)]
pub enum Need<M> {
    /// Map this file, then say [`Exchange::on_mapped`].
    Map(Arc<Path>),
    /// Read this part from the disk, say [`Exchange::on_warmed`], then ask again.
    Warm(Warming<M>),
    /// Nothing: it is done.
    Nothing,
}

struct Port {
    side: ForwarderSide,
    /// Tells standbys what is closed in the streams of the shard.
    closing: Publisher<ReaderId>,
    /// Streams that the shard is to be told of: whether somebody reads them now.
    watches: BTreeMap<u64, bool>,
    /// Questions that found no room.
    backlog: VecDeque<ForwardRequest>,
    /// Questions of standbys among them.
    asks: usize,
}

/// See the [module](self). `M` is a mapped segment.
pub struct Exchange<M> {
    identity: Identity,
    readers: Readers,
    ports: Vec<Port>,
    /// Standbys that had no room for what is closed, and when it is said again.
    silent: BTreeSet<ReaderId>,
    silent_until: Option<Nanos>,
    /// Of which other cluster a reader is, and when it had everything last.
    clusters: BTreeMap<ReaderId, (u32, Nanos)>,
    /// Those among them that read compressed chunks.
    decompressing: BTreeSet<ReaderId>,
    compressed_from: Option<String>,
    registry: Arc<Registry>,
    /// When the feeds were reported last.
    reported: Nanos,
    maps: Maps<M>,
    windows: Windows<M>,
    /// Reads that wait for those that are under way.
    loads: VecDeque<Load<M>>,
    loading: usize,
    /// Segments out of which chunks were cut since the last turn.
    cut: Vec<(SealedExtent, Rc<Mapped<M>>)>,
    effects: Vec<Effect>,
}

/// Inputs.
impl<M: Deref<Target = [u8]>> Exchange<M> {
    /// No readers yet; one port per log shard, in the order of the shards.
    pub fn new(sides: Vec<ForwarderSide>, config: &ForwarderConfig) -> Exchange<M> {
        let readers = Readers::new(config.limits, sides.len(), config.route);
        let boot = config.identity.boot;
        let port = |side| {
            let (closing, watches) = (Publisher::new(boot), BTreeMap::new());
            Port { side, closing, watches, backlog: VecDeque::new(), asks: 0 }
        };
        Exchange {
            identity: config.identity,
            readers,
            ports: sides.into_iter().map(port).collect(),
            silent: BTreeSet::new(),
            silent_until: None,
            clusters: BTreeMap::new(),
            decompressing: BTreeSet::new(),
            compressed_from: config.compressed_from.clone(),
            registry: Arc::default(),
            reported: Nanos(0),
            maps: Maps::default(),
            windows: Windows::default(),
            loads: VecDeque::new(),
            loading: 0,
            cut: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Takes what the shards sent. Returns whether there may be more.
    pub fn take_events(&mut self, now: Nanos, arrivals: &mut Vec<Arrival>) -> bool {
        let mut more = false;
        for at in 0..self.ports.len() {
            while let Some(reply) = self.ports[at].side.pop_reply() {
                self.readers.on_located(&reply);
            }
            while let Some((reader, facts)) = self.ports[at].side.pop_facts() {
                self.readers.on_facts(reader, &facts);
            }
            self.readers.on_role_epoch(self.ports[at].side.role_epoch());
            if let Some(registry) = self.ports[at].side.pop_registry() {
                self.on_registry(registry);
            }
            if let Some(closed) = self.ports[at].side.pop_closed() {
                self.ports[at].closing.on_known(&closed);
                self.tell_closed(at);
            }
            let mut taken = 0;
            while taken < EVENTS_PER_TURN {
                let Some(event) = self.ports[at].side.pop_event() else { break };
                self.on_event(event, now, arrivals);
                taken += 1;
            }
            more |= taken == EVENTS_PER_TURN;
        }
        more
    }

    /// Whether a shard sent something. To be looked at after arming the bell, before sleeping.
    pub fn has_events(&self) -> bool {
        !self.ports.iter().all(|port| port.side.is_empty())
    }

    fn on_event(&mut self, event: ForwardEvent, now: Nanos, arrivals: &mut Vec<Arrival>) {
        match event {
            ForwardEvent::Connection { socket, hello } => {
                let (reader, answer) = match self.admit(hello.from.cluster, now) {
                    Ok(reader) => {
                        self.on_features(reader, hello.features);
                        (Some(reader), Welcome::new(self.identity).encode())
                    }
                    Err(refusal) => (None, refusal.encode()),
                };
                arrivals.push(Arrival { socket, reader, answer });
            }
            ForwardEvent::Committed { stream, upto, shown, base } => {
                self.readers.on_committed(stream, upto, base);
                self.readers.on_shown(stream, shown);
            }
            ForwardEvent::Tail(recent) => self.readers.on_tail(recent),
            ForwardEvent::StreamGone { stream } => self.readers.on_gone(stream),
        }
    }

    /// Takes a reader in: one of this cluster, of none, or of a cluster that may be served.
    pub(crate) fn admit(&mut self, cluster: u32, now: Nanos) -> Result<ReaderId, Refusal> {
        let foreign = cluster != 0 && cluster != self.identity.cluster;
        if foreign && !self.registry.serves(cluster) {
            let text = format!(
                "cluster {cluster} is no registered standby; at the primary: palisade standby \
                 add --cluster {cluster} --name S --region R --endpoint H:P --transfer sync|async"
            );
            return Err(Refusal::new(NOT_REGISTERED, text));
        }
        let reader = self.readers.on_open(if foreign { cluster } else { 0 }, now);
        let reader = reader.ok_or_else(|| Refusal::new(RefusalCode::Busy, "too many readers"))?;
        if foreign {
            self.clusters.insert(reader, (cluster, now));
            self.report_feeds(now);
        }
        Ok(reader)
    }

    /// What a reader understands, as it says in its greeting.
    pub(crate) fn on_features(&mut self, reader: ReaderId, features: u8) {
        if features & FEATURE_LZ4 != 0 && self.clusters.contains_key(&reader) {
            self.decompressing.insert(reader);
            self.choose_compression();
        }
    }

    /// Who is in another region by the registry gets compressed chunks, if it can read them.
    fn choose_compression(&mut self) {
        let Some(own) = &self.compressed_from else { return };
        for &reader in &self.decompressing {
            let region = self.registry.region(self.clusters[&reader].0);
            let is_far = region.is_some_and(|region| region != own);
            self.readers.on_compressed(reader, is_far);
        }
    }

    /// Other clusters may be served from now on: those that may not be are hung up on.
    pub(crate) fn on_registry(&mut self, registry: Arc<Registry>) {
        self.registry = registry;
        for (&reader, &(cluster, _)) in &self.clusters {
            if !self.registry.serves(cluster) {
                self.readers.on_unwanted(reader);
            }
        }
        self.choose_compression();
    }

    /// Tells standbys what is new of what is closed.
    fn tell_closed(&mut self, port: usize) {
        let mut news = Vec::new();
        self.ports[port].closing.poll(&mut news);
        for (reader, news) in news {
            let is_silent = self.silent.contains(&reader);
            if is_silent || !self.readers.on_closed_news(reader, &news, port) {
                self.ports[port].closing.on_link_down(reader);
                self.silent.insert(reader);
            }
        }
    }

    /// Those that had no room for what is closed hear it now, from the start.
    fn tell_silent(&mut self, now: Nanos) {
        if self.silent.is_empty() {
            return;
        }
        let at = *self.silent_until.get_or_insert(now.after(SILENT_NS));
        if at <= now {
            self.silent_until = None;
            std::mem::take(&mut self.silent).into_iter().for_each(|reader| self.tell_anew(reader));
        }
    }

    /// A standby takes streams here: it hears what is closed in them.
    fn tell_anew(&mut self, reader: ReaderId) {
        for at in 0..self.ports.len() {
            let port = &mut self.ports[at];
            if !port.closing.tells(reader) {
                port.closing.on_link_up(reader);
                port.side.want_closed();
                self.tell_closed(at);
            }
        }
    }

    /// What other clusters take here, for status.
    fn report_feeds(&mut self, now: Nanos) {
        let mut feeds: BTreeMap<u32, Feed> = BTreeMap::new();
        for (&reader, (cluster, level)) in &mut self.clusters {
            let (cluster, lag_bytes) = (*cluster, self.readers.lag_bytes(reader));
            if lag_bytes == 0 {
                *level = now;
            }
            let feed = feeds.entry(cluster).or_insert(Feed { cluster, ..Feed::default() });
            feed.connections += 1;
            feed.lag_bytes += lag_bytes;
            feed.lag_us = feed.lag_us.max(now.since(*level) / 1000);
        }
        self.reported = now;
        let feeds: Vec<Feed> = feeds.into_values().collect();
        let stats = self.readers.stats();
        let compression = (stats.compressions > 0).then_some(CompressionStatus {
            compressions: stats.compressions,
            plain_bytes: stats.bytes_plain,
            sent_bytes: stats.bytes_compressed,
        });
        self.ports.iter_mut().for_each(|port| port.side.set_feeds(&feeds, compression));
    }

    /// Whether what a reader says is to be read. If not, [`Work::Ring`] says when to ask again.
    pub fn listens(&mut self, reader: ReaderId) -> bool {
        self.readers.listens(reader)
    }

    /// So many of the bytes that left for a reader were not acknowledged by its peer yet.
    pub fn on_probed(&mut self, reader: ReaderId, unacknowledged: u64, now: Nanos) {
        self.readers.on_probed(reader, unacknowledged, now);
    }

    /// A reader said something.
    pub fn on_said(&mut self, reader: ReaderId, said: FromReader) {
        match said {
            FromReader::Fetch(fetch) => {
                self.readers.on_fetch(reader, &fetch);
                if self.clusters.contains_key(&reader) {
                    self.tell_anew(reader);
                }
            }
            FromReader::Credit { stream, bytes } => self.readers.on_credit(reader, stream, bytes),
            FromReader::Stop { stream } => self.readers.on_stop(reader, stream),
            FromReader::Ask(question) => self.readers.on_ask(reader, &question),
        }
        self.take_asks();
    }

    /// Not in the next turn: readers may say much until then, and the ports keep count.
    fn take_asks(&mut self) {
        for (shard, request) in self.readers.take_asks() {
            self.ask(shard, request);
        }
    }

    fn ask(&mut self, shard: usize, request: ForwardRequest) {
        let asks_max = ASKS_MAX / self.ports.len();
        self.ports[shard].push(request, asks_max);
    }

    /// So many bytes, the last ones of so many frames, left for a reader.
    pub fn on_sent(&mut self, reader: ReaderId, bytes: u64, frames: usize, now: Nanos) {
        self.readers.on_sent(reader, bytes, frames, now);
    }

    /// A reader takes no more for now. Whether what waits for it is to be copied, by
    /// [`Outflow::on_blocked`](super::flow::Outflow::on_blocked).
    pub fn on_blocked(&mut self, reader: ReaderId) -> bool {
        self.readers.on_blocked(reader)
    }

    /// A reader's connection ended.
    pub fn on_closed(&mut self, reader: ReaderId) {
        self.readers.on_closed(reader);
        self.take_asks();
        self.loads.retain(|load| load.reader != reader);
        if self.clusters.remove(&reader).is_some() {
            self.decompressing.remove(&reader);
            self.silent.remove(&reader);
            self.ports.iter_mut().for_each(|port| port.closing.on_link_down(reader));
            self.report_feeds(self.reported);
        }
    }

    /// Time passed.
    pub fn on_time(&mut self, now: Nanos) {
        self.readers.on_time(now);
        self.tell_silent(now);
        self.report_feeds(now);
        self.maps.sweep(now);
    }

    /// When [`on_time`](Exchange::on_time) and a turn are due.
    pub fn next_time(&self, now: Nanos) -> Option<Nanos> {
        let waits = self.ports.iter().any(Port::waits);
        let again = waits.then(|| now.after(AGAIN_NS));
        let silent = (!self.silent.is_empty()).then(|| self.silent_until.unwrap_or(now));
        let at = self.readers.next_time().into_iter().chain(again).chain(silent).min();
        at.or_else(|| (!self.maps.is_empty()).then(|| now.after(SWEEP_NS)))
    }

    /// The node stops: every cursor ends.
    pub fn on_shutdown(&mut self) {
        self.readers.on_shutdown();
        self.loads.clear();
    }

    /// Gives back every lease that no load and no frame holds.
    pub fn let_go(&mut self) {
        self.maps.clear();
        self.cut.clear();
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        let stats = self.readers.stats();
        Stats { memory: stats.memory + self.windows.bytes(), ..stats }
    }
}

/// Turns.
impl<M: Deref<Target = [u8]>> Exchange<M> {
    /// Lets readers take their turns and says what is to be done, in this order. Returns whether
    /// more is ready.
    pub fn turn(&mut self, now: Nanos, work: &mut Vec<Work<M>>) -> bool {
        // What was cut before this turn is sent in it.
        let cut = std::mem::take(&mut self.cut);
        let mut effects = std::mem::take(&mut self.effects);
        let mut more = self.readers.poll(now, TURNS_MAX, &mut effects);
        for effect in effects.drain(..) {
            more |= self.apply(effect, &cut, now, work);
        }
        self.effects = effects;
        more |= self.begin_loads(now, work);
        self.send_requests();
        more
    }

    /// Begins reads that waited. Returns whether the readers have news at once.
    fn begin_loads(&mut self, now: Nanos, work: &mut Vec<Work<M>>) -> bool {
        let mut more = false;
        while self.loading < LOADS_MAX {
            let Some(mut load) = self.loads.pop_front() else { break };
            // Others may have read the same meanwhile.
            let known = self.maps.get(&load.extent, now);
            if known.is_some_and(|mapped| mapped.cold(load.extent.expect.offset).is_none()) {
                self.load(&mut load, now);
                more = true;
                continue;
            }
            self.loading += 1;
            load.slow = true;
            work.push(Work::Load(load));
        }
        more
    }

    /// Returns whether the readers have news at once.
    fn apply(
        &mut self,
        effect: Effect,
        cut: &[(SealedExtent, Rc<Mapped<M>>)],
        now: Nanos,
        work: &mut Vec<Work<M>>,
    ) -> bool {
        match effect {
            Effect::Send { reader, head, source } => {
                let body = match source {
                    Source::Compressed(made) => Body::Compressed(made),
                    Source::View { view, range } => Body::View(view, range),
                    Source::Mapped { extent, range } => {
                        let is_it = |known: &&(SealedExtent, _)| known.0.expect == extent.expect;
                        let (_, mapped) = cut.iter().find(is_it).expect("it was just cut");
                        Body::Mapped(mapped.clone(), range)
                    }
                };
                work.push(Work::Push { reader, head: head.encode(), body });
            }
            Effect::Say { reader, frame } => {
                work.push(Work::Push { reader, head: frame, body: Body::None });
            }
            Effect::Ask { shard, request } => self.ask(shard, request),
            Effect::Retry { reader } => work.push(Work::Ring { reader }),
            Effect::Probe { reader } => work.push(Work::Probe { reader }),
            Effect::Close { reader, .. } => work.push(Work::Abort { reader }),
            Effect::Read { reader, stream, ticket, extent, want } => {
                // What is in memory is cut at once; a reader of cold bytes never stops others.
                let mapped = self.maps.get(&extent, now);
                let warm =
                    mapped.as_ref().filter(|mapped| mapped.cold(extent.expect.offset).is_none());
                let Some(mapped) = warm.cloned() else {
                    let (mapped, slow) = (None, false);
                    let load = Load { reader, stream, ticket, extent, want, mapped, slow };
                    self.loads.push_back(load);
                    return false;
                };
                let (offset, slow) = (extent.expect.offset, false);
                let held = Some(mapped.clone());
                let mut load = Load { reader, stream, ticket, extent, want, mapped: held, slow };
                self.load(&mut load, now);
                // After it: what was just used is not what goes.
                work.extend(self.windows.ahead(&mapped, offset).map(Work::Ahead));
                return true;
            }
        }
        false
    }

    /// Moves a read on as far as it goes without the disk.
    pub fn load(&mut self, load: &mut Load<M>, now: Nanos) -> Need<M> {
        let offset = load.extent.expect.offset;
        // Another reader may have been faster.
        let known = load.mapped.take().or_else(|| self.maps.get(&load.extent, now));
        let Some(mapped) = known else { return Need::Map(load.extent.path.clone()) };
        load.mapped = Some(mapped.clone());
        if let Some(range) = mapped.cold(offset) {
            return Need::Warm(self.windows.warm(mapped, range));
        }
        self.windows.touch(&mapped, offset);
        let found = mapped.cut(&load.extent, &load.want);
        if let Ok(found) = &found {
            let records = &mapped.map[found.range.clone()];
            self.readers.on_records(load.reader, load.stream, found, records);
            self.cut.push((load.extent.clone(), mapped));
        }
        self.found(load, found);
        Need::Nothing
    }

    /// A part of a segment was read from the disk, or could not be.
    pub fn on_warmed(&mut self, warming: &Warming<M>, read: bool) {
        self.windows.on_warmed(warming, read);
    }

    /// The segment that a read needed is mapped; [`load`](Exchange::load) goes on.
    pub fn on_mapped(&mut self, load: &mut Load<M>, map: M, now: Nanos) {
        let known = self.maps.get(&load.extent, now);
        let mapped = known.unwrap_or_else(|| Rc::new(Mapped::new(map, &load.extent)));
        self.maps.put(&load.extent, mapped.clone(), now);
        load.mapped = Some(mapped);
    }

    /// The disk failed.
    pub fn on_load_failed(&mut self, load: &Load<M>) {
        self.found(load, Err(NoCut::Damaged));
    }

    fn found(&mut self, load: &Load<M>, found: Result<Cut, NoCut>) {
        self.loading -= usize::from(load.slow);
        self.readers.on_read(load.reader, load.stream, load.ticket, found);
    }

    fn send_requests(&mut self) {
        for port in &mut self.ports {
            if port.send() {
                port.side.wake();
            }
        }
    }
}

impl Port {
    fn push(&mut self, request: ForwardRequest, asks_max: usize) {
        let (stream, read) = match request {
            ForwardRequest::Watch { stream } => (stream, true),
            ForwardRequest::Unwatch { stream } => (stream, false),
            // A question of a standby that is not answered is asked again.
            ForwardRequest::Ask { .. } if self.asks + self.side.asks_waiting() >= asks_max => {
                return;
            }
            ForwardRequest::Ask { .. } | ForwardRequest::Locate(_) => {
                self.asks += usize::from(matches!(request, ForwardRequest::Ask { .. }));
                return self.backlog.push_back(request);
            }
        };
        // What was not said yet and is over is not said: the shard goes on as before.
        if self.watches.get(&stream).is_some_and(|&said| said != read) {
            self.watches.remove(&stream);
        } else {
            self.watches.insert(stream, read);
        }
    }

    fn waits(&self) -> bool {
        !self.watches.is_empty() || !self.backlog.is_empty()
    }

    /// Streams first: no commit is missed after the answer to a question. Returns whether
    /// anything was sent.
    fn send(&mut self) -> bool {
        let mut sent = false;
        while let Some((&stream, &read)) = self.watches.first_key_value() {
            let request = match read {
                true => ForwardRequest::Watch { stream },
                false => ForwardRequest::Unwatch { stream },
            };
            if self.side.request(request).is_err() {
                return sent;
            }
            self.watches.pop_first();
            sent = true;
        }
        while let Some(request) = self.backlog.pop_front() {
            let asks = usize::from(matches!(request, ForwardRequest::Ask { .. }));
            if let Err(request) = self.side.request(request) {
                self.backlog.push_front(request);
                break;
            }
            self.asks -= asks;
            sent = true;
        }
        trim(&mut self.backlog);
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Term;
    use crate::forward::limits::LOCATES_MAX;
    use crate::forward::queue::port;
    use crate::forward::wire::Fetch;
    use crate::transfer::facts::{Place, Question, Wanted};
    use palisade_wal::Lsn;

    const SHARDS: usize = 16;

    fn ask(stream: u64) -> FromReader {
        let from =
            Place { cluster: 7, node: 1, region: "hz".into(), addr: ([1, 2, 3, 4], 5).into() };
        let streams = vec![Wanted { stream, across: false, has: Lsn::ZERO }];
        FromReader::Ask(Box::new(Question { number: 1, from, known: Term::NONE, streams }))
    }

    #[test]
    fn questions_of_standbys_are_counted_by_themselves_and_bounded_at_once() {
        let (mut ports, sides): (Vec<_>, Vec<_>) = (0..SHARDS).map(|_| port()).unzip();
        let (identity, limits) = (Identity::default(), Limits::default());
        let config =
            ForwarderConfig { identity, route: |_, _| 0, cpu: None, limits, compressed_from: None };
        let mut exchange: Exchange<Vec<u8>> = Exchange::new(sides, &config);
        let reader = exchange.admit(0, Nanos(0)).unwrap();
        // As many questions about places as there may be, all of one shard.
        for stream in 0..2 * LOCATES_MAX as u64 {
            let (from, to, follow, credit_bytes) = (Lsn(0), Lsn::MAX, true, 1);
            let fetch = Fetch { stream, from, to, follow, base: None, credit_bytes };
            exchange.on_said(reader, FromReader::Fetch(fetch));
        }
        let mut work = Vec::new();
        while exchange.turn(Nanos(0), &mut work) {}
        let (max, place) = (ASKS_MAX / SHARDS, exchange.ports[0].backlog.len());
        for _ in 0..10_000 {
            exchange.on_said(reader, ask(3));
        }
        assert_eq!(exchange.readers.take_asks(), [], "nothing waits for a turn");
        assert_eq!(exchange.ports[0].backlog.len(), place + max);
        exchange.turn(Nanos(0), &mut work);
        exchange.on_said(reader, ask(3));
        exchange.turn(Nanos(0), &mut work);
        while ports[0].poll_request().is_some() {}
        let taken = std::iter::from_fn(|| ports[0].poll_question()).count();
        assert_eq!(taken, max, "those that the shard has not taken up count too");
        exchange.on_said(reader, ask(3));
        exchange.turn(Nanos(0), &mut work);
        while ports[0].poll_request().is_some() {}
        assert!(ports[0].poll_question().is_some());
    }
}
