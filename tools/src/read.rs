//! `palisade read`

use std::io::{BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use palisade::client::{ReadOptions, ReadRecord};

use crate::cli::{Output, Read};
use crate::exit::{Exit, Failure};
use crate::status::client;
use crate::text;

/// `palisade read`
pub(crate) fn run(options: &Read) -> Result<Exit, Failure> {
    let timeout = Duration::from_millis(options.timeout);
    let mut client = client(&options.at, timeout)?;
    let settings = ReadOptions {
        stream: options.stream,
        from: options.from,
        to: options.to,
        follow: options.follow,
        timeout,
    };
    let mut out = BufWriter::with_capacity(1 << 20, std::io::stdout());
    let mut error = None;
    let mut on_record = |record: &ReadRecord<'_>| {
        let written = match options.output {
            Output::Raw => out.write_all(record.payload),
            Output::Jsonl => writeln!(
                out,
                "{{\"lsn\":{},\"end_lsn\":{},\"scn\":{},\"payload_b64\":\"{}\"}}",
                record.lsn,
                record.end_lsn,
                record.scn,
                text::base64(record.payload)
            ),
        };
        let written = match options.follow {
            true => written.and_then(|()| out.flush()),
            false => written,
        };
        error = written.err();
        if error.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let read = client.read(&settings, &mut on_record);
    let flushed = out.flush();
    match error.or(flushed.err()) {
        // The reader of the pipe has enough.
        Some(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Ok),
        Some(error) => return Err(Failure::io("stdout", &error)),
        None => {}
    }
    read?;
    Ok(Exit::Ok)
}
