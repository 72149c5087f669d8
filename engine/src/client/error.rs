//! What can go wrong for a client.

use std::net::SocketAddr;

use palisade_netio::{FrameError, Refusal, RefusalCode};

use super::wire::{Refused, RefusedCode, WireError};

/// Why a request of a client did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A name that is no address.
    #[error("{name}: {why}; write HOST:PORT")]
    Address {
        /// What was given.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// No node answered in time.
    #[error("no node answered within {waited_ms} ms; last: {last}")]
    Unreachable {
        /// How long was tried.
        waited_ms: u64,
        /// The last failure.
        last: String,
    },
    /// The connection failed or ended.
    #[error("{addr}: {source}")]
    Io {
        /// The node.
        addr: SocketAddr,
        /// What happened.
        source: std::io::Error,
    },
    /// The node did not want the connection.
    #[error("{addr} refused the connection: {refusal}")]
    Greeting {
        /// The node.
        addr: SocketAddr,
        /// Its reason.
        refusal: Refusal,
    },
    /// The node said something that makes no sense.
    #[error("{addr} broke the protocol: {what}")]
    Protocol {
        /// The node.
        addr: SocketAddr,
        /// What it said.
        what: String,
    },
    /// The node refused the request.
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    /// The connection ended after the request was sent: whether it took effect is unknown.
    #[error("the connection to {addr} ended before the answer: whether it took effect is unknown")]
    Unknown {
        /// The node.
        addr: SocketAddr,
    },
    /// The log starts later than what was asked for.
    #[error("the log starts at base_lsn {base_lsn}; read from there or ask another node")]
    Recycled {
        /// First position still there.
        base_lsn: u64,
    },
    /// A node ended a read.
    #[error("{addr} ended the read: {why}")]
    Ended {
        /// The node.
        addr: SocketAddr,
        /// Its reason.
        why: String,
        /// It has the bytes and cannot read them.
        damaged: bool,
    },
}

impl ClientError {
    /// Whether the same request may succeed later or at another node.
    pub fn is_retryable(&self) -> bool {
        match self {
            ClientError::Io { .. } | ClientError::Unreachable { .. } => true,
            ClientError::Greeting { .. } => !self.is_mismatch(),
            ClientError::Ended { .. } => true,
            ClientError::Refused(refused) => refused.is_retryable(),
            _ => false,
        }
    }

    /// Whether a node is not of the cluster that was asked for, or speaks another version: no
    /// repetition helps.
    pub fn is_mismatch(&self) -> bool {
        let ClientError::Greeting { refusal, .. } = self else { return false };
        matches!(refusal.code(), RefusalCode::Cluster | RefusalCode::Version)
    }

    /// Whether no node could be reached at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ClientError::Unreachable { .. } | ClientError::Io { .. })
    }

    /// Whether the log of a node is damaged where it was read.
    pub fn is_damage(&self) -> bool {
        matches!(self, ClientError::Ended { damaged: true, .. })
    }

    /// The rule that forbids what was asked, a lower-kebab word; see
    /// [`Refusal`](crate::control::Refusal).
    pub fn rule(&self) -> Option<&str> {
        match self {
            ClientError::Refused(refused) if refused.code == RefusedCode::Forbidden => {
                refused.text.split_once(':').map(|(rule, _)| rule)
            }
            _ => None,
        }
    }

    /// Where the leader is, if the answer said so.
    pub fn leader_hint(&self) -> Option<&str> {
        match self {
            ClientError::Refused(refused) if refused.is_elsewhere() => {
                Some(refused.leader.as_str()).filter(|leader| !leader.is_empty())
            }
            _ => None,
        }
    }

    pub(super) fn frame(addr: SocketAddr, error: FrameError) -> ClientError {
        ClientError::Protocol { addr, what: error.to_string() }
    }

    pub(super) fn wire(addr: SocketAddr, error: WireError) -> ClientError {
        ClientError::Protocol { addr, what: error.to_string() }
    }
}
