//! A newcomer: a fresh clone, an ordinary user, and the two commands at the head of README.
//!
//! Nothing is shared with this work tree: not its target directory, its environment nor what is
//! not committed. The toolchain and the sources of the dependencies stand in for what a newcomer
//! installs and cargo downloads; they are linked or copied, as root's home is closed to others.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::lane::{Outcome, root};
use super::machine::{ORDINARY_USER, Step, end, fail, has, open_to_all, stays_itself};

/// The id of the user and group without rights.
const NOBODY: u32 = 65534;
/// Lines of a command that failed which are shown.
const LINES_SHOWN: usize = 40;

/// Both commands of README, word for word, in a clone of the last commit.
pub(super) fn run() -> Outcome {
    if let Some(skipped) = stays_itself() {
        return skipped;
    }
    if !has("git") || !root().join(".git").exists() {
        return Outcome::Skipped("needs git and a clone with its history".to_owned());
    }
    end(try_it())
}

fn try_it() -> Step<()> {
    let home = tempfile::tempdir_in("/var/tmp").and_then(|home| {
        open_to_all(home.path())?;
        Ok(home)
    });
    let home = home.or_else(|error| fail(format!("/var/tmp: {error}")))?;
    prepare(home.path())?;
    let readme = std::fs::read_to_string(home.path().join("palisade/README.md"));
    let readme = readme.or_else(|error| fail(format!("README.md: {error}")))?;
    let commands = commands(&readme);
    if commands.len() != 2 {
        return fail(format!(
            "README.md starts with {} commands, not 2: {commands:?}",
            commands.len()
        ));
    }
    for command in commands {
        let began = Instant::now();
        follow(home.path(), command)?;
        println!("  {command} ({:.0} s)", began.elapsed().as_secs_f64());
    }
    Ok(())
}

/// The commands of the first block of code, without what is said of them.
fn commands(readme: &str) -> Vec<&str> {
    let block = readme.split("```").nth(1).unwrap_or_default();
    let lines = block.lines().filter(|line| line.starts_with("cargo "));
    lines.map(|line| line.split('#').next().unwrap_or_default().trim()).collect()
}

/// A clone, a toolchain, and dependencies below `home`, for the user without rights.
fn prepare(home: &Path) -> Step<()> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        home.map(|home| home.join(".cargo"))
    });
    let Some(cargo_home) = cargo_home else { return fail("neither CARGO_HOME nor HOME is set") };
    // `git` looks at no repository of another user unless told to; the toolchain's files are
    // linked where they can be, which costs neither time nor space.
    let script = "set -e
        mkdir git user cargo toolchain
        printf '[safe]\\n\\tdirectory = *\\n' > git/.gitconfig
        HOME=$PWD/git git clone --quiet --no-hardlinks \"$1\" palisade
        git -C palisade -c safe.directory=* log -1 --format='  commit %h: %s'
        for part in bin lib; do
            cp -al \"$2/$part\" toolchain 2>/dev/null || cp -a \"$2/$part\" toolchain
        done
        cp -al \"$3/registry\" cargo 2>/dev/null || cp -a \"$3/registry\" cargo
        chown -R \"$4:$4\" palisade user
        find cargo -type d -exec chown \"$4:$4\" {} +";
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(root())
        .arg(sysroot()?)
        .arg(cargo_home)
        .arg(NOBODY.to_string())
        .current_dir(home)
        .stdin(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => fail(format!("preparing {}: {status}", home.display())),
        Err(error) => fail(format!("sh: {error}")),
    }
}

/// The directory of the toolchain that builds this.
fn sysroot() -> Step<PathBuf> {
    let asked = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root()).output();
    match asked {
        Ok(output) if output.status.success() => {
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
        }
        _ => fail("rustc names no sysroot"),
    }
}

/// Runs a line of README in the clone.
fn follow(home: &Path, line: &str) -> Step<()> {
    let mut command = Command::new(ORDINARY_USER[0]);
    command.args(&ORDINARY_USER[1..]).args(["--clear-groups", "sh", "-c", line]);
    command.env_clear().current_dir(home.join("palisade")).stdin(Stdio::null());
    let path = format!("{}/toolchain/bin:/usr/local/bin:/usr/bin:/bin", home.display());
    command.env("PATH", path).env("HOME", home.join("user"));
    command.env("CARGO_HOME", home.join("cargo")).env("CARGO_NET_OFFLINE", "true");
    // A whole build from nothing gains nothing from incremental state.
    command.env("CARGO_INCREMENTAL", "0");
    for kept in ["CARGO_BUILD_JOBS", "TERM"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return fail(format!("{}: {error}", ORDINARY_USER[0])),
    };
    if output.status.success() {
        return Ok(());
    }
    let all = [output.stdout, output.stderr].concat();
    let all = String::from_utf8_lossy(&all);
    let skipped = all.lines().count().saturating_sub(LINES_SHOWN);
    let last: Vec<&str> = all.lines().skip(skipped).collect();
    fail(format!("{line}: {}\n{}", output.status, last.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_those_at_the_head_of_the_page() {
        let page = std::fs::read_to_string(root().join("README.md")).expect("the page");
        let found = commands(&page);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].ends_with("palisade -- demo"), "{found:?}");
        assert_eq!(found[1], "cargo test --workspace");
    }
}
