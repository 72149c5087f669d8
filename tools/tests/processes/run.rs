//! One command, with a limit, and what came of it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a child is looked at.
pub const POLL: Duration = Duration::from_millis(3);

/// What came of a command.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A child that does not outlive its owner.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program under test.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.env_remove("PALISADE_AT").stdin(Stdio::null());
    command
}

/// Runs the program and waits for its end.
pub fn palisade(arguments: &[&str]) -> Done {
    let mut command = program();
    command.args(arguments);
    run(command, Duration::from_secs(90))
}

/// Runs a command; one that takes longer than `limit` is killed.
pub fn run(mut command: Command, limit: Duration) -> Done {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().expect("the command starts"));
    let out = collect(child.0.stdout.take().expect("piped"));
    let err = collect(child.0.stderr.take().expect("piped"));
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.0.try_wait().expect("a child of this process") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => break None,
            None => std::thread::park_timeout(POLL),
        }
    };
    drop(child);
    let code = status.and_then(|status| status.code());
    let text = |part: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&part.join().expect("it only reads")).into_owned()
    };
    Done { code, out: text(out), err: text(err) }
}

fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        // What came before the pipe broke is what there is.
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// Waits until `probe` gives something, at most for `limit`.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        match probe() {
            None if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            found => return found,
        }
    }
}

/// Waits until `probe` gives something; fails when it takes longer than `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, probe: impl FnMut() -> Option<T>) -> T {
    within(limit, probe).unwrap_or_else(|| panic!("{what}: not within {limit:?}"))
}

impl Done {
    /// The exit code is `code` and the message has every one of `words`.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in {:?}", self.err);
        }
    }

    /// It did what it should; gives its output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// It did what it should and said it in JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }
}
