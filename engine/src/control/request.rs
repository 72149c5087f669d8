//! What somebody wants of the registry, as it goes over the client protocol:
//!
//! ```text
//! kind u8 | dry run u8 | 0 u16 | cluster u32 | what
//! add, set      given u8 | transfer u8 | 0 u16 | net timeout ms u32 | health check ms u32
//!               upstream u32 | endpoints u16 | name | region | endpoints
//! suspend       until SCN u64; 0: at once
//! primary       transfer u8
//! mode          mode u8 | force u8
//! switchover    nothing: the cluster says all
//! failover      allow loss u8
//! ```
//!
//! `given` has a bit for each setting that was given, in the order of [`Settings`]; others are 0.

use zerocopy::little_endian::{U16, U32, U64};

use super::change::{protection_code, read_protection, read_transfer, transfer_code};
use super::limits::{ENDPOINT_BYTES_MAX, ENDPOINTS_MAX, NAME_BYTES_MAX};
use crate::paxos::codec::{Reader, fixed, flag, put, put_text, zeros};
use crate::paxos::{DecodeError, REGION_BYTES_MAX};
use crate::status::{Protection, Transfer};

/// Bytes by which a text may exceed its bound and still be read, so that the refusal can say so.
const SLACK: usize = 256;

fixed! {
    /// What is wanted follows.
    RequestHead: 8 { kind: u8, dry_run: u8, reserved: [u8; 2], cluster: U32 }
    /// Name, region and so many endpoints follow.
    SettingsHead: 18 {
        given: u8, transfer: u8, reserved: [u8; 2], net_timeout_ms: U32, health_check_ms: U32,
        upstream: U32, endpoints: U16,
    }
    ModeBody: 2 { mode: u8, force: u8 }
}

/// What may be said of a standby. What is not given stays, or is the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// For people.
    pub name: Option<String>,
    /// Where it stands.
    pub region: Option<String>,
    /// Where its nodes listen, `HOST:PORT`.
    pub endpoints: Option<Vec<String>>,
    /// How it is served.
    pub transfer: Option<Transfer>,
    /// How long an ack may wait for it at a SYNC level, in milliseconds.
    pub net_timeout_ms: Option<u32>,
    /// How long it must be well before the level rises, in milliseconds.
    pub health_check_ms: Option<u32>,
    /// The standby that it is to take its log from; 0: it chooses by itself.
    pub upstream: Option<u32>,
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new standby.
    Add {
        /// Its id.
        cluster: u32,
        /// All about it.
        settings: Settings,
    },
    /// Other settings of a standby.
    Set {
        /// Its id.
        cluster: u32,
        /// What is to be different.
        settings: Settings,
    },
    /// A standby is no more.
    Remove {
        /// Its id.
        cluster: u32,
    },
    /// A standby is held back.
    Suspend {
        /// Its id.
        cluster: u32,
        /// The last SCN that it still imports; none: it stops at once.
        until_scn: Option<u64>,
    },
    /// A standby goes on.
    Resume {
        /// Its id.
        cluster: u32,
    },
    /// How the primary is served when it is a standby.
    SetPrimary {
        /// So.
        transfer: Transfer,
    },
    /// Another protection mode.
    SetMode {
        /// This one.
        mode: Protection,
        /// Even if it cannot be proven that no SYNC standby counts on the old one.
        force: bool,
    },
    /// The primary hands its role to a standby.
    Switchover {
        /// The standby.
        cluster: u32,
    },
    /// The standby that is asked takes the role of the primary, without it.
    Failover {
        /// Although it cannot know that nothing which was acked is missing there.
        allow_loss: bool,
    },
}

impl Request {
    /// The body of a frame; with `dry_run` nothing is to be changed.
    ///
    /// # Panics
    /// When a text is longer than 64 KiB, or there are more endpoints than that.
    pub fn encode(&self, dry_run: bool) -> Vec<u8> {
        let (kind, cluster) = match *self {
            Request::Add { cluster, .. } => (1, cluster),
            Request::Set { cluster, .. } => (2, cluster),
            Request::Remove { cluster } => (3, cluster),
            Request::Suspend { cluster, .. } => (4, cluster),
            Request::Resume { cluster } => (5, cluster),
            Request::SetPrimary { .. } => (6, 0),
            Request::SetMode { .. } => (7, 0),
            Request::Switchover { cluster } => (8, cluster),
            Request::Failover { .. } => (9, 0),
        };
        let mut out = Vec::new();
        let (dry_run, cluster) = (u8::from(dry_run), cluster.into());
        put(&mut out, &RequestHead { kind, dry_run, reserved: [0; 2], cluster });
        match self {
            Request::Add { settings, .. } | Request::Set { settings, .. } => {
                settings.encode_into(&mut out);
            }
            Request::Suspend { until_scn, .. } => {
                put(&mut out, &U64::new(until_scn.unwrap_or(0)));
            }
            Request::SetPrimary { transfer } => out.push(transfer_code(*transfer)),
            Request::SetMode { mode, force } => {
                let (mode, force) = (protection_code(*mode), u8::from(*force));
                put(&mut out, &ModeBody { mode, force });
            }
            Request::Remove { .. } | Request::Resume { .. } => {}
            Request::Failover { allow_loss } => out.push(u8::from(*allow_loss)),
            Request::Switchover { .. } => {}
        }
        out
    }

