//! Shards of a primary that hears of a later one.

use bytes::Bytes;

use super::*;
use crate::control::tests::switchover::handed_over;
use crate::control::{Registry, Term};
use crate::status::ClusterRole;
use crate::transfer::facts::Place;
use crate::transfer::{Facts, Question};

const LATER: Term = Term { epoch: 2, cluster: STANDBY };

impl Seat {
    /// A node of another cluster says what it knows, and hears what is known here.
    fn told(&mut self, known: Term) -> Facts {
        let addr = "127.0.0.1:1".parse().expect("an address");
        let from = Place { cluster: STANDBY, node: 1, region: "r".to_owned(), addr };
        let question = Question { number: 1, from, known, streams: Vec::new() };
        self.shard.facts_for(&question)
    }

    fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| assert!(self.shard.turn(false), "{:?}", self.shard.halted()));
    }

    fn append(&mut self, stream: &Stream) -> Result<Lsn, Error> {
        let mut future = stream.append("record");
        self.until(|_| future.try_take()).map(|appended| appended.lsn)
    }

    fn role(&self) -> ClusterRole {
        self.shard.cluster_role()
    }
}

fn later() -> Arc<Registry> {
    Arc::new(handed_over(1, STANDBY, 500))
}

#[test]
fn who_hears_of_a_later_primary_takes_nothing_more() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    seat.append(&stream).expect("it leads");
    let before = seat.shard.sync_status(stream.id()).expect("it is here").released;
    assert!(seat.shard.closing.streams.contains(&stream.id()));
    let known = seat.told(LATER).known;
    assert_eq!((known, seat.role()), (Term { epoch: 1, cluster: 1 }, ClusterRole::Fenced));

    let refused = |outcome: Result<(), Error>| {
        let error = outcome.expect_err("it is fenced");
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Standby, "{text}");
        assert!(text.contains("cluster 2 is the primary, of role epoch 2"), "{text}");
    };
    refused(seat.append(&stream).map(drop));
    let created = seat.port.create_streams(1).expect("room");
    refused(seat.until(|_| created.try_take()).map(drop));
    refused(seat.truncate(stream.id(), before));
    refused(seat.shard.write_mark(stream.id(), MARK));
    let asked = Request::SetPrimary { transfer: Transfer::Sync };
    let changed = seat.port.control(asked).expect("room");
    refused(seat.until(|_| changed.try_take()).map(drop));
    seat.shard.close_from_here(stream.id());
    assert!(seat.shard.closing.streams.is_empty(), "no SCN is closed from here");

    // What is committed can be read, and everybody sees why there is no more.
    let read = seat.port.read(stream.id(), Lsn::ZERO).expect("room");
    assert!(seat.until(|_| read.try_take()).is_ok());
    assert_eq!(seat.shard.alarms().count(), 0, "so it looks in a switchover too");
    let code = seat.until(|seat| Some(seat.shard.alarms().next()?.0));
    assert_eq!(code, "fenced");
    seat.shard.publish_status();
    let status = seat.shard.board.status();
    let shown = status.stream(stream.id()).expect("it is here");
    assert_eq!((shown.state.as_str(), shown.committed_lsn), ("fenced", before.0));
    assert!(shown.action.contains("cluster 2"), "{}", shown.action);
    assert_ne!(status.stream(0).expect("it is here").state, "fenced", "it stays home");
}

/// What waits may be committed, and was taken by a primary that is none: nobody knows.
#[test]
fn what_waits_is_never_acked_after_the_fence() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    seat.mark(stream.id());
    let before = seat.shard.sync_status(stream.id()).expect("it is here").committed;
    let mut logged = stream.append("waits for the SYNC standby");
    seat.committed(stream.id(), before);
    let mut pending = stream.append("waits for a group");
    // It is taken, and in no group yet.
    let command = seat.port.pop().expect("an append");
    let Command::Append { stream: id, record, promise } = command else { panic!("an append") };
    let reply = super::super::stream::Reply::Promise(promise);
    seat.shard.take_append(id, record, palisade_wal::GroupKind::Data, reply);
    seat.told(LATER);
    let kinds = [&mut logged, &mut pending].map(|future| {
        let outcome = future.try_take().expect("it does not wait any more");
        outcome.expect_err("it is fenced").kind()
    });
    assert_eq!(kinds, [ErrorKind::Unknown, ErrorKind::Standby]);
    assert!(seat.shard.is_drained_of(id));
    // Nor does the word of the SYNC standby count, or anything else.
    seat.hold(id);
    seat.steps(50);
    assert!(logged.try_take().is_none(), "one outcome");
}

