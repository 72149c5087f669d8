//! Multi-Paxos per stream, without I/O, clock or randomness.
//!
//! A shard owns one [`Replica`] per stream and one [`Liveness`] for all of them. Every input is a
//! method `on_*`; what it wants done is in the [`Effects`].
//!
//! # Order of calls
//!
//! The WAL of a shard is one ordered log. A replica changes its `StreamLog` when it *asks* for a
//! record ([`Effect::Log`]) or hears of a group ([`Replica::on_proposed`],
//! [`Replica::on_stored`]), so the shard appends to the WAL in exactly the order of effects and
//! verdicts, within the same turn: the log in memory is then what replay makes of the WAL, and a
//! durable record means that everything asked for before it is durable.
//!
//! What the shard owes a replica:
//! - [`Replica::on_durable`] for each record and [`Replica::on_group_durable`] for the groups that
//!   are no staged ones, in WAL order. Groups are named by the ballot of their record header,
//!   since a Takeover may put others at the same positions.
//! - [`Replica::set_floor`] before any other input, after the floor of the shard's [`Floors`] rose.
//! - [`Replica::on_peer`] for what its [`Liveness`] says: nobody is up before that, and nothing is
//!   said again to those that are not.
//! - [`Replica::on_turn_end`] after the inputs of a turn.
//! - [`Replica::on_time`] when [`Replica::next_deadline`] has passed.
//! - An answer to each [`Effect::Serve`] through the peer's [`Replica::on_fetched`], with the
//!   ballot and purpose of the effect, or none at all: a fetch is repeated.
//!
//! # Cursors
//!
//! ```text
//! base <= committed <= end        the log here; durable <= end under the accepting ballot
//! accepting <= promised           equal while a leader is followed
//! ```

mod abdicate;
mod accept;
mod base;
mod binding;
mod closed;
pub(crate) mod codec;
mod effect;
mod elect;
mod event;
mod fetch;
mod floor;
mod invariant;
mod learn;
mod liveness;
mod member;
mod message;
mod prefer;
mod prepare;
mod progress;
mod publication;
mod repair;
mod replayable;
mod replica;
mod start;
mod status;
mod takeover;
mod tuning;

pub use closed::Closed;
pub use codec::DecodeError;
pub(crate) use codec::{ROUND_MAX, SCN_MAX};
pub use effect::{Effect, Effects, HaltReason, LogRecord, StepDownReason};
pub use event::{
    AcceptHead, AcceptVerdict, GroupMark, NoSlot, NoTransfer, PeerState, ProposePosition,
    RefuseReason,
};
pub use floor::{FLOOR_NS, FloorAsk, FloorEffect, FloorHeld, Floors, VIEWS_MAX, View};
pub use liveness::{HEARTBEAT_BYTES, Heartbeat, Liveness, LivenessEffect, PEERS_MAX};
pub use member::{
    ADDR_BYTES_MAX, Config, MEMBERS_MAX, Me, Member, NodeKey, REGION_BYTES_MAX, ReplayError,
    Replayed, TakeoverBody, replay, replay_group, replay_moved,
};
pub use message::{
    Body, FetchRequest, MESSAGE_BODY_BYTES_MAX, MESSAGE_HEAD_BYTES, Message, Promise, Want,
};
pub use publication::{ClosedNews, ENDS_MAX, Published, Publisher};
pub use replayable::{Claims, Complete, REPLAYABLE_NS, Replayable, ReplayableEffect};
pub use replica::Replica;
pub use status::{RoleName, Status};
pub use tuning::{
    ELECTION_NS, HAND_OVER_NS, HEARTBEAT_NS, RECORDS_IN_FLIGHT_MAX, Tuning, TuningError,
};

#[cfg(test)]
mod tests;
