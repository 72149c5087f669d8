//! The registry as a checkpoint tells it: the entries that it came from may be gone.

use super::change::{
    phase_code, protection_code, put_cluster, read_cluster, read_phase, read_protection,
};
use super::limits::CLUSTERS_MAX;
use super::mode::Mode;
use super::registry::Registry;
use crate::paxos::codec::{DecodeError, Reader, put_u32, put_u64};
use crate::stream::mark::{MARK_BYTES, Mark};

impl Registry {
    /// Appends the encoding.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let Mode { mode, level, phase, mark, epoch, forced } = self.mode;
        put_u64(out, self.version);
        put_u32(out, self.author);
        out.extend_from_slice(&[protection_code(mode), protection_code(level)]);
        out.extend_from_slice(&[u8::from(self.in_use), u8::from(self.primary.is_some())]);
        out.push(phase_code(phase));
        out.extend_from_slice(&mark.encode());
        put_u64(out, epoch);
        put_u64(out, forced);
        put_u32(out, self.standbys.len() as u32);
        let clusters = self.primary.iter().chain(self.standbys.values());
        clusters.for_each(|cluster| put_cluster(out, cluster));
    }

    /// Reads a registry from the front of `bytes`, and says what is left. None when they are none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Registry, &[u8])> {
        let mut fields = Reader::new(bytes);
        let registry = read_registry(&mut fields).ok()?;
        Some((registry, fields.rest()))
    }
}

fn read_registry(fields: &mut Reader<'_>) -> Result<Registry, DecodeError> {
    let (version, author) = (fields.u64()?, fields.u32()?);
    let (mode, level) = (read_protection(fields)?, read_protection(fields)?);
    let (in_use, has_primary) = (fields.flag()?, fields.flag()?);
    let (phase, mark) = (read_phase(fields)?, Mark::decode(fields.bytes(MARK_BYTES)?));
    let (epoch, forced) = (fields.u64()?, fields.u64()?);
    let count = fields.u32()? as usize;
    let mark = mark.ok_or(DecodeError::Inconsistent)?;
    let mode = Mode { mode, level, phase, mark, epoch, forced };
    let stands = mode.stands() && mark.epoch() <= epoch && forced <= epoch;
    if !stands || count > CLUSTERS_MAX || (count > 0 && !in_use) {
        return Err(DecodeError::Inconsistent);
    }
    let primary = if has_primary { Some(read_cluster(fields)?) } else { None };
    let mut registry = Registry { version, author, in_use, primary, mode, ..Registry::default() };
    for _ in 0..count {
        let cluster = read_cluster(fields)?;
        if registry.standbys.insert(cluster.id, cluster).is_some() {
            return Err(DecodeError::Inconsistent);
        }
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Change, Cluster, Phase, Step, What};
    use crate::status::{Protection, Transfer};

    #[test]
    fn a_registry_reads_back_and_a_shorter_one_does_not() {
        let mut registry = Registry::default();
        let mut all = vec![registry.clone()];
        let asked = Mode::default().asked(Protection::Availability, false);
        let rising = Step { epoch: 1, phase: Phase::Rising, sync: 2, ..asked };
        let whats = [
            What::Put(Cluster::new(2, Transfer::Sync)),
            What::Put(Cluster::new(3, Transfer::Async)),
            What::Primary(Cluster::new(1, Transfer::Sync)),
            What::Mode(Mode::default().asked(Protection::Availability, false)),
            What::Mode(rising),
            What::Remove(3),
            What::Remove(2),
        ];
        for (on, what) in whats.into_iter().enumerate() {
            assert!(registry.apply(&Change { by: 1, on: on as u64, what }));
            all.push(registry.clone());
        }
        for registry in all {
            let mut bytes = Vec::new();
            registry.encode_into(&mut bytes);
            let len = bytes.len();
            bytes.extend_from_slice(b"rest");
            assert_eq!(Registry::decode(&bytes), Some((registry, &b"rest"[..])));
            for len in 0..len {
                assert_eq!(Registry::decode(&bytes[..len]), None, "{len}");
            }
        }
    }
}
