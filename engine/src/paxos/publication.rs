//! Closed SCNs on their way from a shard that leads streams to the same shard of other nodes: one
//! t for all of them, and the positions that moved.
//!
//! What was said once stays true for ever, so that a receiver forgets nothing: not when a stream
//! gets another leader, nor when a link ends. Frames of a session are numbered; after a missing
//! one nothing is taken until the next session, which names every stream anew.

use std::collections::{BTreeMap, BTreeSet};

use palisade_netio::limits::FRAME_BODY_MAX;
use palisade_wal::Lsn;
use zerocopy::little_endian::U64;

use super::closed::Closed;
use super::codec::{DecodeError, Reader, SCN_MAX, fixed, put};

/// Most positions of one frame.
pub const ENDS_MAX: usize = 2048;
/// Most streams of one sender.
const STREAMS_MAX: usize = 1 << 20;
/// In the place of a position: the stream is not the sender's any more.
const GONE: u64 = u64::MAX;

fixed! {
    /// So many ends follow.
    NewsHead: 32 { session: U64, number: U64, scn: U64, ends: U64 }
    RawEnd: 16 { stream: U64, end: U64 }
}

const _: () = assert!(
    size_of::<NewsHead>() + ENDS_MAX * size_of::<RawEnd>() <= FRAME_BODY_MAX,
    "the longest news fit a frame"
);
const _: () = assert!(ENDS_MAX <= STREAMS_MAX);
const _: () = assert!(!GONE.is_multiple_of(Lsn::ALIGN), "no position");

/// What is closed in the streams that the sender leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedNews {
    /// Grows when the streams are named anew, and with each start of the sender.
    pub session: u64,
    /// Counts the frames of the session from 1.
    pub number: u64,
    /// No stream of the sender has this SCN, or a lower one, above its position.
    pub scn: u64,
    /// Positions that moved; none where the sender leads no more.
    pub ends: Vec<(u64, Option<Lsn>)>,
}

/// The sender's side. `K` names a receiver: a node, or a connection.
#[derive(Debug)]
pub struct Publisher<K = u32> {
    boot: u64,
    sessions: u64,
    scn: u64,
    ends: BTreeMap<u64, Lsn>,
    /// Streams with less than what was said of the others, which wait until they have it.
    left_out: BTreeSet<u64>,
    /// By receiver: what it was told.
    told: BTreeMap<K, Told>,
}

impl<K> Default for Publisher<K> {
    fn default() -> Publisher<K> {
        let (ends, left_out, told) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Publisher { boot: 0, sessions: 0, scn: 0, ends, left_out, told }
    }
}

#[derive(Debug, Default)]
struct Told {
    session: u64,
    number: u64,
    scn: u64,
    moved: BTreeSet<u64>,
}

/// The receiver's side, and what is closed here.
#[derive(Debug, Default)]
pub struct Published {
    /// By node.
    heard: BTreeMap<u32, Heard>,
    /// What stays true of streams that their senders lead no more.
    kept: BTreeMap<u64, Closed>,
}

#[derive(Debug, Default)]
struct Heard {
    session: u64,
    number: u64,
    scn: u64,
    ends: BTreeMap<u64, Lsn>,
}

impl<K: Ord + Copy> Publisher<K> {
    /// Nothing is closed. `boot` is how often this node was started.
    pub fn new(boot: u64) -> Publisher<K> {
        Publisher { boot, ..Publisher::default() }
    }

    /// What is closed in each stream that is led now, and in no other.
    pub fn on_closed(&mut self, streams: &BTreeMap<u64, Closed>) {
        assert!(streams.values().all(|closed| closed.scn <= SCN_MAX), "an SCN above them all");
        let known = std::mem::take(&mut self.ends);
        for stream in known.keys().filter(|stream| !streams.contains_key(stream)) {
            self.moved(*stream);
        }
        // Who was not there before comes when it has what was said of the others.
        let joined = |(stream, closed): &(&u64, &Closed)| {
            known.contains_key(stream) || (closed.scn > 0 && closed.scn >= self.scn)
        };
        let joined: Vec<(u64, Closed)> =
            streams.iter().filter(joined).map(|(stream, closed)| (*stream, *closed)).collect();
        let least = joined.iter().map(|(_, closed)| closed.scn).min().unwrap_or(0);
        let before = self.scn;
        self.scn = before.max(least);
        for (stream, closed) in joined {
            // What was said of it holds, also where less can be said now.
            let end = match known.get(&stream) {
                Some(&end) if closed.scn < self.scn => end,
                _ => closed.end,
            };
            if known.get(&stream) != Some(&end) {
                self.moved(stream);
            }
            self.ends.insert(stream, end);
        }
        assert!(self.scn >= before, "a closed SCN goes up");
        assert!(self.ends.keys().all(|stream| streams.contains_key(stream)));
    }

