//! Changes of the registry as they stand in the catalogue. One entry per change:
//!
//! ```text
//! kind u8 | 0[3] | by u32 | on u64 | what
//! put, primary   id u32 | upstream u32 | net timeout ms u32 | health check ms u32 | transfer u8
//!                hold u8 | endpoints u16 | 0 u32 | until SCN u64 | name | region | endpoints
//! remove         id u32 | 0 u32
//! mode           epoch u64 | mode u8 | level u8 | forced u8 | phase u8 | SYNC cluster u32
//! role           epoch u64 | act u8 | 0[3] | target u32 | SCN u64
//! ```
//!
//! A text is its length u16, and UTF-8. All numbers are little-endian.

use zerocopy::little_endian::{U16, U32, U64};

use super::limits::{
    CHANGE_BYTES_MAX, ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, NAME_BYTES_MAX, TIME_MS_MAX, TIME_MS_MIN,
};
use super::mode::{Phase, Step};
use super::registry::{Cluster, Hold};
use super::role::{Act, RoleStep};
use crate::paxos::codec::{Reader, fixed, flag, put, put_text, zeros};
use crate::paxos::{DecodeError, REGION_BYTES_MAX};
use crate::status::{Protection, Transfer};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const PRIMARY: u8 = 3;
const MODE: u8 = 4;
const ROLE: u8 = 5;

fixed! {
    /// What changes follows.
    ChangeHead: 16 { kind: u8, reserved: [u8; 3], by: U32, on: U64 }
    RemoveBody: 8 { id: U32, reserved: [u8; 4] }
    StepBody: 16 { epoch: U64, mode: u8, level: u8, forced: u8, phase: u8, sync: U32 }
    RoleBody: 24 { epoch: U64, act: u8, reserved: [u8; 3], target: U32, scn: U64 }
    /// Name, region and so many endpoints follow.
    ClusterHead: 32 {
        id: U32, upstream: U32, net_timeout_ms: U32, health_check_ms: U32, transfer: u8, hold: u8,
        endpoints: U16, reserved: [u8; 4], until_scn: U64,
    }
}

/// One change, and what it was decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The cluster that made it.
    pub by: u32,
    /// Version of the registry that it was decided on; on another one it has no effect.
    pub on: u64,
    /// What changes.
    pub what: What,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A standby is added, or all that is known of it replaced.
    Put(Cluster),
    /// A standby is removed.
    Remove(u32),
    /// The primary as it will be when it is a standby.
    Primary(Cluster),
    /// A step of mode and level.
    Mode(Step),
    /// A step of the primary's role.
    Role(RoleStep),
}

impl Change {
    /// The payload of the entry.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.what {
            What::Put(_) => PUT,
            What::Remove(_) => REMOVE,
            What::Primary(_) => PRIMARY,
            What::Mode(_) => MODE,
            What::Role(_) => ROLE,
        };
        let mut out = Vec::new();
        let (by, on) = (self.by.into(), self.on.into());
        put(&mut out, &ChangeHead { kind, reserved: [0; 3], by, on });
        match &self.what {
            What::Put(cluster) | What::Primary(cluster) => put_cluster(&mut out, cluster),
            What::Remove(id) => {
                put(&mut out, &RemoveBody { id: (*id).into(), reserved: [0; 4] });
            }
            What::Mode(step) => {
                let body = StepBody {
                    epoch: step.epoch.into(),
                    mode: protection_code(step.mode),
                    level: protection_code(step.level),
                    forced: u8::from(step.forced),
                    phase: phase_code(step.phase),
                    sync: step.sync.into(),
                };
                put(&mut out, &body);
            }
            What::Role(step) => put(&mut out, &role_body(step)),
        }
        assert!(out.len() <= CHANGE_BYTES_MAX, "a change of {} bytes", out.len());
        out
    }

    /// Whether nothing of this cluster may come after it.
    pub fn hands_over(&self) -> bool {
        matches!(self.what, What::Role(RoleStep { act: Act::HandOver { .. }, .. }))
    }

    /// The same in a group with this SCN, which is one of the old role epoch.
    pub(crate) fn in_group(mut self, group: u64) -> Change {
        if let What::Role(step) = &mut self.what {
            match &mut step.act {
                Act::HandOver { scn } | Act::Resume { scn } | Act::Begin { scn } => {
                    *scn = group.max(*scn);
                }
                Act::Prepare { .. } | Act::GiveUp | Act::End | Act::Serve | Act::Seize => {}
            }
        }
        self
    }

    /// Reads an entry; none if it is not a change that this version knows.
    pub fn decode(bytes: &[u8]) -> Option<Change> {
        if bytes.len() > CHANGE_BYTES_MAX {
            return None;
        }
        read_change(bytes).ok()
    }
}

