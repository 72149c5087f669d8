//! base <= committed <= end, durable <= end, and the committed position of a running node never
//! goes back.

use std::collections::BTreeMap;

use palisade::paxos::Replica;
use palisade_wal::{Boundary, Lsn};

use super::{Seat, Violation};

const NAME: &str = "cursor_order";

/// Committed positions of the replicas that run or ran.
#[derive(Default)]
pub(super) struct CursorOrder(BTreeMap<Seat, Boundary>);

impl CursorOrder {
    /// The committed boundary, if it moved.
    pub(super) fn on_turn(
        &mut self,
        seat: Seat,
        replica: &Replica,
    ) -> Result<Option<Boundary>, Violation> {
        let log = replica.log();
        let (base, committed, end) = (log.base(), log.committed(), log.end());
        if base.lsn > committed.lsn || committed.lsn > end.lsn {
            let text =
                format!("{seat}: base {}, committed {}, end {}", base.lsn, committed.lsn, end.lsn);
            return Err(Violation::new(NAME, text));
        }
        let known = self.0.get(&seat).copied();
        if known == Some(committed) {
            return Ok(None);
        }
        if let Some(known) = known
            && known.lsn >= committed.lsn
        {
            let text = format!("{seat}: committed {} and then {}", known.lsn, committed.lsn);
            return Err(Violation::new(NAME, text));
        }
        self.0.insert(seat, committed);
        Ok((committed.lsn > Lsn::ZERO).then_some(committed))
    }
}