    /// As [`on_closed`](Publisher::on_closed), where nobody closes more of a stream because it is
    /// left out: for that of which less is known than was said of the others, everything is said
    /// anew, with less.
    pub fn on_known(&mut self, streams: &BTreeMap<u64, Closed>) {
        self.on_closed(streams);
        let out = streams.iter().filter(|(stream, _)| !self.ends.contains_key(stream));
        let out: BTreeSet<u64> =
            out.filter(|(_, closed)| closed.scn > 0).map(|(stream, _)| *stream).collect();
        let before = std::mem::replace(&mut self.left_out, out);
        if self.left_out.is_subset(&before) {
            return;
        }
        self.left_out.clear();
        (self.scn, self.ends) = (0, BTreeMap::new());
        let receivers: Vec<K> = self.told.keys().copied().collect();
        receivers.into_iter().for_each(|receiver| self.on_link_up(receiver));
        self.on_closed(streams);
        assert!(self.ends.len() == streams.values().filter(|closed| closed.scn > 0).count());
        assert!(self.told.values().all(|told| told.number == 0), "begins anew with everyone");
    }

    /// Whether that receiver is told.
    pub fn tells(&self, receiver: K) -> bool {
        let told = |told: &Told| told.scn <= self.scn;
        assert!(self.told.get(&receiver).is_none_or(told), "told more than is closed");
        self.told.contains_key(&receiver)
    }

    fn moved(&mut self, stream: u64) {
        for told in self.told.values_mut() {
            told.moved.insert(stream);
        }
        assert!(self.told.values().all(|told| told.scn <= self.scn), "told more than is closed");
    }

    /// What all streams led here have closed.
    pub fn closed(&self, stream: u64) -> Option<Closed> {
        assert!(self.scn > 0 || self.ends.is_empty(), "an end with nothing closed below it");
        self.ends.get(&stream).map(|&end| Closed { scn: self.scn, end })
    }

    /// A peer can be told: everything anew.
    pub fn on_link_up(&mut self, node: K) {
        self.sessions += 1;
        let session = (self.boot << 32) + self.sessions;
        let moved = self.ends.keys().copied().collect();
        let told = Told { session, moved, ..Told::default() };
        self.told.insert(node, told);
        assert!(
            self.told.get(&node).is_some_and(|told| told.number == 0),
            "its first frame is to come"
        );
        assert!(session >> 32 == self.boot, "more sessions than a start has numbers");
    }

    /// A peer cannot be told.
    pub fn on_link_down(&mut self, node: K) {
        let told = self.told.remove(&node);
        assert!(told.is_none_or(|told| told.scn <= self.scn), "told more than is closed");
    }

    /// What is to be sent. A frame that cannot be sent ends the session: say
    /// [`on_link_up`](Publisher::on_link_up).
    pub fn poll(&mut self, out: &mut Vec<(K, ClosedNews)>) {
        for (&node, told) in &mut self.told {
            if self.scn == 0 || (told.scn == self.scn && told.moved.is_empty()) {
                continue;
            }
            let moved: Vec<u64> = std::mem::take(&mut told.moved).into_iter().collect();
            let end = |stream: &u64| (*stream, self.ends.get(stream).copied());
            let mut parts: Vec<Vec<(u64, Option<Lsn>)>> =
                moved.chunks(ENDS_MAX).map(|part| part.iter().map(end).collect()).collect();
            if parts.is_empty() {
                parts.push(Vec::new());
            }
            let count = parts.len();
            for (at, ends) in parts.into_iter().enumerate() {
                told.number += 1;
                // The new SCN counts for positions of the last frame too.
                let scn = if at + 1 == count { self.scn } else { told.scn };
                let (session, number) = (told.session, told.number);
                assert!(ends.len() <= ENDS_MAX && scn >= told.scn);
                out.push((node, ClosedNews { session, number, scn, ends }));
            }
            told.scn = self.scn;
            assert!(told.moved.is_empty() && told.number > 0);
        }
    }
}

