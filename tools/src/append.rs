//! `palisade append`: a file or stdin, cut into records.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use palisade::client::wire::{Outcome, PAYLOAD_BYTES_MAX};
use palisade::client::{AppendOptions, Fate, Next, Totals};
use serde_json::json;

use crate::cli::Append;
use crate::exit::{Exit, Failure};
use crate::status::client;
use crate::text;

/// Records read ahead of the network.
const READ_AHEAD: usize = 1024;

type Line = Result<Vec<u8>, Failure>;

/// `palisade append`
pub(crate) fn run(options: &Append) -> Result<Exit, Failure> {
    let mut client = client(&options.at, Duration::from_millis(options.timeout))?;
    let records = start_reading(options)?;
    let mut input_error = None;
    let mut source = |wait: bool| {
        let next = match wait {
            true => records.recv().map_err(|_| TryRecvError::Disconnected),
            false => records.try_recv(),
        };
        match next {
            Ok(Ok(record)) => Next::Record(record),
            Ok(Err(failure)) => {
                input_error = Some(failure);
                Next::End
            }
            Err(TryRecvError::Empty) => Next::Pending,
            Err(TryRecvError::Disconnected) => Next::End,
        }
    };
    let settings = AppendOptions {
        stream: options.stream,
        producer: options.producer.unwrap_or(0),
        first_sequence: options.first_sequence,
        in_flight: options.in_flight as usize,
        timeout: Duration::from_millis(options.timeout),
    };
    let mut printer = Printer::new(options.json);
    let totals = client.append_many(&settings, &mut source, &mut |fate| printer.on_fate(&fate));
    printer.finish()?;
    let totals = totals?;
    if let Some(failure) = input_error {
        return Err(failure);
    }
    if !options.json {
        let Totals { acked, failed, unknown, .. } = totals;
        text::say(format!("acked {acked} failed {failed} unknown {unknown}\n"))?;
    }
    match totals.failed + totals.unknown {
        0 => Ok(Exit::Ok),
        _ => Ok(Exit::Failed),
    }
}

/// Reads records on a thread of its own, so that a slow pipe does not hold up answers.
fn start_reading(options: &Append) -> Result<Receiver<Line>, Failure> {
    let input: Box<dyn Read + Send> = match &options.file {
        None => Box::new(std::io::stdin()),
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::io(path.display(), &error))?;
            Box::new(file)
        }
    };
    let (send, receive) = sync_channel(READ_AHEAD);
    let bytes = (!options.lines).then_some(options.record_bytes as usize);
    std::thread::spawn(move || {
        let input = BufReader::with_capacity(1 << 20, input);
        let result = match bytes {
            Some(bytes) => read_chunks(input, bytes, &send),
            None => read_lines(input, &send),
        };
        if let Err(failure) = result {
            // Nobody listens any more when the run has ended.
            let _ = send.send(Err(failure));
        }
    });
    Ok(receive)
}

fn read_chunks(
    mut input: impl BufRead,
    bytes: usize,
    send: &SyncSender<Line>,
) -> Result<(), Failure> {
    loop {
        let mut record = Vec::with_capacity(bytes);
        let mut part = input.by_ref().take(bytes as u64);
        let read = part.read_to_end(&mut record).map_err(|error| Failure::io("input", &error))?;
        if read == 0 || send.send(Ok(record)).is_err() {
            return Ok(());
        }
    }
}

fn read_lines(mut input: impl BufRead, send: &SyncSender<Line>) -> Result<(), Failure> {
    for number in 1u64.. {
        let mut record = Vec::new();
        let mut part = input.by_ref().take(PAYLOAD_BYTES_MAX as u64 + 1);
        let read = part.read_until(b'\n', &mut record);
        if read.map_err(|error| Failure::io("input", &error))? == 0 {
            break;
        }
        if record.last() == Some(&b'\n') {
            record.pop();
        } else if record.len() > PAYLOAD_BYTES_MAX {
            let text = format!("line {number} has more than {PAYLOAD_BYTES_MAX} bytes; cut it");
            return Err(Failure::new(Exit::Failed, text));
        }
        if send.send(Ok(record)).is_err() {
            break;
        }
    }
    Ok(())
}

struct Printer {
    json: bool,
    out: BufWriter<std::io::Stdout>,
    error: Option<std::io::Error>,
}

impl Printer {
    fn new(json: bool) -> Printer {
        Printer { json, out: BufWriter::new(std::io::stdout()), error: None }
    }

    fn on_fate(&mut self, fate: &Fate) {
        let appended = &fate.appended;
        let acked = appended.outcome == Outcome::Acked;
        // Numbered like the producer's sequences; without a producer from 1 as well.
        let seq = if fate.sequence == 0 { fate.index + 1 } else { fate.sequence };
        if self.json {
            let line = json!({
                "seq": seq,
                "outcome": appended.outcome.as_str(),
                "lsn": appended.lsn,
                "end_lsn": appended.end_lsn,
                "scn": appended.scn,
                "level": appended.level,
            });
            let written = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
            self.error = self.error.take().or(written.err());
        }
        if !acked {
            eprintln!("palisade: record {seq} {}: {}", appended.outcome.as_str(), fate.why);
        }
    }

    fn finish(mut self) -> Result<(), Failure> {
        let flushed = self.out.flush();
        match self.error.take().or(flushed.err()) {
            Some(error) => Err(Failure::io("stdout", &error)),
            None => Ok(()),
        }
    }
}
