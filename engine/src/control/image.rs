//! The registry as a checkpoint tells it: the entries that it came from may be gone.

use zerocopy::little_endian::{U32, U64};

use super::change::{
    phase_code, protection_code, put_cluster, read_cluster, read_phase, read_protection,
};
use super::limits::CLUSTERS_MAX;
use super::mode::Mode;
use super::registry::Registry;
use super::wire::RawOffice;
use crate::paxos::codec::{DecodeError, Reader, fixed, flag, put};
use crate::stream::mark::{MARK_BYTES, Mark};

fixed! {
    /// The primary, if there is one, and so many standbys follow.
    RegistryHead: 101 {
        version: U64, author: U32, mode: u8, level: u8, in_use: u8, has_primary: u8, phase: u8,
        mark: [u8; MARK_BYTES], epoch: U64, forced: U64, office: RawOffice, standbys: U32,
    }
}

impl Registry {
    /// Appends the encoding.
    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        let Mode { mode, level, phase, mark, epoch, forced, office } = self.mode;
        let head = RegistryHead {
            version: self.version.into(),
            author: self.author.into(),
            mode: protection_code(mode),
            level: protection_code(level),
            in_use: u8::from(self.in_use),
            has_primary: u8::from(self.primary.is_some()),
            phase: phase_code(phase),
            mark: mark.encode(),
            epoch: epoch.into(),
            forced: forced.into(),
            office: office.into(),
            standbys: (self.standbys.len() as u32).into(),
        };
        put(out, &head);
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
    let head: &RegistryHead = fields.head()?;
    let (version, author) = (head.version.get(), head.author.get());
    let (mode, level) = (read_protection(head.mode)?, read_protection(head.level)?);
    let (in_use, has_primary) = (flag(head.in_use)?, flag(head.has_primary)?);
    let (phase, mark) = (read_phase(head.phase)?, Mark::decode(&head.mark));
    let (epoch, forced) = (head.epoch.get(), head.forced.get());
    let count = head.standbys.get() as usize;
    let mark = mark.ok_or(DecodeError::Inconsistent)?;
    let office = head.office.read()?;
    let mode = Mode { mode, level, phase, mark, epoch, forced, office };
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
