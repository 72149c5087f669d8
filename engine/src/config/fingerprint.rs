//! What the nodes of one cluster must agree on, although each has it from its own file or program.
//!
//! Which nodes there are, and what a stream holds, is in the log. Cluster and shard count decide
//! whether two nodes can talk at all: the handshake refuses others. What is left works while it
//! differs, but not as documented, and is to differ no longer than a change of it takes.

use palisade_netio::limits::FRAME_BODY_MAX;
use palisade_wal::{GROUP_BYTES_MAX, RECORD_BYTES_MAX};

use super::Config;
use crate::limits;
use crate::paxos::{MEMBERS_MAX, MESSAGE_BODY_BYTES_MAX};

/// The keys of node.toml that are the same on every node of a cluster.
pub const AGREED: [&str; 3] = ["cluster.name", "timing.heartbeat", "timing.election"];

/// Bounds of the program by which nodes take what others send, and derive the same tables from
/// the same log. Another version of the program may have others.
const BOUNDS: [u64; 9] = [
    FRAME_BODY_MAX as u64,
    GROUP_BYTES_MAX as u64,
    RECORD_BYTES_MAX as u64,
    MESSAGE_BODY_BYTES_MAX as u64,
    MEMBERS_MAX as u64,
    limits::PRODUCERS_MAX as u64,
    limits::PRODUCER_SEQUENCES_MAX as u64,
    limits::PRODUCERS_LAST_MAX as u64,
    limits::PRODUCER_EXPIRY_NS,
];

impl Config {
    /// The same on nodes that agree: the keys above in its upper half, the bounds in its lower.
    pub fn fingerprint(&self) -> u64 {
        let keys = [
            self.cluster.name.clone(),
            self.timing.heartbeat.as_nanos().to_string(),
            self.timing.election.as_nanos().to_string(),
        ];
        assert_eq!(keys.len(), AGREED.len(), "each key has its value");
        // No value has a line end in it.
        let keys = crc32c::crc32c(keys.join("\n").as_bytes());
        u64::from(keys) << 32 | u64::from(of_bounds(&BOUNDS))
    }
}

fn of_bounds(bounds: &[u64]) -> u32 {
    bounds.iter().fold(0, |crc, bound| crc32c::crc32c_append(crc, &bound.to_le_bytes()))
}

/// What two nodes with these fingerprints do not agree on, in words; none where they agree.
pub(crate) fn difference(ours: u64, theirs: u64) -> Option<String> {
    let keys = || format!("one or more of {} in node.toml", AGREED.join(", "));
    match (ours >> 32 == theirs >> 32, ours as u32 == theirs as u32) {
        (true, true) => None,
        (false, true) => Some(keys()),
        (true, false) => Some("the bounds of the program".to_owned()),
        (false, false) => Some(format!("{}, and the bounds of the program", keys())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Key;
    use super::*;

    #[test]
    fn it_changes_with_what_must_agree_and_with_nothing_else() {
        let config = Config::embedded("/nowhere");
        let own = config.fingerprint();
        type Change = fn(&mut Config);
        let agreed: [Change; AGREED.len()] = [
            |config| config.cluster.name.push('x'),
            |config| config.timing.heartbeat += Duration::from_millis(1),
            |config| config.timing.election += Duration::from_millis(1),
        ];
        for (change, key) in agreed.into_iter().zip(AGREED) {
            let mut other = config.clone();
            change(&mut other);
            let words = difference(own, other.fingerprint()).expect(key);
            assert!(words.contains(key) && !words.contains("bounds"), "{words}");
        }
        let mut other = config.clone();
        (other.node.id, other.node.region, other.node.data) = (2, "r".into(), "/else".into());
        (other.node.shards, other.node.cpus) = (3, vec![1]);
        (other.log.segment_bytes, other.log.log_bytes_max) = (8 << 20, 1 << 30);
        other.timing.hand_over += Duration::from_millis(1);
        other.timing.disk_stall_soft += Duration::from_millis(1);
        other.members.clear();
        assert_eq!(other.fingerprint(), own);
        assert_eq!(difference(own, own), None);
    }

    #[test]
    fn another_bound_is_told_from_another_key() {
        let mut bounds = BOUNDS;
        for at in 0..bounds.len() {
            bounds[at] += 1;
            assert_ne!(of_bounds(&bounds), of_bounds(&BOUNDS), "bound {at}");
            bounds[at] -= 1;
        }
        assert_eq!(difference(7, 8).as_deref(), Some("the bounds of the program"));
        assert!(difference(7, 1 << 32).is_some_and(|words| words.contains(", and the bounds")));
    }

    #[test]
    fn the_help_says_which_keys_these_are() {
        for key in super::super::KEYS {
            let Key { path, purpose, .. } = key;
            // The handshake refuses another number of shards.
            let agreed = AGREED.contains(&path) || path == "node.shards";
            assert_eq!(purpose.contains("the same on every node"), agreed, "{path}: {purpose}");
        }
    }
}
