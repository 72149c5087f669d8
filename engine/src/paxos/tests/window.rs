//! How much of a leader's log may be open.

use palisade_wal::Lsn;

use super::super::*;
use super::cluster::Cluster;
use super::node::{group, tuning};

/// A standby's leader takes the groups of a chunk at once, as they stand in one block: it asked
/// for room before the first one, and the others must not stop it.
#[test]
fn a_chunk_may_bring_more_groups_than_the_window_has_left() {
    let mut c = Cluster::new(1, 1);
    c.settle("a leader", |c| c.leader().is_some());
    let max = tuning().window_groups_max;
    let mut position = c.nodes[0].replica().import_position().expect("room");
    for value in 0..2 * max as u32 {
        let header = group(&position, value);
        let mark = c.nodes[0].append(header, position.ballot, false);
        let now = c.now;
        c.nodes[0].replica().on_proposed(mark, now);
        position.lsn = header.end();
        position.chain_before = header.chain.get();
    }
    let full = c.nodes[0].replica().import_position();
    assert!(matches!(full, Err(NoSlot::Busy)), "{full:?}");
    c.rest(30);
    assert!(position.lsn > Lsn::ZERO);
    assert_eq!(c.log(1).committed().lsn, position.lsn);
    assert!(c.nodes[0].replica().import_position().is_ok());
}
