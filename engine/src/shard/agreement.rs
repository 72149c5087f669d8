//! Peers that run with other settings than this node, although a cluster has one value of each.

use palisade_netio::Ring;

use crate::config::difference;
use crate::shard::Shard;

impl<R: Ring> Shard<R> {
    /// A peer said hello: raises the alarm, changes what it says, or takes it back.
    ///
    /// A difference is told and not refused: every change of a setting goes from node to node,
    /// and a node that was refused meanwhile would be missed for a majority.
    pub(crate) fn note_agreement(&mut self) {
        // Each shard has a link with the same shard of every peer: one of them says it.
        if self.me.shard != 0 {
            return;
        }
        let ours = self.me.fingerprint;
        let differs = |(node, theirs): (&u32, Option<u64>)| {
            let theirs = theirs?;
            let what = difference(ours, theirs)?;
            Some(format!("node {node} ({theirs:016x}) differs in {what}"))
        };
        let peers = self.net.peers.iter().map(|(node, peer)| (node, peer.fingerprint));
        let others: Vec<String> = peers.filter_map(differs).collect();
        let raised = self.alarms.remove("config-differs");
        if others.is_empty() {
            return;
        }
        let hint = format!(
            "{}; this node has {ours:016x}; `palisade config check` prints what a file makes: \
             correct the file that is wrong, and restart its node",
            others.join("; ")
        );
        self.alarm("config-differs", hint);
        if let (Some((since, _)), Some(alarm)) = (raised, self.alarms.get_mut("config-differs")) {
            alarm.0 = since;
        }
    }
}
