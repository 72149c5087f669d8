//! The toolchain whose verdicts count.

use std::process::Command;

use super::lane::Outcome;

/// The version that everything is built and judged with: `rust-version` in Cargo.toml.
const PINNED: &str = env!("CARGO_PKG_RUST_VERSION");

/// `toolchain`
pub(crate) fn run() -> Outcome {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    match Command::new(program).arg("--version").output() {
        Ok(output) => compare(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => Outcome::Failed(vec![format!("rustc: {error}")]),
    }
}

/// Cargo itself refuses an older one. A newer one builds, but its rustfmt, clippy and rustdoc have
/// rules of their own: that is said here, before one of them fails a change for it.
fn compare(said: &str) -> Outcome {
    match said.split(' ').nth(1) {
        Some(PINNED) => Outcome::Passed,
        Some(version) => Outcome::Skipped(format!(
            "this is Rust {version}, and the verdicts of {PINNED} count: where fmt, clippy or docs \
             fail here, ask `cargo +{PINNED} xtask check`"
        )),
        None => Outcome::Failed(vec![format!("rustc says {said:?} of itself")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_toolchain_is_named_and_none_is_a_failure() {
        let said = |version: &str| compare(&format!("rustc {version} (59807616e 2026-04-14)"));
        assert!(matches!(said(PINNED), Outcome::Passed));
        let Outcome::Skipped(why) = said("9.9.9") else { panic!("it is another") };
        assert!(why.contains("9.9.9") && why.contains(PINNED), "{why}");
        assert!(matches!(compare(""), Outcome::Failed(_)));
    }
}
