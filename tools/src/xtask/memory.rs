//! The crate with `unsafe`, under tools that see what a test does not: a use of memory that only
//! happens to work.

use std::process::{Command, Stdio};

use super::lane::{Lane, Outcome, root};

/// The lanes of `memory`.
pub(crate) const LANES: [Lane; 2] =
    [Lane { name: "miri", run: miri }, Lane { name: "sanitizer", run: sanitizer }];

/// Modules whose tests Miri can run: the arena, its views, and what reads and writes them. It has
/// no rings, sockets and files with direct I/O.
const WITHOUT_KERNEL: [&str; 7] = [
    "pool::",
    "frame::",
    "hello::",
    "link::",
    "uring::chain::",
    "uring::flight::",
    "barrier::tests",
];
/// A ring leaves the eight bytes of its doorbell behind on purpose.
const ASAN_OPTIONS: &str = "detect_leaks=0";

/// Miri is a component of nightly, which nothing else here needs.
fn miri() -> Outcome {
    let nightly = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo", "miri"]).args(arguments).current_dir(root());
        command
    };
    let mut version = nightly(&["--version"]);
    let there = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        let how = "rustup component add miri --toolchain nightly";
        return Outcome::Skipped(format!("nightly has no Miri here: `{how}`"));
    }
    let mut test = nightly(&["test", "--package", "palisade-netio", "--lib", "--"]);
    run(test.args(WITHOUT_KERNEL))
}

/// Every test of the crate, rings and sockets too, with the address sanitizer. It comes with each
/// toolchain, but is behind a flag that stable ones hide.
fn sanitizer() -> Outcome {
    let host = match host() {
        Ok(host) => host,
        Err(why) => return Outcome::Failed(vec![why]),
    };
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut test = Command::new(program);
    // With a target, what runs while building is not instrumented.
    test.args(["test", "--package", "palisade-netio", "--lib", "--tests", "--target", &host]);
    test.args(["--target-dir", "target/sanitizer"]).current_dir(root());
    test.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    run(test.env("ASAN_OPTIONS", ASAN_OPTIONS))
}

/// The triple that this toolchain builds for by itself.
fn host() -> Result<String, String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).arg("-vV").output().map_err(|e| format!("rustc: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| format!("rustc names no host: {text:?}"))
}

fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(vec![format!("{command:?}: {status}")]),
        Err(error) => Outcome::Failed(vec![format!("{command:?}: {error}")]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_toolchain_names_its_host() {
        let host = host().expect("a toolchain");
        assert!(host.contains("-linux-"), "{host}");
    }

    #[test]
    fn what_miri_is_given_is_there() {
        for module in WITHOUT_KERNEL {
            let path = module.trim_end_matches("tests").trim_end_matches("::").replace("::", "/");
            let src = root().join("netio/src");
            let there = [format!("{path}.rs"), format!("{path}/mod.rs")];
            assert!(there.iter().any(|path| src.join(path).exists()), "{module}");
        }
    }
}
