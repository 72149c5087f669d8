//! Every format against committed bytes: what a release once wrote is read, and written again as
//! the same bytes.
//!
//! A format that is to change is written anew with `PALISADE_REWRITE=1 cargo test -p
//! palisade-tests --test golden`; then `cargo xtask check tidy` asks for its page.

use std::path::{Path, PathBuf};

use palisade_tests::formats::{self, Format, text};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn is_rewriting() -> bool {
    std::env::var_os("PALISADE_REWRITE").is_some_and(|value| value == "1")
}

#[test]
fn what_is_written_is_what_was_written() {
    for Format { name, samples, .. } in formats::all() {
        let path = folder().join(format!("{name}.txt"));
        let made = text::render(&samples());
        if is_rewriting() {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{name} is written in other bytes:\n{}", differing(&kept, &made));
    }
}

/// The first lines that differ.
fn differing(kept: &str, made: &str) -> String {
    let lines = kept.lines().zip(made.lines()).filter(|(kept, made)| kept != made);
    let some: Vec<String> =
        lines.take(4).map(|(kept, made)| format!("  kept {kept}\n  made {made}")).collect();
    some.join("\n")
}

#[test]
fn what_was_written_is_read_and_written_again_as_it_was() {
    for Format { name, again, .. } in formats::all() {
        let path = folder().join(format!("{name}.txt"));
        let kept = std::fs::read_to_string(&path).expect("a committed file");
        let samples = text::parse(&kept).unwrap_or_else(|| panic!("{}", path.display()));
        assert!(!samples.is_empty(), "{name} has no sample");
        for (sample, bytes) in samples {
            let made = again(&bytes).unwrap_or_else(|| panic!("{name}, {sample}: refused"));
            assert!(made == bytes, "{name}, {sample}: {bytes:02x?} became {made:02x?}");
        }
    }
}

#[test]
fn no_file_is_left_over() {
    let names: Vec<String> =
        formats::all().iter().map(|format| format!("{}.txt", format.name)).collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "tests/golden/{name} belongs to no format");
    }
}

#[test]
fn mending_changes_nothing_that_is_whole() {
    for Format { name, samples, mend, .. } in formats::all() {
        for sample in samples() {
            let mut mended = sample.bytes.clone();
            mend(&mut mended);
            assert!(mended == sample.bytes, "{name}, {}", sample.name);
        }
    }
}
