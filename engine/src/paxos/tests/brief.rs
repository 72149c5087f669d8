//! What replicas say and want, in a few words: for traces and transcripts.

use super::super::*;
use super::cluster::{Load, Packet};

pub(super) fn message(body: &Body) -> String {
    match body {
        Body::PreVote { ballot } => format!("PreVote {ballot}"),
        Body::PreVoteReply { ballot, granted, promised, leader } => {
            let granted = if *granted { "granted" } else { "refused" };
            format!("PreVoteReply {ballot} {granted}, promised {promised}, leader {leader}")
        }
        Body::Prepare { ballot } => format!("Prepare {ballot}"),
        Body::Promise(promise) => self::promise(promise),
        Body::Refuse { ballot, promised, no_takeover } => {
            let why = if *no_takeover { ", no takeover" } else { "" };
            format!("Refuse {ballot}, promised {promised}{why}")
        }
        Body::Takeover { ballot, end, .. } => format!("Takeover {ballot} at {}", end.lsn),
        Body::Accepted { ballot, upto, .. } => format!("Accepted {ballot} upto {upto}"),
        Body::Commit { ballot, upto, .. } => format!("Commit {ballot} upto {upto}"),
        Body::Fetch(FetchRequest { ballot, from, upto, want }) => {
            format!("Fetch {ballot} {from}..{upto} {want:?}")
        }
        Body::StepDown { ballot, successor, .. } => format!("StepDown {ballot} to {successor:?}"),
    }
}

fn promise(promise: &Promise) -> String {
    let Promise { ballot, accepting, end, committed, unknown, holes, .. } = promise;
    let unknown = if *unknown { ", unknown" } else { "" };
    let lost: Vec<String> = holes.iter().map(|(from, upto)| format!("{from}..{upto}")).collect();
    let lost = if lost.is_empty() { String::new() } else { format!(", lost {}", lost.join(" ")) };
    let end = end.lsn;
    format!("Promise {ballot}: has {accepting} to {end}, committed {committed}{unknown}{lost}")
}

pub(super) fn packet(packet: &Packet) -> String {
    let said = match &packet.load {
        Load::Message(bytes) => {
            let (read, _) = Message::decode(bytes).expect("a message");
            message(&read.body)
        }
        Load::Group { ballot, header, commit } => {
            let (from, upto) = (header.lsn(), header.end());
            format!("Group {from}..{upto} under {ballot}, commit {commit}")
        }
        Load::Fetched { ballot, header, want } => {
            format!("Fetched {}..{} under {ballot} {want:?}", header.lsn(), header.end())
        }
        Load::Ask(ask) => format!("FloorAsk {}", ask.floor),
        Load::Held(held) => format!("FloorHeld {}", held.floor),
    };
    format!("{} -> {}: {said}", packet.from.node, packet.to)
}

pub(super) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Log(record) => format!("log {:?} {} at {}", record.kind, record.ballot, record.lsn),
        Effect::Send { to, message } => format!("send {to}: {}", self::message(&message.body)),
        Effect::Serve { to, ballot, from, upto, want } => {
            format!("serve {to}: {from}..{upto} under {ballot} {want:?}")
        }
        Effect::Leading { ballot } => format!("leading {ballot}"),
        Effect::SteppedDown { ballot, reason } => format!("stepped down from {ballot}: {reason:?}"),
        Effect::Leader { ballot } => format!("leader {ballot}"),
        Effect::Committed { upto } => format!("committed {upto}"),
        Effect::Voided { from } => format!("voided from {from}"),
        Effect::SettledVoid { from } => format!("failed for good from {from}"),
        Effect::UnsettledVoid { from } => format!("unknown for ever from {from}"),
        Effect::Mended { from, upto } => format!("mended {from}..{upto}"),
        Effect::Unmended { from, upto } => format!("unmended {from}..{upto}"),
        Effect::Halt { reason } => format!("halt: {reason}"),
    }
}
