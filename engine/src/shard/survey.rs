//! Questions of clients about the whole node. The shard that is asked lets the others report first;
//! those that do not in a bounded time are shown as of their last report, with its age.

use std::collections::{BTreeSet, VecDeque};

use palisade_netio::{Nanos, Ring};

use crate::client::wire;
use crate::error::{Error, ErrorKind};
use crate::limits::{SURVEY_NS, SURVEYS_MAX};
use crate::shard::Shard;
use crate::shard::mesh::Mail;

/// What a client wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Status,
    /// The streams from this one on.
    Streams(u64),
}

struct Survey {
    number: u64,
    conn: u32,
    tag: u64,
    wanted: Wanted,
    /// Shards that have not reported.
    missing: BTreeSet<u16>,
    deadline: Nanos,
}

/// Questions that wait for other shards, the oldest first.
#[derive(Default)]
pub(crate) struct Surveys {
    open: VecDeque<Survey>,
    last: u64,
}

impl Surveys {
    pub(crate) fn next_deadline(&self) -> Option<Nanos> {
        self.open.front().map(|survey| survey.deadline)
    }
}

impl<R: Ring> Shard<R> {
    /// Answers a client's question once every shard has reported.
    pub(crate) fn survey(&mut self, conn: u32, tag: u64, wanted: Wanted) {
        self.publish_status();
        if self.surveys.open.len() >= SURVEYS_MAX {
            let text = format!("{SURVEYS_MAX} clients wait for the state of this node; try again");
            return self.refuse(conn, tag, &Error::new(ErrorKind::Busy, text));
        }
        self.surveys.last += 1;
        let number = self.surveys.last;
        let mut missing: BTreeSet<u16> = (0..self.me.shards).collect();
        missing.remove(&self.me.shard);
        if let Some(mesh) = &self.mesh {
            for shard in &missing {
                // One whose inbox is full is missing at the deadline.
                let _ = mesh.send(*shard, Mail::Report { to: self.me.shard, number });
            }
        }
        let deadline = self.io.now.after(SURVEY_NS);
        let survey = Survey { number, conn, tag, wanted, missing, deadline };
        if survey.missing.is_empty() {
            return self.answer_survey(&survey);
        }
        self.surveys.open.push_back(survey);
    }

    /// Another shard wants to know how this one is.
    pub(crate) fn report_to(&mut self, to: u16, number: u64) {
        self.publish_status();
        if let Some(mesh) = &self.mesh {
            let _ = mesh.send(to, Mail::Reported { shard: self.me.shard, number });
        }
    }

    /// Another shard has reported.
    pub(crate) fn on_reported(&mut self, shard: u16, number: u64) {
        let open = &mut self.surveys.open;
        let Some(at) = open.iter().position(|survey| survey.number == number) else { return };
        open[at].missing.remove(&shard);
        if open[at].missing.is_empty()
            && let Some(survey) = open.remove(at)
        {
            self.answer_survey(&survey);
        }
    }

    /// Answers what has waited long enough.
    pub(crate) fn end_surveys(&mut self) {
        let now = self.io.now;
        while self.surveys.next_deadline().is_some_and(|deadline| deadline <= now) {
            let survey = self.surveys.open.pop_front().expect("it has a deadline");
            self.answer_survey(&survey);
        }
    }

    fn answer_survey(&mut self, survey: &Survey) {
        let Survey { conn, tag, wanted, missing, .. } = survey;
        let (kind, body) = match wanted {
            Wanted::Status => {
                let status = self.board.status_without(missing, self.io.now);
                let json = serde_json::to_string(&status);
                let json = json.expect("a status has no maps with odd keys");
                (wire::KIND_STATUS_JSON, json.into_bytes())
            }
            Wanted::Streams(first) => {
                let streams = self.board.stream_entries(*first);
                (wire::KIND_STREAMS, wire::encode_streams(&streams))
            }
        };
        self.answer(*conn, kind, *tag, &body);
    }
}
