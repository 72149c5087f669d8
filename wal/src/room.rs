//! What is asked for room in the log, and what is answered.

use palisade_netio::SlotId;

use crate::body::Body;

/// A block to append.
#[derive(Debug)]
pub struct NewBlock {
    /// Its slot: 512 bytes for the head, then the body and its pad.
    pub slot: SlotId,
    /// What is in the slot.
    pub body: Body,
    /// Hard state, checkpoints, moves and reconfirm may use the space above 95 %.
    pub hard_state: bool,
}

/// Why a block found no place. Nothing changed; the slot is still the caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Recovery is not done.
    #[error("the log is still recovering")]
    NotReady,
    /// The next segment is being prepared: try again after the next completions.
    #[error("the next segment is not prepared yet")]
    Preparing,
    /// Too many blocks wait for the device: try again after the next completions.
    #[error("too many blocks wait for the device")]
    Busy,
    /// The limit of space is reached.
    #[error("the space of the log is used up")]
    Full,
    /// No segment of this log can hold the block.
    #[error("the block is larger than a segment")]
    TooLarge,
    /// The log is poisoned.
    #[error("the log is poisoned")]
    Poisoned,
}

/// How full the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes used: whole sealed segments and the written part of the active one.
    pub used: u64,
    /// Bytes that may be used.
    pub limit: u64,
    /// Blocks without `hard_state` find no place.
    pub refuse_appends: bool,
    /// Appends should slow down.
    pub throttle: bool,
}
