//! Memory that readers share is short: who is refused some, who hears when some is back, and who
//! is ended for it.

use super::{CloseReason, Effect, ReaderId, Readers};
use crate::forward::limits::{PRESSURE_NS, PRESSURE_TICK_NS};

impl Readers {
    /// Whether what a reader says is to be read: there is room for the answers. If not,
    /// [`Effect::Retry`] says when to ask again.
    pub fn listens(&mut self, id: ReaderId) -> bool {
        let Some(reader) = self.readers.get_mut(&id) else { return false };
        let listens = reader.output.listens(&self.shared);
        if !listens {
            self.refuse(id);
        }
        listens
    }

    /// A reader takes no more for now. Whether what waits for it is to be copied out of the memory
    /// of shards.
    pub fn on_blocked(&mut self, id: ReaderId) -> bool {
        let Some(reader) = self.readers.get_mut(&id) else { return false };
        let copied = reader.output.on_blocked(&mut self.shared);
        if !copied {
            self.refuse(id);
        }
        copied
    }

    fn refuse(&mut self, id: ReaderId) {
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if std::mem::replace(&mut reader.refused, true) {
            return;
        }
        if self.refused.is_empty() {
            self.press_at = self.now.after(PRESSURE_TICK_NS);
        }
        self.refused.push_back(id);
    }

    /// Memory came back: who was refused some asks again, the first ones first.
    pub(super) fn offer_room(&mut self) {
        if !self.shared.take_grew() || self.refused.is_empty() {
            return;
        }
        let mut free = self.shared.free();
        let (readers, effects) = (&mut self.readers, &mut self.effects);
        self.refused.retain(|&id| {
            let Some(reader) = readers.get_mut(&id) else { return false };
            let Some(left) = free.checked_sub(reader.output.refused()) else { return true };
            (free, reader.refused) = (left, false);
            effects.push(Effect::Retry { reader: id });
            false
        });
    }

    /// Somebody is refused memory: of those that hold some and acknowledge nothing, the one that
    /// has been at it longest is ended. Who moves, however slowly, stays.
    pub(super) fn press(&mut self) {
        let mut oldest: Option<(u64, ReaderId)> = None;
        for (&id, reader) in &self.readers {
            if reader.closing || !reader.output.presses() {
                continue;
            }
            self.effects.push(Effect::Probe { reader: id });
            // What was seen before the last ticks says nothing.
            let idle = reader.output.idle_ns(self.now, PRESSURE_NS);
            let idle = idle.filter(|idle| *idle > PRESSURE_NS);
            oldest = oldest.max(idle.map(|idle| (idle, id)));
        }
        if let Some((_, id)) = oldest {
            self.stats.pressed += 1;
            self.close(id, CloseReason::Stalled);
        }
    }
}
