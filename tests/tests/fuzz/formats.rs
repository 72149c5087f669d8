//! How it works: one target for each format. An input is one of its samples, changed, with its
//! checksums set right or left as they were. If the bytes are read, they are written again as
//! the same bytes; where a reader is lenient, what it wrote is read and written as itself.

use palisade_tests::formats::{Format, named};
use proptest::prelude::*;

use crate::change::changes;
use crate::run::fuzz;

fn run(name: &str) {
    let Format { samples, again, mend, is_exact, .. } = named(name);
    let samples = samples();
    let target = format!("formats::{}", name.replace('-', "_"));
    let input = (0..samples.len(), changes(), prop::bool::weighted(0.8));
    fuzz(&target, input, |(sample, changes, mended)| {
        let mut bytes = samples[sample].bytes.clone();
        changes.iter().for_each(|change| change.apply(&mut bytes, false));
        if mended {
            mend(&mut bytes);
        }
        let Some(made) = again(&bytes) else {
            let plain = !changes.is_empty();
            assert!(plain, "{name}: {} is refused", samples[sample].name);
            return;
        };
        if is_exact {
            assert!(made == bytes, "{name}: {bytes:02x?} became {made:02x?}");
        } else {
            let twice = again(&made);
            assert!(twice.as_ref() == Some(&made), "{name}: {made:02x?} became {twice:02x?}");
        }
    });
}

macro_rules! targets {
    ($($target:ident: $name:literal),* $(,)?) => {
        $(
            #[test]
            fn $target() {
                run($name);
            }
        )*

        #[test]
        fn every_format_has_a_target() {
            let names: Vec<&str> = palisade_tests::formats::all().iter().map(|f| f.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

targets! {
    frame: "frame",
    handshake: "handshake",
    identity: "identity",
    group: "group",
    block: "block",
    segment: "segment",
    checkpoint: "checkpoint",
    log_image: "log-image",
    stream_image: "stream-image",
    message: "message",
    heartbeat: "heartbeat",
    floor_ask: "floor-ask",
    floor_held: "floor-held",
    closed: "closed",
    complete: "complete",
    takeover: "takeover",
    append: "append",
    appended: "appended",
    refused: "refused",
    create_streams: "create-streams",
    created: "created",
    streams: "streams",
    transfer: "transfer",
    transferred: "transferred",
    position: "position",
    from_reader: "from-reader",
    from_forwarder: "from-forwarder",
    facts: "facts",
    catalogue: "catalogue",
    registry: "registry",
    request: "request",
    from_standby: "from-standby",
    to_standby: "to-standby",
    held_news: "held-news",
    level_ask: "level-ask",
    level_told: "level-told",
    term: "term",
    mark: "mark",
    base: "base",
}