fn read_change(bytes: &[u8]) -> Result<Change, DecodeError> {
    let mut fields = Reader::new(bytes);
    let ChangeHead { kind, reserved, by, on } = fields.head()?;
    zeros(reserved)?;
    let what = match *kind {
        PUT => What::Put(read_cluster(&mut fields)?),
        PRIMARY => What::Primary(read_cluster(&mut fields)?),
        REMOVE => {
            let RemoveBody { id, reserved } = fields.head()?;
            zeros(reserved)?;
            What::Remove(id.get())
        }
        MODE => {
            let StepBody { epoch, mode, level, forced, phase, sync } = fields.head()?;
            let (mode, level) = (read_protection(*mode)?, read_protection(*level)?);
            let (forced, phase) = (flag(*forced)?, read_phase(*phase)?);
            What::Mode(Step { epoch: epoch.get(), mode, level, phase, sync: sync.get(), forced })
        }
        ROLE => What::Role(read_role(fields.head()?)?),
        code => return Err(DecodeError::UnknownCode(code)),
    };
    fields.finish()?;
    Ok(Change { by: by.get(), on: on.get(), what })
}

fn role_body(step: &RoleStep) -> RoleBody {
    let (act, target, scn) = match step.act {
        Act::Prepare { target } => (1, target, 0),
        Act::GiveUp => (2, 0, 0),
        Act::End => (3, 0, 0),
        Act::HandOver { scn } => (4, 0, scn),
        Act::Resume { scn } => (5, 0, scn),
        Act::Serve => (6, 0, 0),
        Act::Seize => (7, 0, 0),
        Act::Begin { scn } => (8, 0, scn),
    };
    let (epoch, target, scn) = (step.epoch.into(), target.into(), scn.into());
    RoleBody { epoch, act, reserved: [0; 3], target, scn }
}

fn read_role(body: &RoleBody) -> Result<RoleStep, DecodeError> {
    zeros(&body.reserved)?;
    let act = match (body.act, body.target.get(), body.scn.get()) {
        (1, target @ 1.., 0) => Act::Prepare { target },
        (2, 0, 0) => Act::GiveUp,
        (3, 0, 0) => Act::End,
        (4, 0, scn) => Act::HandOver { scn },
        (5, 0, scn) => Act::Resume { scn },
        (6, 0, 0) => Act::Serve,
        (7, 0, 0) => Act::Seize,
        (8, 0, scn) => Act::Begin { scn },
        (code, ..) => return Err(DecodeError::UnknownCode(code)),
    };
    Ok(RoleStep { epoch: body.epoch.get(), act })
}

pub(super) fn put_cluster(out: &mut Vec<u8>, cluster: &Cluster) {
    let (hold, scn) = match cluster.hold {
        None => (0, 0),
        Some(Hold::AtOnce) => (1, 0),
        Some(Hold::Until(scn)) => (2, scn),
    };
    let head = ClusterHead {
        id: cluster.id.into(),
        upstream: cluster.upstream.into(),
        net_timeout_ms: cluster.net_timeout_ms.into(),
        health_check_ms: cluster.health_check_ms.into(),
        transfer: transfer_code(cluster.transfer),
        hold,
        endpoints: (cluster.endpoints.len() as u16).into(),
        reserved: [0; 4],
        until_scn: scn.into(),
    };
    put(out, &head);
    put_text(out, &cluster.name);
    put_text(out, &cluster.region);
    cluster.endpoints.iter().for_each(|endpoint| put_text(out, endpoint));
}

pub(super) fn read_cluster(fields: &mut Reader<'_>) -> Result<Cluster, DecodeError> {
    let head: &ClusterHead = fields.head()?;
    let (net_timeout_ms, health_check_ms) = (head.net_timeout_ms.get(), head.health_check_ms.get());
    let (id, times) = (head.id.get(), TIME_MS_MIN..=TIME_MS_MAX);
    if id == 0 || !times.contains(&net_timeout_ms) || !times.contains(&health_check_ms) {
        return Err(DecodeError::Inconsistent);
    }
    let (transfer, count) = (read_transfer(head.transfer)?, usize::from(head.endpoints.get()));
    zeros(&head.reserved)?;
    let hold = match (head.hold, head.until_scn.get()) {
        (0, 0) => None,
        (1, 0) => Some(Hold::AtOnce),
        (2, scn) if scn > 0 => Some(Hold::Until(scn)),
        (code, _) => return Err(DecodeError::UnknownCode(code)),
    };
    let name = fields.text(NAME_BYTES_MAX)?;
    let region = fields.text(REGION_BYTES_MAX)?;
    if count > ENDPOINTS_MAX {
        return Err(DecodeError::TooLong);
    }
    let endpoints: Result<Vec<String>, DecodeError> =
        (0..count).map(|_| fields.text(ENDPOINT_BYTES_MAX)).collect();
    let endpoints = endpoints?;
    Ok(Cluster {
        id,
        name,
        region,
        endpoints,
        transfer,
        net_timeout_ms,
        health_check_ms,
        upstream: head.upstream.get(),
        hold,
    })
}

