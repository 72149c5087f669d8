//! A command of the user's that makes a record's payload readable.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use palisade_wal::Entry;

use crate::exit::{Exit, Failure};

/// Bytes that the command may print of one record.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;

/// Runs `command` in a shell: the payload on its stdin, what it means on its stdout. The variables
/// PALISADE_STREAM and PALISADE_LSN say which record it is.
///
/// # Errors
/// It cannot be started, fails, or prints too much.
pub(crate) fn decode(command: &str, stream: u64, entry: &Entry<'_>) -> Result<String, Failure> {
    let failed = |why: String| {
        let text = format!("--decoder {command:?} at {} of stream {stream}: {why}", entry.lsn);
        Failure::new(Exit::Failed, text)
    };
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped());
    shell.env("PALISADE_STREAM", stream.to_string());
    shell.env("PALISADE_LSN", entry.lsn.to_string());
    let mut child = shell.spawn().map_err(|error| failed(error.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let mut out = Vec::new();
    let read = std::thread::scope(|scope| {
        // Beside the reading: neither side waits for the other. A decoder may read as little as
        // it likes.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(entry.payload)));
        let pipe = stdout.map(|pipe| pipe.take(OUTPUT_BYTES_MAX + 1));
        let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut out));
        if out.len() as u64 > OUTPUT_BYTES_MAX {
            // It may go on for ever.
            let _ = child.kill();
        }
        read
    });
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    read.map_err(|error| failed(error.to_string()))?;
    if out.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(failed(format!("more than {OUTPUT_BYTES_MAX} bytes of output")));
    }
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use palisade_wal::Lsn;

    use super::*;

    fn decoded(command: &str, payload: &[u8]) -> Result<String, Failure> {
        let entry = Entry { lsn: Lsn(96), end: Lsn(200), payload, producer: 0, sequence: 0 };
        decode(command, 7, &entry)
    }

    #[test]
    fn a_payload_goes_through_the_command() {
        assert_eq!(decoded("cat", b"one").as_deref(), Ok("one"));
        let place = "echo $PALISADE_STREAM $PALISADE_LSN";
        assert_eq!(decoded(place, &[0; 1 << 20]).as_deref(), Ok("7 96\n"));
        assert_eq!(decoded("cat", &vec![b'x'; 1 << 20]).map(|text| text.len()), Ok(1 << 20));
        let failure = decoded("exit 3", b"").expect_err("it failed");
        assert!(failure.text.contains("at 96 of stream 7"), "{failure}");
        let endless = decoded("while true; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", b"");
        assert!(endless.expect_err("it is bounded").text.contains("more than"));
    }
}