impl Published {
    /// A sender says what is closed. False when it says what makes no sense.
    pub fn on_news(&mut self, from: u32, news: &ClosedNews) -> bool {
        let heard = self.heard.entry(from).or_default();
        if news.number == 1 && news.session > heard.session {
            let (scn, ends) = (heard.scn, std::mem::take(&mut heard.ends));
            *heard = Heard { session: news.session, ..Heard::default() };
            for (stream, end) in ends {
                keep(&mut self.kept, stream, Closed { scn, end });
            }
        } else if news.session != heard.session || news.number != heard.number + 1 {
            return true;
        }
        if news.scn < heard.scn {
            return false;
        }
        assert!(heard.session == news.session, "of another session");
        heard.number = news.number;
        for (stream, end) in &news.ends {
            let before = heard.ends.remove(stream);
            if let Some(end) = before {
                keep(&mut self.kept, *stream, Closed { scn: heard.scn, end });
            }
            if let Some(end) = *end {
                heard.ends.insert(*stream, end);
            }
        }
        heard.scn = news.scn;
        assert!(heard.number >= 1 && heard.scn <= SCN_MAX, "checked when it was read");
        heard.ends.len() <= STREAMS_MAX && self.kept.len() <= STREAMS_MAX
    }

    /// This node led the stream and leads it no more.
    pub fn keep(&mut self, stream: u64, closed: Closed) {
        assert!(closed.scn <= SCN_MAX, "an SCN above them all");
        keep(&mut self.kept, stream, closed);
    }

    /// The newest that is known of a stream.
    pub fn closed(&self, stream: u64) -> Option<Closed> {
        let heard = self
            .heard
            .values()
            .filter_map(|heard| heard.ends.get(&stream).map(|&end| Closed { scn: heard.scn, end }));
        heard.chain(self.kept.get(&stream).copied()).max_by_key(|closed| closed.scn)
    }
}

fn keep(kept: &mut BTreeMap<u64, Closed>, stream: u64, closed: Closed) {
    let known = kept.entry(stream).or_default();
    let before = known.scn;
    if closed.scn > known.scn {
        *known = closed;
    }
    assert!(known.scn >= before, "a closed SCN goes up");
    assert!(known.scn >= closed.scn, "what is closed stays closed");
}