    /// Reads the body of a frame: the request, and whether it is a dry run.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(body: &[u8]) -> Result<(Request, bool), DecodeError> {
        let mut fields = Reader::new(body);
        let RequestHead { kind, dry_run, reserved, cluster } = fields.head()?;
        let (dry_run, cluster) = (flag(*dry_run)?, cluster.get());
        zeros(reserved)?;
        let request = match *kind {
            1 => Request::Add { cluster, settings: Settings::read(&mut fields)? },
            2 => Request::Set { cluster, settings: Settings::read(&mut fields)? },
            3 => Request::Remove { cluster },
            4 => {
                let until_scn = fields.head::<U64>()?.get();
                Request::Suspend { cluster, until_scn: Some(until_scn).filter(|scn| *scn > 0) }
            }
            5 => Request::Resume { cluster },
            6 => Request::SetPrimary { transfer: read_transfer(fields.u8()?)? },
            7 => {
                let ModeBody { mode, force } = fields.head()?;
                Request::SetMode { mode: read_protection(*mode)?, force: flag(*force)? }
            }
            8 => Request::Switchover { cluster },
            9 if cluster == 0 => Request::Failover { allow_loss: flag(fields.u8()?)? },
            code => return Err(DecodeError::UnknownCode(code)),
        };
        fields.finish()?;
        Ok((request, dry_run))
    }
}

impl Settings {
    fn encode_into(&self, out: &mut Vec<u8>) {
        let given = [
            self.name.is_some(),
            self.region.is_some(),
            self.endpoints.is_some(),
            self.transfer.is_some(),
            self.net_timeout_ms.is_some(),
            self.health_check_ms.is_some(),
            self.upstream.is_some(),
        ];
        let bits = given.iter().enumerate().map(|(bit, given)| u8::from(*given) << bit);
        let endpoints = self.endpoints.as_deref().unwrap_or(&[]);
        let head = SettingsHead {
            given: bits.sum(),
            transfer: self.transfer.map_or(0, transfer_code),
            reserved: [0; 2],
            net_timeout_ms: self.net_timeout_ms.unwrap_or(0).into(),
            health_check_ms: self.health_check_ms.unwrap_or(0).into(),
            upstream: self.upstream.unwrap_or(0).into(),
            endpoints: u16::try_from(endpoints.len()).expect("a few").into(),
        };
        put(out, &head);
        put_text(out, self.name.as_deref().unwrap_or(""));
        put_text(out, self.region.as_deref().unwrap_or(""));
        endpoints.iter().for_each(|endpoint| put_text(out, endpoint));
    }

    fn read(fields: &mut Reader<'_>) -> Result<Settings, DecodeError> {
        let head: &SettingsHead = fields.head()?;
        let given = head.given;
        if given >= 1 << 7 {
            return Err(DecodeError::UnknownCode(given));
        }
        let has = |bit: u8| given & 1 << bit != 0;
        let transfer = match has(3) {
            true => Some(read_transfer(head.transfer)?),
            false => zeros(&[head.transfer]).map(|()| None)?,
        };
        zeros(&head.reserved)?;
        let count = usize::from(head.endpoints.get());
        if count > ENDPOINTS_MAX + SLACK {
            return Err(DecodeError::TooLong);
        }
        let name = fields.text(NAME_BYTES_MAX + SLACK)?;
        let region = fields.text(REGION_BYTES_MAX + SLACK)?;
        let endpoints: Result<Vec<String>, DecodeError> =
            (0..count).map(|_| fields.text(ENDPOINT_BYTES_MAX + SLACK)).collect();
        let endpoints = endpoints?;
        Ok(Settings {
            name: has(0).then_some(name),
            region: has(1).then_some(region),
            endpoints: has(2).then_some(endpoints),
            transfer,
            net_timeout_ms: has(4).then_some(head.net_timeout_ms.get()),
            health_check_ms: has(5).then_some(head.health_check_ms.get()),
            upstream: has(6).then_some(head.upstream.get()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Request> {
        let settings = Settings {
            name: Some("s1".to_owned()),
            region: Some("hz".to_owned()),
            endpoints: Some(vec!["127.0.0.1:7001".to_owned()]),
            transfer: Some(Transfer::Sync),
            net_timeout_ms: Some(700),
            health_check_ms: Some(800),
            upstream: Some(4),
        };
        vec![
            Request::Add { cluster: 2, settings },
            Request::Set { cluster: 2, settings: Settings::default() },
            Request::Remove { cluster: 3 },
            Request::Suspend { cluster: 3, until_scn: Some(9) },
            Request::Suspend { cluster: 3, until_scn: None },
            Request::Resume { cluster: 3 },
            Request::SetPrimary { transfer: Transfer::Async },
            Request::SetMode { mode: Protection::Availability, force: true },
            Request::Switchover { cluster: 3 },
            Request::Failover { allow_loss: true },
        ]
    }

    #[test]
    fn every_request_reads_back_and_no_cut_does() {
        for request in all() {
            for dry_run in [false, true] {
                let body = request.encode(dry_run);
                assert_eq!(Request::parse(&body), Ok((request.clone(), dry_run)));
                for cut in 0..body.len() {
                    assert!(Request::parse(&body[..cut]).is_err(), "{request:?} cut at {cut}");
                }
                assert!(Request::parse(&[body.as_slice(), &[0]].concat()).is_err());
            }
        }
        assert!(Request::parse(&[9, 0, 0, 0, 1, 0, 0, 0]).is_err());
        assert!(Request::parse(&[10, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(Request::parse(&[3, 2, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
