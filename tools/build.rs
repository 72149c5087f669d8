//! Tells the program from which sources, and by what, it was built: `palisade bench` says it.

use std::process::Command;

/// What the program is made of: a change of it may be no commit yet.
const SOURCES: [&str; 6] =
    ["../Cargo.toml", "../Cargo.lock", "../netio/src", "../wal/src", "../engine/src", "src"];

fn main() {
    let commit = said("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let status = ["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"];
    let changed = said("git", &status).is_some_and(|changes| !changes.is_empty());
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let rustc = said(&rustc, &["--version"]).unwrap_or_default();
    let profile = std::env::var("PROFILE").unwrap_or_default();
    println!("cargo::rustc-env=PALISADE_COMMIT={commit}{}", if changed { "+changes" } else { "" });
    println!("cargo::rustc-env=PALISADE_RUSTC={rustc}");
    println!("cargo::rustc-env=PALISADE_PROFILE={profile}");
    // Written at every commit and every checkout. A path that is not there would build each time.
    let head = said("git", &["rev-parse", "--git-path", "logs/HEAD"]).unwrap_or_default();
    for path in SOURCES.into_iter().chain([head.as_str()]) {
        if !path.is_empty() && std::path::Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What a program prints, in one line; none where it is missing or fails, as in a tarball.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().lines().next().unwrap_or_default().to_owned())
}
