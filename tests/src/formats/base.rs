//! What a base says.

use palisade::stream::base::Base;
use palisade::stream::derived::Derived;
use palisade::stream::mark::{Mark, Marked};
use palisade::stream::producers::Mark as Place;
use palisade_wal::Lsn;

use super::{Format, Sample, leave};

pub(super) const ALL: &[Format] =
    &[Format { name: "base", samples: bases, again: base_again, mend: leave, is_exact: true }];

fn bases() -> Vec<Sample> {
    let mut derived = Derived::default();
    for (producer, sequence, at) in [(7, 1, 64), (9, 1, 128), (7, 2, 192)] {
        let (lsn, end_lsn) = (Lsn(at), Lsn(at + 64));
        derived.producers.on_logged(Place { producer, sequence, lsn, end_lsn, scn: 1_000 + at });
    }
    let mark = Mark::Sync { cluster: 2, epoch: 3 };
    derived.marks.on_logged(Marked { mark, start: Lsn(256), end: Lsn(384) });
    assert_eq!(derived.on_committed(Lsn(384)), []);
    let known = Base::of(&derived, Lsn(384), 2_000).expect("it is known");
    vec![
        Sample::new("of a log with two producers and a mark", known.encode()),
        Sample::new("of a log of which nothing is known", Base::default().encode()),
    ]
}

fn base_again(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Base::decode(bytes, Lsn(384))?.encode())
}