pub(super) fn transfer_code(transfer: Transfer) -> u8 {
    match transfer {
        Transfer::Sync => 1,
        Transfer::Async => 2,
    }
}

pub(super) fn read_transfer(code: u8) -> Result<Transfer, DecodeError> {
    match code {
        1 => Ok(Transfer::Sync),
        2 => Ok(Transfer::Async),
        code => Err(DecodeError::UnknownCode(code)),
    }
}

pub(crate) fn protection_code(level: Protection) -> u8 {
    match level {
        Protection::Performance => 1,
        Protection::Availability => 2,
        Protection::Protection => 3,
        Protection::Resync => 4,
    }
}

pub(crate) fn read_protection(code: u8) -> Result<Protection, DecodeError> {
    let all = [
        Protection::Performance,
        Protection::Availability,
        Protection::Protection,
        Protection::Resync,
    ];
    let known = all.into_iter().find(|level| protection_code(*level) == code);
    known.ok_or(DecodeError::UnknownCode(code))
}

pub(super) fn phase_code(phase: Phase) -> u8 {
    match phase {
        Phase::Steady => 1,
        Phase::Rising => 2,
        Phase::Falling => 3,
        Phase::Leaving => 4,
        Phase::Preparing => 5,
        Phase::Ending => 6,
        Phase::Starting => 7,
        Phase::Seizing => 8,
    }
}

pub(super) fn read_phase(code: u8) -> Result<Phase, DecodeError> {
    match code {
        1 => Ok(Phase::Steady),
        2 => Ok(Phase::Rising),
        3 => Ok(Phase::Falling),
        4 => Ok(Phase::Leaving),
        5 => Ok(Phase::Preparing),
        6 => Ok(Phase::Ending),
        7 => Ok(Phase::Starting),
        8 => Ok(Phase::Seizing),
        code => Err(DecodeError::UnknownCode(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster {
            name: "hangzhou".to_owned(),
            region: "hz".to_owned(),
            endpoints: vec!["127.0.0.1:7001".to_owned(), "host-2:9".to_owned()],
            upstream: 3,
            hold: Some(Hold::Until(77)),
            ..Cluster::new(2, Transfer::Sync)
        }
    }

    fn all() -> Vec<Change> {
        let (mode, level) = (Protection::Availability, Protection::Resync);
        let bare = Cluster { hold: Some(Hold::AtOnce), ..Cluster::new(9, Transfer::Async) };
        let whats = [
            What::Put(cluster()),
            What::Put(bare),
            What::Primary(cluster()),
            What::Remove(4),
            What::Mode(Step {
                epoch: 6,
                mode,
                level,
                phase: Phase::Falling,
                sync: 2,
                forced: true,
            }),
        ];
        whats.into_iter().map(|what| Change { by: 1, on: 5, what }).collect()
    }

    #[test]
    fn every_change_reads_back() {
        for change in all() {
            assert_eq!(Change::decode(&change.encode()), Some(change));
        }
    }

    #[test]
    fn every_cut_tail_and_reserved_byte_is_refused() {
        for change in all() {
            let bytes = change.encode();
            for cut in 0..bytes.len() {
                assert_eq!(Change::decode(&bytes[..cut]), None, "{change:?} cut at {cut}");
            }
            assert_eq!(Change::decode(&[bytes.as_slice(), &[0]].concat()), None);
            let mut odd = bytes.clone();
            odd[2] = 1;
            assert_eq!(Change::decode(&odd), None);
            odd = bytes;
            odd[0] = 9;
            assert_eq!(Change::decode(&odd), None);
        }
        assert_eq!(Change::decode(&vec![1; CHANGE_BYTES_MAX + 1]), None);
    }

    #[test]
    fn what_no_rule_would_let_through_is_no_change() {
        let odd = |edit: fn(&mut Cluster)| {
            let mut cluster = cluster();
            edit(&mut cluster);
            Change::decode(&Change { by: 1, on: 0, what: What::Put(cluster) }.encode())
        };
        assert!(odd(|_| {}).is_some());
        assert_eq!(odd(|cluster| cluster.id = 0), None);
        assert_eq!(odd(|cluster| cluster.net_timeout_ms = TIME_MS_MIN - 1), None);
        assert_eq!(odd(|cluster| cluster.health_check_ms = TIME_MS_MAX + 1), None);
        assert_eq!(odd(|cluster| cluster.name = "x".repeat(NAME_BYTES_MAX + 1)), None);
        let many = |cluster: &mut Cluster| cluster.endpoints = vec![String::new(); 17];
        assert_eq!(odd(many), None);
        assert_eq!(odd(|cluster| cluster.hold = Some(Hold::Until(0))), None);
    }
}
