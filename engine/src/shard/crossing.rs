//! Bytes that came in from other regions, counted where they arrive: each once.

use std::collections::BTreeMap;

use palisade_netio::{Frame, Ring};

use super::Shard;
use super::net::Duty;
use crate::status::BorderStatus;

/// Most regions that are told apart; what comes from more is not counted.
const REGIONS_MAX: usize = 64;

/// See the module.
#[derive(Default)]
pub(crate) struct Crossings {
    /// Each region but the own one, and the bytes that came from there.
    regions: Vec<(String, u64)>,
    /// Where the other members are, those of the own region left out.
    peers: BTreeMap<u32, usize>,
}

impl Crossings {
    /// A member is known; `own` is the region of this node.
    pub(crate) fn on_peer(&mut self, node: u32, region: &str, own: &str) {
        if let Some(place) = self.place(region, own) {
            self.peers.insert(node, place);
        }
    }

    fn place(&mut self, region: &str, own: &str) -> Option<usize> {
        if region.is_empty() || region == own {
            return None;
        }
        let known = self.regions.iter().position(|(name, _)| name == region);
        let has_room = self.regions.len() < REGIONS_MAX;
        known.or_else(|| {
            has_room.then(|| {
                self.regions.push((region.to_owned(), 0));
                self.regions.len() - 1
            })
        })
    }
}

impl<R: Ring> Shard<R> {
    /// A frame came in. Where nobody has said yet where the other end is, it counts nowhere.
    pub(crate) fn note_crossing(&mut self, conn: u32, frame: &Frame) {
        let Some(known) = self.net.conns.get(&conn) else { return };
        let place = match known.duty {
            Duty::Control(node) | Duty::Bulk(node) => self.crossings.peers.get(&node).copied(),
            Duty::Candidate(addr) => self.place_of_upstream(Some(addr)),
            Duty::Upstream => self.place_of_upstream(self.feed_of(conn)),
            Duty::Leader => self.place_of_upstream(self.leader_addr(conn)),
            Duty::Standby(_) => self.place_of_standby(conn),
            Duty::Client(_) | Duty::Contact(_) => None,
        };
        if let Some(place) = place {
            let bytes = u64::from(frame.head.head_len) + u64::from(frame.head.body_len);
            self.crossings.regions[place].1 += bytes;
        }
    }

    fn place_of_upstream(&mut self, addr: Option<std::net::SocketAddr>) -> Option<usize> {
        let region = self.imports.chooser.as_ref()?.region_at(addr?)?;
        self.crossings.place(region, &self.config.region)
    }

    fn place_of_standby(&mut self, conn: u32) -> Option<usize> {
        let (cluster, node) = self.standby_at(conn)?;
        let region = self.imports.arbiter.region_of(cluster, node)?;
        self.crossings.place(region, &self.config.region)
    }

    /// What came over each border since the node started.
    pub(crate) fn border_statuses(&self) -> Vec<BorderStatus> {
        let border = |(from, bytes): &(String, u64)| BorderStatus {
            from: from.clone(),
            to: self.config.region.clone(),
            bytes: *bytes,
        };
        self.crossings.regions.iter().map(border).collect()
    }
}
