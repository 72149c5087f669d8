//! Shards while the role of the primary goes from one cluster to another.

use bytes::Bytes;

use super::*;
use crate::control::tests::switchover::handed_over;
use crate::control::{LevelTold, Mode, Office, Phase, Term};
use crate::handle::NewRecord;
use crate::stream::derived::Derived;
use crate::transfer::Question;
use crate::transfer::facts::{Place, Wanted};

const END: Mark = Mark::End { cluster: STANDBY, epoch: 9 };
const START: Mark = Mark::Async { epoch: 10 };

fn ending() -> Mode {
    let office = Office { holder: 1, target: STANDBY, ..Office::default() };
    Mode { phase: Phase::Ending, mark: END, epoch: 9, office, ..Mode::default() }
}

/// Who begins behind the END.
fn starting(holder: u32, before: u32) -> Mode {
    let office =
        Office { role_epoch: 2, holder, before, target: 0, since: 10, scn: 0, ..Office::default() };
    Mode { phase: Phase::Starting, mark: START, epoch: 10, office, ..Mode::default() }
}

impl Seat {
    /// A stream that ended, all of which the target holds.
    fn ended(&mut self) -> u64 {
        let stream = self.create(1)[0].id();
        self.shard.write_mark(stream, END).expect("it leads");
        self.until(|seat| {
            let standing = seat.shard.sync_status(stream)?.standing?;
            (standing.mark == END).then_some(())
        });
        self.hold(stream);
        self.shard.levels.by_hand = false;
        self.shard.levels.lease.on_mode(ending());
        stream
    }

    fn tell(&mut self, mode: Mode) {
        let ballot = Ballot { round: 1, node: 1, incarnation: 1 };
        let told = LevelTold { shard: 0, asked_at: 0, lease_ns: 0, ballot, token: 0, mode };
        self.shard.take_told(&told);
        (0..200).for_each(|_| assert!(self.shard.turn(false), "{:?}", self.shard.halted()));
    }

    fn last_mark(&self, stream: u64) -> Option<Mark> {
        self.shard.sync_status(stream)?.mark.map(|marked| marked.mark)
    }
}

/// The word of the catalogue's leader may come before the registry does. The START is the new
/// primary's: written here too, it would be another log.
#[test]
fn who_handed_the_role_over_writes_no_start() {
    for (mode, last) in [(starting(STANDBY, 1), END), (starting(1, 0), START)] {
        let home = Home::new(1);
        let mut seat = home.open();
        let stream = seat.ended();
        seat.tell(mode);
        if last == START {
            // Its turn comes when the device takes a block.
            seat.until(|seat| (seat.last_mark(stream) != Some(END)).then_some(()));
        }
        assert_eq!(seat.last_mark(stream), Some(last), "{mode:?}");
    }
}

/// Seed 1795453353000122: a node of the primary that was starts again, with the role of its format,
/// and leads a stream that ended. What its log lacks may stand in that of the new primary.
#[test]
fn who_leads_a_stream_that_ended_calls_no_sequence_missing() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1).remove(0);
    let ask = |seat: &mut Seat, sequence: u64| {
        let payload = Bytes::from_static(b"record");
        let record = NewRecord { payload, producer: 7, sequence, ..NewRecord::default() };
        let mut asked = stream.append_record(record);
        seat.until(|_| asked.try_take())
    };
    ask(&mut seat, 1).expect("it leads");
    let gap = ask(&mut seat, 9).expect_err("it follows nothing");
    assert_eq!((gap.kind(), gap.expected_sequence()), (ErrorKind::SequenceGap, Some(2)));

    seat.shard.write_mark(stream.id(), END).expect("it leads");
    seat.until(|seat| (seat.last_mark(stream.id()) == Some(END)).then_some(()));
    seat.shard.levels.by_hand = false;
    let unknown = ask(&mut seat, 9).expect_err("it may not write");
    assert_eq!((unknown.kind(), unknown.expected_sequence()), (ErrorKind::Standby, None));
    seat.hold(stream.id());
    ask(&mut seat, 1).expect("the original is in its log");
}

/// What it closed, the next primary could not give.
#[test]
fn a_stream_that_ended_closes_no_scn_until_it_begins_anew() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.create(1)[0].id();
    assert!(seat.shard.closing.streams.contains(&stream));
    drop(seat);
    let mut seat = home.open();
    let stream = seat.ended();
    assert!(!seat.shard.closing.streams.contains(&stream), "it ended");
    seat.tell(starting(1, 0));
    seat.until(|seat| (seat.last_mark(stream) != Some(END)).then_some(()));
    assert_eq!(seat.last_mark(stream), Some(START));
    let told = &mut seat.shard.streams.get_mut(&stream).expect("it is here").told;
    assert_eq!(told.replace(9), Some(u64::MAX), "marks are written by hand");
    seat.shard.close_from_here(stream);
    assert!(!seat.shard.closing.streams.contains(&stream), "the mark is newer than the word");
    seat.shard.streams.get_mut(&stream).expect("it is here").told = Some(10);
    seat.shard.close_from_here(stream);
    assert!(seat.shard.closing.streams.contains(&stream));
}