impl ClosedNews {
    /// Appends the encoding.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        assert!(self.ends.len() <= ENDS_MAX, "more positions than a frame takes");
        assert!(self.number > 0 && self.scn <= SCN_MAX, "what the reader insists on");
        let start = out.len();
        let (session, number, scn) = (self.session.into(), self.number.into(), self.scn.into());
        put(out, &NewsHead { session, number, scn, ends: (self.ends.len() as u64).into() });
        for (stream, end) in &self.ends {
            assert!(end.is_none_or(|end| end <= Lsn::MAX), "no position");
            let end = end.map_or(GONE, |end| end.0).into();
            put(out, &RawEnd { stream: (*stream).into(), end });
        }
        assert!(out.len() - start == 32 + 16 * self.ends.len(), "news of another length");
    }

    /// Reads exactly one encoding.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn decode(bytes: &[u8]) -> Result<ClosedNews, DecodeError> {
        let mut reader = Reader::new(bytes);
        let head: &NewsHead = reader.head()?;
        let (session, number, scn) = (head.session.get(), head.number.get(), head.scn.get());
        let count = head.ends.get();
        if count > ENDS_MAX as u64 {
            return Err(DecodeError::TooLong);
        }
        let mut ends = Vec::new();
        for RawEnd { stream, end } in reader.list(count as usize)? {
            let (stream, end) = (stream.get(), end.get());
            let sound = end == GONE || (Lsn(end) <= Lsn::MAX && end.is_multiple_of(Lsn::ALIGN));
            if !sound {
                return Err(DecodeError::Inconsistent);
            }
            ends.push((stream, (end != GONE).then_some(Lsn(end))));
        }
        reader.finish()?;
        assert!(ends.len() as u64 == count && bytes.len() == 32 + 16 * ends.len());
        if scn > SCN_MAX || number == 0 || number == u64::MAX {
            return Err(DecodeError::Inconsistent);
        }
        Ok(ClosedNews { session, number, scn, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(of: &[(u64, u64, u64)]) -> BTreeMap<u64, Closed> {
        of.iter().map(|&(stream, scn, end)| (stream, Closed { scn, end: Lsn(end) })).collect()
    }

    /// Sends what is due over the codec; `lost` names frames by their place.
    fn pass(from: &mut Publisher, to: &mut Published, lost: &[usize]) -> usize {
        let mut out = Vec::new();
        from.poll(&mut out);
        for (at, (node, news)) in out.iter().enumerate() {
            let mut bytes = Vec::new();
            news.encode_into(&mut bytes);
            let read = ClosedNews::decode(&bytes).unwrap();
            assert_eq!((*node, &read), (2, news));
            assert!(lost.contains(&at) || to.on_news(1, &read));
        }
        out.len()
    }

    #[test]
    fn one_scn_goes_for_all_streams_with_the_ends_that_moved() {
        let (mut from, mut to) = (Publisher::new(1), Published::default());
        from.on_link_up(2);
        assert_eq!(pass(&mut from, &mut to, &[]), 0, "nothing is closed");
        from.on_closed(&streams(&[(5, 10, 64), (6, 12, 128)]));
        assert_eq!(pass(&mut from, &mut to, &[]), 1);
        assert_eq!(to.closed(6), Some(Closed { scn: 10, end: Lsn(128) }));
        from.on_closed(&streams(&[(5, 20, 64), (6, 21, 256)]));
        let mut out = Vec::new();
        from.poll(&mut out);
        assert_eq!(out[0].1.ends, [(6, Some(Lsn(256)))]);
        assert!(to.on_news(1, &out[0].1));
        assert_eq!(to.closed(5), Some(Closed { scn: 20, end: Lsn(64) }));
        assert_eq!(pass(&mut from, &mut to, &[]), 0, "nothing moved");
    }

    #[test]
    fn a_stream_that_is_led_elsewhere_keeps_what_was_said_of_it_and_no_more() {
        let (mut from, mut to) = (Publisher::new(1), Published::default());
        from.on_link_up(2);
        from.on_closed(&streams(&[(5, 10, 64), (6, 10, 64)]));
        pass(&mut from, &mut to, &[]);
        from.on_closed(&streams(&[(6, 30, 64)]));
        pass(&mut from, &mut to, &[]);
        assert_eq!(to.closed(5).unwrap().scn, 10);
        assert_eq!(to.closed(6).unwrap().scn, 30);
        // One that came newly, with less than what was said of the others, waits.
        from.on_closed(&streams(&[(6, 40, 64), (7, 20, 0)]));
        pass(&mut from, &mut to, &[]);
        assert_eq!((to.closed(6).unwrap().scn, to.closed(7)), (40, None));
        // One of which less is known than before holds the others back, and loses nothing.
        from.on_closed(&streams(&[(6, 15, 128), (7, 50, 0)]));
        pass(&mut from, &mut to, &[]);
        assert_eq!(to.closed(6), Some(Closed { scn: 40, end: Lsn(64) }));
    }

    #[test]
    fn a_relay_says_everything_anew_for_a_stream_that_came_late() {
        let (mut from, mut to) = (Publisher::new(1), Published::default());
        from.on_link_up(2);
        from.on_known(&streams(&[(5, 30, 64)]));
        pass(&mut from, &mut to, &[]);
        // Its leader closes no more: nothing is given there.
        let both = streams(&[(5, 30, 64), (6, 20, 128)]);
        from.on_known(&both);
        pass(&mut from, &mut to, &[]);
        assert_eq!(to.closed(5), Some(Closed { scn: 30, end: Lsn(64) }), "nothing is forgotten");
        assert_eq!(to.closed(6), Some(Closed { scn: 20, end: Lsn(128) }));
        from.on_known(&both);
        assert_eq!(pass(&mut from, &mut to, &[]), 0, "once");
        // What is not closed at all is waited for.
        from.on_known(&streams(&[(5, 40, 64), (6, 40, 128), (7, 0, 0)]));
        assert_eq!(pass(&mut from, &mut to, &[]), 1);
        assert_eq!((to.closed(6).unwrap().scn, to.closed(7)), (40, None));
    }

    #[test]
    fn after_a_lost_frame_nothing_is_taken_until_all_is_said_anew() {
        let (mut from, mut to) = (Publisher::new(1), Published::default());
        from.on_link_up(2);
        from.on_closed(&streams(&[(5, 10, 64)]));
        pass(&mut from, &mut to, &[]);
        from.on_closed(&streams(&[(5, 20, 128)]));
        pass(&mut from, &mut to, &[0]);
        from.on_closed(&streams(&[(5, 30, 128)]));
        pass(&mut from, &mut to, &[]);
        assert_eq!(to.closed(5), Some(Closed { scn: 10, end: Lsn(64) }), "30 above 128, not 64");
        from.on_link_up(2);
        pass(&mut from, &mut to, &[]);
        assert_eq!(to.closed(5), Some(Closed { scn: 30, end: Lsn(128) }));
        assert!(ClosedNews::decode(&[0; 31]).is_err());
    }
}
