//! Lanes over real processes and real input, in the release build of the program.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::lane::{Lane, Outcome, cargo, root};
use super::{namespaces, newcomer};

/// Bytes of PostgreSQL WAL that the demo replicates at least.
const POSTGRES_BYTES: u64 = 256 << 20;
/// How often the demo must be ok in a row.
const DEMOS: usize = 10;

/// Seconds that the demo of the default input may take.
const DEMO_SECONDS_MAX: f64 = 90.0;
/// Nodes that the demo's input goes to.
const DEMO_NODES: usize = 5;

/// In the order in which they run.
pub(crate) const LANES: [Lane; 10] = [
    Lane { name: "demo-ten", run: || repeat(DEMOS, &[], &[]) },
    Lane { name: "demo-one-cpu", run: || repeat(DEMOS, &["taskset", "-c", "0"], &[]) },
    Lane { name: "demo-no-zero-copy", run: || repeat(DEMOS, &[], &["--zero-copy", "never"]) },
    Lane { name: "demo-two-at-once", run: || end(two_at_once()) },
    Lane { name: "demo-interrupted", run: || end(interrupted()) },
    Lane { name: "demo-ordinary-user", run: ordinary_user },
    Lane { name: "demo-postgres", run: postgres },
    Lane { name: "restricted", run: restricted },
    Lane { name: "disks", run: disks },
    Lane { name: "namespaces", run: namespaces::run },
];

/// Lanes that build everything once more: they run when they are named.
pub(crate) const LONG_LANES: [Lane; 1] = [Lane { name: "newcomer", run: newcomer::run }];

pub(super) type Step<T> = Result<T, Outcome>;

pub(super) fn fail<T>(text: impl Into<String>) -> Step<T> {
    Err(Outcome::Failed(vec![text.into()]))
}

pub(super) fn end(result: Step<()>) -> Outcome {
    result.map_or_else(|outcome| outcome, |()| Outcome::Passed)
}

fn program() -> Step<PathBuf> {
    match cargo(&["build", "--quiet", "--release", "--bin", "palisade"], &[]) {
        Outcome::Passed => Ok(root().join("target/release/palisade")),
        other => Err(other),
    }
}

/// What a demo said.
struct Told {
    verdict: serde_json::Value,
    errors: String,
}

/// Runs the demo of `program`, started by the words `before` if there are any, and judges it.
fn demo(program: &Path, before: &[&str], options: &[&str]) -> Step<Told> {
    let mut line: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
    line.push(program.as_os_str());
    let output = Command::new(line[0])
        .args(&line[1..])
        .args(["demo", "--json"])
        .args(options)
        // Another user may not enter this one.
        .current_dir("/")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return fail(format!("{}: {error}", line[0].display())),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    println!("  {last}");
    let verdict: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return fail(format!("demo ended with {}: {last}\n{errors}", output.status));
    }
    match complaint(&verdict, options.contains(&"--input")) {
        Some(why) => fail(format!("{why}: {last}\n{errors}")),
        None => Ok(Told { verdict, errors }),
    }
}

/// What is wrong with the verdict of a demo that ended with 0.
fn complaint(verdict: &serde_json::Value, own_input: bool) -> Option<String> {
    if verdict["verdict"] != "ok" {
        return Some("the demo's verdict is not ok".to_owned());
    }
    let Some(seconds) = verdict["seconds"].as_f64() else {
        return Some("the demo does not say how long it took".to_owned());
    };
    let too_long = !own_input && seconds > DEMO_SECONDS_MAX;
    too_long.then(|| format!("the demo took {seconds} s, at most {DEMO_SECONDS_MAX}"))
}

fn repeat(times: usize, before: &[&str], options: &[&str]) -> Outcome {
    if before.first().is_some_and(|first| !has(first)) {
        return Outcome::Skipped(format!("needs {}", before[0]));
    }
    end(program()
        .and_then(|program| (0..times).try_for_each(|_| demo(&program, before, options).map(drop))))
}

/// Two demos beside each other, with ports and directories of their own.
fn two_at_once() -> Step<()> {
    let program = program()?;
    let second = program.clone();
    let other = std::thread::spawn(move || demo(&second, &[], &[]).map(drop));
    let one = demo(&program, &[], &[]).map(drop);
    let other = other.join().unwrap_or_else(|_| fail("the second demo's thread ended"));
    one.and(other)
}

