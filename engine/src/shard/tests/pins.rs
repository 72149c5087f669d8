//! Shards that keep their log for standbys, for which a test speaks.

use std::net::SocketAddr;

use super::*;
use crate::control::Settings;
use crate::stream::pin::{Need, Pin};
use crate::transfer::Question;
use crate::transfer::facts::{Place, Wanted};

/// So little is kept for a standby.
const CAP: u64 = 1 << 20;
const RECORD: usize = 100 << 10;
const ALARM: &str = "standby-not-kept-for";
const NODE: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9));

impl Home {
    fn open_kept(&self, change: impl Fn(&mut ShardConfig)) -> Seat {
        let mut config = ShardConfig { pin_bytes_max: CAP, ..self.config(0) };
        config.tuning.commit_hint_bytes = 1;
        change(&mut config);
        let mut seat = self.seat(config, None, Arc::new(Board::new(1)));
        seat.until(|seat| seat.shard.is_ready().then_some(()));
        seat
    }
}

impl Seat {
    fn control(&mut self, request: Request) {
        let told = self.port.control(request).expect("room");
        assert!(self.until(|_| told.try_take()).expect("it leads").changed);
    }

    fn register(&mut self, cluster: u32, upstream: Option<u32>) {
        let settings = Settings {
            name: Some(format!("s{cluster}")),
            region: Some("r".to_owned()),
            endpoints: Some(vec![NODE.to_string()]),
            transfer: Some(Transfer::Async),
            upstream,
            ..Settings::default()
        };
        self.control(Request::Add { cluster, settings });
    }

    /// A standby says what it has.
    fn says(&mut self, cluster: u32, stream: u64, has: Lsn) {
        let from = Place { cluster, node: 1, region: "r".to_owned(), addr: NODE };
        let streams = vec![Wanted { stream, across: false, has }];
        self.shard.facts_for(&Question {
            known: crate::control::Term::NONE,
            number: 1,
            from,
            streams,
        });
    }

    /// Where so many records end.
    fn append_some(&mut self, stream: &Stream, count: usize) -> Vec<Lsn> {
        let append = |_| {
            let mut future = stream.append(vec![7; RECORD]);
            self.until(|_| future.try_take()).expect("it leads").end_lsn
        };
        (0..count).map(append).collect()
    }

    fn pin(&self, stream: u64, cluster: u32) -> Option<Pin> {
        self.shard.streams[&stream].pins.get(cluster)
    }

    /// Lets a stream go, and turns until nothing but a pin holds it.
    fn let_go(&mut self, stream: u64, to: Lsn) {
        self.truncate(stream, to).expect("it was shown");
        self.until(|seat| {
            let state = &seat.shard.streams[&stream];
            let gone = seat.base(stream) >= to;
            (gone || state.replica.can_truncate(to)).then_some(())
        });
        (0..200).for_each(|_| assert!(self.shard.turn(false), "{:?}", self.shard.halted()));
    }

    fn alarm(&self) -> Option<String> {
        let mut alarms = self.shard.alarms();
        alarms.find(|(code, _)| *code == ALARM).map(|(_, hint)| hint.to_owned())
    }
}

#[test]
fn what_a_registered_standby_lacks_is_kept_up_to_the_cap() {
    let home = Home::new(1);
    let mut seat = home.open_kept(|_| {});
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    seat.register(STANDBY, None);
    let ends = seat.append_some(&appender, 4);
    // Nobody heard of it yet, and what others say who are no standbys does not count.
    seat.says(3, stream, ends[3]);
    seat.let_go(stream, ends[3]);
    assert_eq!((seat.base(stream), seat.pin(stream, 3)), (Lsn::ZERO, None));
    let pins = seat.shard.pin_statuses(stream);
    assert_eq!((pins[0].cluster, pins[0].bytes, pins[0].is_lost), (STANDBY, ends[3].0, false));
    seat.says(STANDBY, stream, ends[1]);
    seat.until(|seat| (seat.base(stream) == ends[1]).then_some(()));
    (0..200).for_each(|_| assert!(seat.shard.turn(false)));
    assert_eq!(seat.base(stream), ends[1], "what comes next of it is kept");

    let more = seat.append_some(&appender, 12);
    seat.let_go(stream, more[11]);
    seat.until(|seat| (seat.base(stream) == more[11]).then_some(()));
    assert_eq!(seat.pin(stream, STANDBY).map(|pin| pin.need), Some(Need::Lost));
    let hint = seat.until(|seat| seat.alarm());
    let named = [format!("standby {STANDBY} "), format!("stream {stream} ")];
    assert!(named.iter().all(|name| hint.contains(name)), "{hint}");
    assert!(seat.shard.pin_statuses(stream)[0].is_lost);
    // It asks on, and waits for the operator; then it begins where the log begins.
    seat.says(STANDBY, stream, ends[1]);
    let last = seat.append_some(&appender, 2);
    seat.let_go(stream, last[1]);
    assert_eq!(seat.base(stream), more[11], "what it may begin with is kept");
    seat.says(STANDBY, stream, last[0]);
    seat.until(|seat| (seat.alarm().is_none() && seat.base(stream) == last[0]).then_some(()));
    seat.control(Request::Remove { cluster: STANDBY });
    seat.until(|seat| (seat.base(stream) == last[1]).then_some(()));
    assert_eq!(seat.pin(stream, STANDBY), None);
    seat.stop();
}

