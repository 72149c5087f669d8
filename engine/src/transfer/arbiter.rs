//! Who asks here, and which standby is to receive a stream across a border.
//!
//! The shard that leads a stream at the primary arbitrates: of the standby clusters in one region
//! that ask for a stream, one is to receive it across; the others take it from that one. Who comes
//! first is named, and stays named while it asks; one that receives it across already goes before
//! one that does not, and of several that do the lowest cluster id stays. A word, not a lock: who
//! finds the one named useless crosses by itself, and is named soon.

use std::collections::BTreeMap;

use palisade_netio::Nanos;

use super::facts::{Place, Question};
use super::limits::{ASKER_NS, ASKERS_MAX, GRANTS_MAX};

#[derive(Clone, Debug)]
struct Asker {
    place: Place,
    heard: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    cluster: u32,
    across: bool,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Arbiter {
    /// By cluster and node.
    askers: BTreeMap<(u32, u32), Asker>,
    /// By stream and region.
    grants: BTreeMap<(u64, String), Grant>,
}

impl Arbiter {
    /// A standby asks. `leads` says whether a stream is led here, by the primary.
    pub fn on_asked(
        &mut self,
        question: &Question,
        region: &str,
        now: Nanos,
        leads: impl Fn(u64) -> bool,
    ) {
        let from = &question.from;
        self.askers.retain(|_, asker| now.since(asker.heard) <= ASKER_NS);
        // Who asks of no stream takes none.
        if question.streams.is_empty() {
            return;
        }
        let key = (from.cluster, from.node);
        if self.askers.len() < ASKERS_MAX || self.askers.contains_key(&key) {
            self.askers.insert(key, Asker { place: from.clone(), heard: now });
        }
        let Arbiter { askers, grants } = self;
        let asks = |cluster| askers.range((cluster, 0)..=(cluster, u32::MAX)).next().is_some();
        // What is said of streams that others lead now is left to be overruled.
        if grants.len() >= GRANTS_MAX {
            grants.retain(|(stream, _), grant| leads(*stream) && asks(grant.cluster));
        }
        for wanted in &question.streams {
            if from.region == region || !leads(wanted.stream) {
                continue;
            }
            let key = (wanted.stream, from.region.clone());
            let new = Grant { cluster: from.cluster, across: wanted.across };
            let replaced = match grants.get(&key) {
                Some(old) => !(stays(*old, new) && asks(old.cluster)),
                None => grants.len() < GRANTS_MAX,
            };
            if replaced {
                grants.insert(key, new);
            }
        }
    }

    /// The cluster that is to receive a stream across, into a region; 0 when nobody knows. The one
    /// that it is `shipped` to receives it whatever others do.
    pub fn crosser(&self, stream: u64, region: &str, shipped: Option<u32>) -> u32 {
        let stands_there = |cluster: &u32| {
            let mut nodes = self.askers.range((*cluster, 0)..=(*cluster, u32::MAX));
            nodes.any(|(_, asker)| asker.place.region == region)
        };
        if let Some(cluster) = shipped.filter(stands_there) {
            return cluster;
        }
        self.grants.get(&(stream, region.to_owned())).map_or(0, |grant| grant.cluster)
    }

    /// The region that a node of another cluster says it is in.
    pub fn region_of(&self, cluster: u32, node: u32) -> Option<&str> {
        self.askers.get(&(cluster, node)).map(|asker| asker.place.region.as_str())
    }

    /// Nodes of other clusters than these two that asked lately.
    pub fn places(&self, but: [u32; 2], now: Nanos) -> impl Iterator<Item = &Place> {
        let lately = move |asker: &&Asker| now.since(asker.heard) <= ASKER_NS;
        let asked = self.askers.values().filter(lately).map(|asker| &asker.place);
        asked.filter(move |place| !but.contains(&place.cluster))
    }
}

/// Whether the one named stays so when another asks, or it asks again itself.
fn stays(old: Grant, new: Grant) -> bool {
    if old.cluster == new.cluster {
        return false;
    }
    match (old.across, new.across) {
        (false, true) => false,
        (true, true) => old.cluster < new.cluster,
        (_, false) => true,
    }
}

#[cfg(test)]
mod tests {
    use palisade_wal::Lsn;

    use super::*;
    use crate::control::Term;
    use crate::transfer::facts::Wanted;