/// Ctrl-C in the middle: no process and no directory is left.
fn interrupted() -> Step<()> {
    let program = program()?;
    let home = match tempfile::tempdir_in("/var/tmp") {
        Ok(home) => home,
        Err(error) => return fail(format!("/var/tmp: {error}")),
    };
    let child = Command::new(program)
        .args(["demo", "--records", "2000000"])
        .env("TMPDIR", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return fail(format!("demo: {error}")),
    };
    wait_until("the nodes of the demo", || !nodes_below(home.path()).is_empty())?;
    let pid = rustix::process::Pid::from_child(&child);
    if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::INT) {
        return fail(format!("SIGINT: {error}"));
    }
    let mut code = None;
    wait_until("the end of the demo", || {
        code = child.try_wait().ok().flatten();
        code.is_some()
    })?;
    wait_until("the end of its nodes", || nodes_below(home.path()).is_empty())?;
    let left = std::fs::read_dir(home.path()).map_or(0, Iterator::count);
    if left > 0 || code.is_some_and(|code| code.success()) {
        return fail(format!("interrupted, the demo ended with {code:?} and left {left} entries"));
    }
    Ok(())
}

/// Processes that run with a configuration below `dir`.
fn nodes_below(dir: &Path) -> Vec<String> {
    let dir = dir.display().to_string();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|p| std::fs::read_to_string(p.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&dir) && line.contains("node.toml")).collect()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Step<()> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !holds() {
        if std::time::Instant::now() > end {
            return fail(format!("waited 30 s for {what}"));
        }
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    Ok(())
}

pub(super) fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    found.is_ok_and(|output| output.status.success())
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Starts a program as a user without privileges, with Debian's default limit of locked memory.
pub(super) const ORDINARY_USER: [&str; 5] =
    ["prlimit", "--memlock=8388608", "setpriv", "--reuid=65534", "--regid=65534"];

/// Why no other user can be become here.
pub(super) fn stays_itself() -> Option<Outcome> {
    if !is_root() {
        return Some(Outcome::Skipped("needs root to become another user".to_owned()));
    }
    let lacks = !has("setpriv") || !has("prlimit");
    lacks.then(|| Outcome::Skipped("needs setpriv and prlimit (util-linux)".to_owned()))
}

/// As an ordinary user: it works with the buffers that the kernel allows, and says so once.
fn ordinary_user() -> Outcome {
    if let Some(skipped) = stays_itself() {
        return skipped;
    }
    end(public_copy().and_then(|copy| {
        let rest = ["--clear-groups", "env", "TMPDIR=/var/tmp"];
        let before: Vec<&str> = ORDINARY_USER.into_iter().chain(rest).collect();
        let told = demo(&copy.path().join("palisade"), &before, &[])?;
        match told.errors.lines().filter(|line| line.contains("unregistered")).count() {
            1 => Ok(()),
            times => fail(format!("it says {times} times that buffers stay unregistered, not 1")),
        }
    }))
}

/// The tests that need programs which `cargo test --workspace` must do without.
fn restricted() -> Outcome {
    let needs = ["strace", "setpriv", "prlimit"];
    if let Some(missing) = needs.into_iter().find(|program| !has(program)) {
        return Outcome::Skipped(format!("needs {missing}"));
    }
    cargo(&["test", "--package", "palisade-tools", "--test", "machine", "limits::"], &[])
}

/// Disks that fail and disks that are full, of loop devices, and a setting of the kernel that is
/// shown to a node alone. What is mounted is gone with the
/// namespace that it is mounted in, however the tests end.
fn disks() -> Outcome {
    if !is_root() {
        return Outcome::Skipped("needs root to mount".to_owned());
    }
    let needs = ["unshare", "mount", "mkfs.ext4", "fallocate", "strace"];
    if let Some(missing) = needs.into_iter().find(|program| !has(program)) {
        return Outcome::Skipped(format!("needs {missing}"));
    }
    let test = ["cargo", "test", "--package", "palisade-tools", "--test", "machine"];
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .args(test)
        .args(["--", "disk::", "sysctl::"])
        .current_dir(root())
        .status();
    match status {
        Ok(status) if status.success() => Outcome::Passed,
        Ok(status) => Outcome::Failed(vec![format!("{}: {status}", test.join(" "))]),
        Err(error) => Outcome::Failed(vec![format!("unshare: {error}")]),
    }
}

/// The program where every user can run it.
fn public_copy() -> Step<tempfile::TempDir> {
    let program = program()?;
    let made = tempfile::tempdir_in("/var/tmp").and_then(|dir| {
        std::fs::copy(&program, dir.path().join("palisade"))?;
        open_to_all(dir.path())?;
        Ok(dir)
    });
    made.or_else(|error| fail(format!("/var/tmp: {error}")))
}