/// A node of a new primary starts with the role that its disk was made for, and shows nothing that
/// waits for the SYNC standby before it knows better.
#[test]
fn a_standby_that_is_not_sure_to_be_one_shows_nothing_that_waits() {
    let home = Home::new(1);
    let mut seat = home.open();
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    seat.mark(stream);
    let before = seat.shard.sync_status(stream).expect("it is here").committed;
    let _waits = appender.append("gated");
    let end = seat.committed(stream, before);
    assert!(seat.shard.streams[&stream].visible() < end, "it waits for the SYNC standby");
    let table = [(None, false), (Some(0), false), (Some(u64::MAX), true)];
    for (told, shown) in table {
        let state = seat.shard.streams.get_mut(&stream).expect("it is here");
        (state.role, state.told) = (Role::Standby, told);
        let released = state.release(Nanos(1), u64::MAX);
        assert_eq!(released == end, shown, "told {told:?}: {released} of {end}");
    }
}

/// The START stands in a range that is lost on this disk: as far as its log is known, it is a
/// standby's, and what the registry says is not older.
#[test]
fn a_standby_that_lost_a_range_shows_nothing_above_it() {
    let home = Home::new(1);
    let mut seat = home.open();
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    let mut before = appender.append("before");
    seat.until(|_| before.try_take()).expect("it leads");
    seat.mark(stream);
    let marked = seat.shard.sync_status(stream).and_then(|it| it.mark).expect("a mark");
    let _waits = appender.append("gated");
    let end = seat.committed(stream, marked.end);

    let state = seat.shard.streams.get_mut(&stream).expect("it is here");
    (state.role, state.told) = (Role::Standby, Some(u64::MAX));
    state.derived = Derived::default();
    state.derived.on_lost(marked.start, marked.end);
    state.derived.on_committed(end);
    assert_eq!(state.release(Nanos(1), u64::MAX), marked.start, "committed up to {end}");
    let mended = state.derived.on_mended(marked.start, marked.end);
    assert!(mended.is_empty() && state.derived.is_whole());
    assert_eq!(state.release(Nanos(1), u64::MAX), end, "there was no mark in it");
}

/// Who takes a stream from a standby waits for what that does not show.
#[test]
fn a_standby_says_that_it_has_what_it_shows() {
    let home = Home::new(1);
    let mut seat = home.open();
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    seat.mark(stream);
    let before = seat.shard.sync_status(stream).expect("it is here").committed;
    let _waits = appender.append("gated");
    let end = seat.committed(stream, before);
    let addr = "127.0.0.1:1".parse().expect("an address");
    let from = Place { cluster: 3, node: 1, region: "r".to_owned(), addr };
    let streams = vec![Wanted { stream, across: false, has: Lsn::ZERO }];
    let question = Question { number: 1, from, known: Term::NONE, streams };
    for (told, has) in [(None, false), (Some(u64::MAX), true)] {
        let state = seat.shard.streams.get_mut(&stream).expect("it is here");
        (state.role, state.told) = (Role::Standby, told);
        // Readers here wait for what is replayable, and other clusters do not.
        let shown = state.visible();
        let released = state.release(Nanos(1), 0);
        assert_eq!((released == end, state.visible()), (has, shown), "told {told:?}");
        let facts = seat.shard.facts_for(&question);
        assert_eq!(facts.streams[0].committed, released, "told {told:?}");
    }
}

/// Acks of the new primary wait for it from the START on, which comes to who asked for it.
#[test]
fn who_handed_the_role_over_at_a_sync_level_asks_for_the_streams_at_once() {
    let home = Home::new(1);
    let mut seat = home.open();
    let stream = seat.ended();
    seat.shard.on_registry(Arc::new(handed_over(1, STANDBY, 500)));
    assert!(!seat.shard.acts(stream) && seat.shard.streams[&stream].leading);
    assert!(seat.shard.is_wanted(stream), "its log names the other cluster still");
    assert!(seat.shard.joins.wants(stream), "it waits for nobody to say it");
}

/// The mail with the registry may come long after the word of the catalogue's leader.
#[test]
fn a_stream_begins_anew_when_the_registry_says_so_and_not_by_a_word_before() {
    let home = Home::new(1);
    let mut seat = home.open();
    let registry = handed_over(STANDBY, 1, 500);
    let (start, epoch) = (registry.mode().mark, registry.mode().epoch - 1);
    let end = Mark::End { cluster: 1, epoch };
    let stream = seat.create(1)[0].id();
    seat.shard.write_mark(stream, end).expect("it leads");
    seat.until(|seat| (seat.shard.sync_status(stream)?.standing?.mark == end).then_some(()));
    for (_, state) in seat.shard.streams.range_mut(CATALOGUE_STREAM..) {
        (state.role, state.told) = (Role::Standby, None);
    }
    seat.shard.levels.by_hand = false;

    seat.tell(registry.mode());
    assert_eq!(seat.last_mark(stream), Some(end), "it is a standby's, as far as is known");
    assert!(!seat.shard.acts(stream));
    seat.shard.on_registry(Arc::new(registry));
    assert!(seat.shard.acts(stream));
    seat.until(|seat| (seat.last_mark(stream) == Some(start)).then_some(()));
}