impl Shard<Meddled> {
    fn is_drained_of(&self, stream: u64) -> bool {
        let state = &self.streams[&stream];
        state.pending.is_empty() && state.waiting.is_empty() && self.pending_count == 0
    }
}

/// Killed at whichever moment: once it said that it knows, it is fenced for good.
#[test]
fn who_said_that_it_is_outranked_acks_nothing_ever_again() {
    let mut said = 0;
    for turns in 0..12 {
        let home = Home::new(1);
        let mut seat = home.open();
        let stream = seat.create(1).remove(0);
        seat.append(&stream).expect("it leads");
        seat.told(LATER);
        seat.steps(turns);
        let knows = seat.told(Term::NONE).known == LATER;
        said += usize::from(knows);
        assert!(seat.append(&stream).is_err(), "after {turns} turns");
        // No word before its power is gone.
        drop(seat);
        let mut seat = home.open();
        let stream = Stream::new(stream.id(), seat.port.clone());
        assert!(!knows || seat.append(&stream).is_err(), "after {turns} turns");
    }
    let home = Home::new(1);
    let mut seat = home.open();
    seat.told(LATER);
    seat.until(|seat| (seat.told(Term::NONE).known == LATER).then_some(()));
    assert!(said < 12, "it is not on the disk at once");
    seat.stop();
    let mut seat = home.open();
    assert_eq!((seat.role(), seat.told(Term::NONE).known), (ClusterRole::Fenced, LATER));
}

/// Of a node with two shards both are to know: one that forgot would ack.
#[test]
fn a_node_knows_what_each_of_its_shards_has_on_its_disk() {
    let mesh = Mesh::new(2);
    assert_eq!(mesh.kept_term(), Term::NONE);
    mesh.keep_term(1, LATER);
    assert_eq!(mesh.kept_term(), Term::NONE);
    mesh.keep_term(0, LATER);
    assert_eq!(mesh.kept_term(), LATER);
}

/// Other nodes hear of the hand-over before the registry tells this one: the same news.
#[test]
fn the_registry_ends_a_fence_when_it_says_the_same() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    seat.told(LATER);
    assert_eq!(seat.role(), ClusterRole::Fenced);
    seat.shard.levels.by_hand = false;
    seat.shard.on_registry(later());
    assert_eq!((seat.role(), seat.shard.alarms().count()), (ClusterRole::Standby, 0));
    assert!(!seat.shard.acts(stream.id()));
    // A standby is never fenced, whatever it hears, and passes it on.
    let next = Term { epoch: 3, cluster: 9 };
    let facts = seat.told(next);
    assert_eq!((seat.role(), facts.own), (ClusterRole::Standby, LATER));
    seat.until(|seat| (seat.told(Term::NONE).known == next).then_some(()));
}

/// Another node of this cluster knows already that it took its role back.
#[test]
fn a_later_term_of_its_own_fences_nobody() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    seat.told(Term { epoch: 3, cluster: 1 });
    seat.append(&stream).expect("it is the primary");
    seat.told(LATER);
    assert_eq!(seat.role(), ClusterRole::Primary, "that one is over");
    let payload = Bytes::from_static(b"more");
    let record = crate::handle::NewRecord { payload, ..Default::default() };
    let mut more = stream.append_record(record);
    seat.until(|_| more.try_take()).expect("it is the primary");
}

/// A new primary looks for the one before it, slowly, until it knows.
#[test]
fn a_new_primary_asks_the_clusters_of_its_registry() {
    let home = Home::new(1);
    let mut seat = home.open();
    assert!(seat.shard.next_contact().is_none(), "nobody handed anything over");
    let mut registry = handed_over(STANDBY, 1, 500);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let addr = listener.local_addr().expect("bound").to_string();
    registry.standby_at(STANDBY, &addr);
    seat.shard.on_registry(Arc::new(registry));
    let mut dials = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        seat.steps(10);
        // Whoever listens there says nothing that makes sense.
        dials += usize::from(listener.accept().is_ok());
    }
    assert!((2..=3).contains(&dials), "{dials} dials");
    assert!(seat.shard.next_contact().is_some());
}