pub(super) fn open_to_all(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// Real PostgreSQL WAL through the demo: what every node returns has the digest of the input.
fn postgres() -> Outcome {
    let Some(bin) = postgres_bin() else {
        return Outcome::Skipped("needs PostgreSQL's server (Debian: postgresql)".to_owned());
    };
    if is_root() && !has("setpriv") {
        return Outcome::Skipped("needs setpriv: PostgreSQL refuses to run as root".to_owned());
    }
    end(replicate_postgres(&bin))
}

fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut bins: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    bins.retain(|bin| bin.join("initdb").exists() && bin.join("pgbench").exists());
    bins.sort();
    bins.pop()
}

fn replicate_postgres(bin: &Path) -> Step<()> {
    let home = match tempfile::tempdir_in("/var/tmp") {
        Ok(home) => home,
        Err(error) => return fail(format!("/var/tmp: {error}")),
    };
    make_wal(bin, home.path())?;
    let input = home.path().join("wal");
    let bytes = collect_wal(&home.path().join("data/pg_wal"), &input)?;
    if bytes < POSTGRES_BYTES {
        return fail(format!("PostgreSQL wrote {bytes} bytes of WAL, {POSTGRES_BYTES} are needed"));
    }
    let expected = digest(&input)?;
    let path = input.display().to_string();
    let Told { verdict, .. } = demo(&program()?, &[], &["--input", &path])?;
    let nodes = verdict["nodes"].as_array().cloned().unwrap_or_default();
    let wrong: Vec<String> = nodes
        .iter()
        .filter(|node| node["sha256"] != expected.as_str())
        .map(|node| format!("{}: sha256 {}, expected {expected}", node["name"], node["sha256"]))
        .collect();
    if nodes.len() != DEMO_NODES || !wrong.is_empty() {
        return Err(Outcome::Failed(wrong));
    }
    println!("  {bytes} bytes of PostgreSQL WAL, sha256 {expected} from {} nodes", nodes.len());
    Ok(())
}

/// Makes WAL as PostgreSQL's user: a new cluster, and pgbench until there is enough.
fn make_wal(bin: &Path, home: &Path) -> Step<()> {
    let script = format!(
        "set -e; cd {home}; export PATH={bin}:$PATH PGHOST={home} PGPORT=54329; \
         initdb -D data -A trust -U bench --no-sync >/dev/null; \
         echo \"wal_keep_size = '2GB'\nmax_wal_size = '4GB'\nlisten_addresses = ''\n\
unix_socket_directories = '{home}'\nfsync = off\" >> data/postgresql.conf; \
         pg_ctl -D data -w -s -l log start; \
         createdb -U bench bench; pgbench -U bench -i -q -s 20 bench >/dev/null 2>&1; \
         pgbench -U bench -c 4 -j 2 -t 2500 bench >/dev/null 2>&1; \
         psql -U bench -q -c 'select pg_switch_wal()' bench >/dev/null; \
         pg_ctl -D data -w -s -m fast stop",
        home = home.display(),
        bin = bin.display()
    );
    let mut command = match is_root() {
        true => {
            use std::os::unix::fs::chown;
            if let Err(error) = chown(home, Some(65534), Some(65534)) {
                return fail(format!("{}: {error}", home.display()));
            }
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c"]);
            command
        }
        false => {
            let mut command = Command::new("sh");
            command.arg("-c");
            command
        }
    };
    match command.arg(&script).stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => fail(format!("PostgreSQL: {status}")),
        Err(error) => fail(format!("PostgreSQL: {error}")),
    }
}

/// Copies the segment files in name order; returns their bytes.
fn collect_wal(from: &Path, to: &Path) -> Step<u64> {
    let copied = (|| {
        std::fs::create_dir(to)?;
        let mut bytes = 0;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.file_name().len() == 24 {
                bytes += std::fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok::<u64, std::io::Error>(bytes)
    })();
    copied.or_else(|error| fail(format!("{}: {error}", from.display())))
}

fn digest(dir: &Path) -> Step<String> {
    let script = format!("cat {}/* | sha256sum", dir.display());
    match Command::new("sh").args(["-c", &script]).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
        }
        _ => fail("sha256sum failed"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_demo_of_the_default_input_must_end_in_time() {
        let verdict = |word: &str, seconds: f64| json!({"verdict": word, "seconds": seconds});
        assert_eq!(complaint(&verdict("ok", 90.0), false), None);
        assert!(complaint(&verdict("ok", 90.1), false).is_some());
        assert_eq!(complaint(&verdict("ok", 150.0), true), None, "an own input takes its time");
        assert!(complaint(&verdict("failed", 1.0), false).is_some());
        assert!(complaint(&json!({"verdict": "ok"}), false).is_some());
    }
}