    const SECOND: u64 = 1_000_000_000;

    fn ask(arbiter: &mut Arbiter, cluster: u32, across: bool, seconds: u64) -> u32 {
        let from = Place {
            cluster,
            node: 1,
            region: "hz".into(),
            addr: ([127, 0, 0, 1], cluster as u16).into(),
        };
        let streams = [2, 3].map(|stream| Wanted { stream, across, has: Lsn::ZERO }).to_vec();
        let question = Question { number: 1, from, known: Term::NONE, streams };
        arbiter.on_asked(&question, "sh", Nanos(seconds * SECOND), |stream| stream == 2);
        assert_eq!(arbiter.crosser(3, "hz", None), 0, "it does not lead that");
        assert_eq!(arbiter.crosser(2, "bj", Some(cluster)), 0, "nobody asks from there");
        arbiter.crosser(2, "hz", None)
    }

    #[test]
    fn the_first_is_named_and_stays_named_while_it_asks() {
        let mut arbiter = Arbiter::default();
        assert_eq!(ask(&mut arbiter, 5, false, 0), 5);
        assert_eq!(ask(&mut arbiter, 2, false, 1), 5, "a lower id comes too late");
        assert_eq!(ask(&mut arbiter, 5, true, 2), 5);
        for second in 3..9 {
            assert_eq!(ask(&mut arbiter, 2, false, second), 5);
            assert_eq!(ask(&mut arbiter, 5, true, second), 5);
        }
        // It dies; who asks next is named. It comes back, and waits for the next chance.
        assert_eq!(ask(&mut arbiter, 2, false, 12), 2);
        assert_eq!(ask(&mut arbiter, 5, false, 13), 2);
    }

    #[test]
    fn who_receives_it_across_goes_first_and_of_several_the_lowest_id() {
        let mut arbiter = Arbiter::default();
        assert_eq!(ask(&mut arbiter, 5, false, 0), 5);
        assert_eq!(ask(&mut arbiter, 7, true, 0), 7, "a new leader here learns who does");
        assert_eq!(ask(&mut arbiter, 5, true, 1), 5);
        assert_eq!(ask(&mut arbiter, 7, true, 1), 5);
        assert_eq!(ask(&mut arbiter, 6, true, 1), 5);
        assert_eq!(ask(&mut arbiter, 5, false, 2), 5, "its word about itself counts");
        assert_eq!(ask(&mut arbiter, 7, true, 2), 7);
    }

    #[test]
    fn who_it_is_shipped_to_goes_before_all() {
        let mut arbiter = Arbiter::default();
        assert_eq!(ask(&mut arbiter, 5, true, 0), 5);
        assert_eq!(ask(&mut arbiter, 7, true, 0), 5);
        assert_eq!(arbiter.crosser(2, "hz", Some(7)), 7);
        assert_eq!(arbiter.crosser(2, "hz", Some(9)), 5, "it is of another region");
    }

    #[test]
    fn those_of_the_region_itself_are_known_and_not_named() {
        let mut arbiter = Arbiter::default();
        let addr = ([127, 0, 0, 1], 9).into();
        let from = Place { cluster: 3, node: 1, region: "sh".into(), addr };
        let streams = vec![Wanted { stream: 2, across: false, has: Lsn::ZERO }];
        let question = Question { number: 1, from, known: Term::NONE, streams };
        arbiter.on_asked(&question, "sh", Nanos(0), |_| true);
        assert_eq!(arbiter.crosser(2, "sh", None), 0);
        let named = |but, now| arbiter.places(but, Nanos(now)).count();
        assert_eq!([named([1, 2], 0), named([1, 3], 0), named([1, 2], 4 * SECOND)], [1, 0, 0]);
        assert_eq!((arbiter.region_of(3, 1), arbiter.region_of(3, 2)), (Some("sh"), None));
        assert!(arbiter.askers.len() <= ASKERS_MAX);
    }

    #[test]
    fn askers_are_bounded() {
        let mut arbiter = Arbiter::default();
        for cluster in 1..=2 * ASKERS_MAX as u32 {
            ask(&mut arbiter, cluster, false, 0);
        }
        assert_eq!(arbiter.places([0, 0], Nanos(0)).count(), ASKERS_MAX);
    }
}