#[test]
fn a_restart_does_not_forget_for_whom_the_log_is_kept() {
    let home = Home::new(1);
    let mut seat = home.open_kept(|_| {});
    let streams = seat.create(2);
    let [kept, busy] = &streams[..] else { panic!("two streams") };
    let (kept_id, busy_id) = (kept.id(), busy.id());
    seat.register(STANDBY, None);
    let ends = seat.append_some(kept, 4);
    seat.says(STANDBY, kept_id, ends[1]);
    seat.let_go(kept_id, ends[3]);
    assert_eq!(seat.base(kept_id), ends[1]);
    // All that is told of it stands in checkpoints.
    let segment = seat.shard.ledger.wal.active().0;
    seat.says(STANDBY, busy_id, Lsn::MAX);
    seat.churn(busy, segment);
    assert_eq!(seat.base(kept_id), ends[1]);
    seat.stop();

    let mut seat = home.open_kept(|_| {});
    assert_eq!(seat.base(kept_id), ends[1]);
    let rest = Pin { from: ends[1], need: Need::Rest };
    assert_eq!(seat.pin(kept_id, STANDBY), Some(rest));
    seat.let_go(kept_id, ends[3]);
    assert_eq!(seat.base(kept_id), ends[1], "it was not heard of since");
    seat.says(STANDBY, kept_id, ends[3]);
    seat.until(|seat| (seat.base(kept_id) == ends[3]).then_some(()));
    seat.stop();
}

#[test]
fn for_a_standby_of_another_standby_that_one_has_to_keep_the_log() {
    let home = Home::new(1);
    let mut seat = home.open_kept(|_| {});
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    seat.register(STANDBY, None);
    seat.register(3, Some(STANDBY));
    let ends = seat.append_some(&appender, 4);
    seat.says(STANDBY, stream, ends[2]);
    seat.let_go(stream, ends[3]);
    assert_eq!(seat.base(stream), Lsn::ZERO, "it may come here");
    seat.says(3, stream, ends[1]);
    seat.until(|seat| (seat.base(stream) == ends[1]).then_some(()));
    let more = seat.append_some(&appender, 12);
    seat.says(STANDBY, stream, more[11]);
    seat.let_go(stream, more[11]);
    seat.until(|seat| (seat.base(stream) == more[11]).then_some(()));
    assert_eq!(seat.pin(stream, 3).map(|pin| pin.need), Some(Need::Lost));
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        assert!(seat.shard.turn(false) && seat.alarm().is_none(), "the other one may keep it");
    }
    // It is to choose by itself: the primary should have kept it.
    let settings = Settings { upstream: Some(0), ..Settings::default() };
    seat.control(Request::Set { cluster: 3, settings });
    let hint = seat.until(|seat| seat.alarm());
    assert!(hint.contains("standby 3 "), "{hint}");
    seat.stop();
}

#[test]
fn space_goes_before_what_is_pinned() {
    let home = Home::new(1);
    let small = 6 * SEGMENT_BYTES;
    let limits = |config: &mut ShardConfig| {
        (config.log_bytes_max, config.pin_bytes_max) = (small, 1 << 40);
    };
    let mut seat = home.open_kept(limits);
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    seat.register(STANDBY, None);
    seat.says(STANDBY, stream, Lsn::ZERO);
    let mut ends = seat.append_some(&appender, 4);
    seat.let_go(stream, ends[3]);
    assert_eq!(seat.base(stream), Lsn::ZERO);
    // Without the space it would be refused.
    for _ in 0..2 * small / RECORD as u64 {
        ends = seat.append_some(&appender, 1);
        seat.truncate(stream, ends[0]).expect("it was shown");
    }
    assert!(seat.base(stream) > Lsn::ZERO);
    let hint = seat.until(|seat| seat.alarm());
    assert!(hint.contains(&format!("standby {STANDBY} ")), "{hint}");
    seat.stop();
}

#[test]
fn without_a_cap_nothing_is_kept_and_nobody_complains() {
    let home = Home::new(1);
    let mut seat = home.open_kept(|config| config.pin_bytes_max = 0);
    let appender = seat.create(1).remove(0);
    let stream = appender.id();
    seat.register(STANDBY, None);
    let ends = seat.append_some(&appender, 4);
    seat.says(STANDBY, stream, ends[0]);
    seat.let_go(stream, ends[3]);
    assert_eq!(seat.base(stream), ends[3]);
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        assert!(seat.shard.turn(false) && seat.alarm().is_none());
    }
    assert_eq!(seat.shard.pin_statuses(stream), []);
    seat.stop();
}
