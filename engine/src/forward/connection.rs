//! One reader's connection: reads its control frames and writes what is queued for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use palisade_netio::{FrameError, FrameHead, SlotView};

use super::limits::{CONTROL_BYTES, JOIN_BYTES};
use super::maps::Mapped;
use super::wire::{FROM_READER, FromReader};

/// Wakes one task of this thread.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether it rang since the last time; if not, the task is woken when it does.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> bool {
        if self.rung.take() {
            return true;
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        false
    }

    pub(crate) async fn heard(&self) {
        poll_fn(|cx| if self.poll(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}

/// The body of a frame that waits to be written.
#[derive(Debug)]
pub(crate) enum Body {
    None,
    View(SlotView, Range<usize>),
    Mapped(Rc<Mapped>, Range<usize>),
}

impl Body {
    fn bytes(&self) -> &[u8] {
        match self {
            Body::None => &[],
            Body::View(view, range) => &view[range.clone()],
            Body::Mapped(mapped, range) => &mapped.map[range.clone()],
        }
    }
}

/// What is queued for a connection, and how it is told to end.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) bell: Bell,
    frames: RefCell<VecDeque<(Vec<u8>, Body)>>,
    /// Ends once everything is written.
    pub(crate) finish: Cell<bool>,
    /// Ends now.
    pub(crate) abort: Cell<bool>,
}

impl Outbox {
    pub(crate) fn push(&self, head: Vec<u8>, body: Body) {
        self.frames.borrow_mut().push_back((head, body));
        self.bell.ring();
    }
}

/// What a connection reports.
pub(crate) trait Report {
    fn said(&self, said: FromReader);
    fn sent(&self, bytes: u64, frames: usize);
}

/// What is being written: small frames joined, then at most one large body.
#[derive(Debug, Default)]
struct Writing {
    bytes: Vec<u8>,
    body: Option<Body>,
    at: usize,
    /// Bytes at the start that the state machine does not count.
    uncounted: usize,
    frames: usize,
}

impl Writing {
    fn fill(&mut self, frames: &mut VecDeque<(Vec<u8>, Body)>) {
        while self.body.is_none() && self.bytes.len() < JOIN_BYTES {
            let Some((head, body)) = frames.pop_front() else { break };
            self.bytes.extend_from_slice(&head);
            self.frames += 1;
            if body.bytes().len() < JOIN_BYTES {
                self.bytes.extend_from_slice(body.bytes());
            } else {
                self.body = Some(body);
            }
        }
    }

    fn rest(&self) -> &[u8] {
        match &self.body {
            Some(body) if self.at >= self.bytes.len() => {
                &body.bytes()[self.at - self.bytes.len()..]
            }
            _ => &self.bytes[self.at..],
        }
    }

    fn is_done(&self) -> bool {
        self.rest().is_empty() && (self.body.is_none() || self.at > self.bytes.len())
    }

    /// A reader that does not take its bytes at once does not hold a shard's memory: the rest
    /// is copied.
    fn let_go(&mut self) {
        if matches!(self.body, Some(Body::View(..))) {
            let body = self.body.take().expect("it was just there");
            self.bytes.extend_from_slice(body.bytes());
        }
    }
}

/// Serves a connection until either side ends it. Closes the socket.
pub(crate) async fn serve(
    mut stream: TcpStream,
    welcome: Vec<u8>,
    outbox: Rc<Outbox>,
    report: impl Report,
) {
    let mut reading = Reading { buffer: vec![0; CONTROL_BYTES], filled: 0 };
    let uncounted = welcome.len();
    let mut writing = Writing { bytes: welcome, uncounted, ..Writing::default() };
    loop {
        let step = poll_fn(|cx| {
            // Registered before anything is looked at, so that nothing queued is missed.
            let mut moved = outbox.bell.poll(cx);
            if outbox.abort.get() {
                return Poll::Ready(false);
            }
            match reading.poll(cx, &mut stream, &report) {
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
            match poll_write(cx, &mut stream, &mut writing, &outbox, &report) {
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
            if moved { Poll::Ready(true) } else { Poll::Pending }
        });
        if !step.await {
            break;
        }
        let idle = writing.is_done() && outbox.frames.borrow().is_empty();
        if outbox.finish.get() && idle {
            break;
        }
        glommio::yield_if_needed().await;
    }
    drop(stream);
}

fn poll_write(
    cx: &mut Context<'_>,
    stream: &mut TcpStream,
    writing: &mut Writing,
    outbox: &Outbox,
    report: &impl Report,
) -> Poll<std::io::Result<()>> {
    if writing.is_done() {
        *writing = Writing::default();
        writing.fill(&mut outbox.frames.borrow_mut());
        if writing.rest().is_empty() {
            return Poll::Pending;
        }
    }
    let polled = Pin::new(stream).poll_write(cx, writing.rest());
    let written = match polled {
        Poll::Pending => {
            writing.let_go();
            return Poll::Pending;
        }
        Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
        Poll::Ready(Ok(written)) => written,
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
    };
    writing.at += written;
    let skipped = writing.uncounted.min(written);
    writing.uncounted -= skipped;
    let frames = if writing.is_done() { std::mem::take(&mut writing.frames) } else { 0 };
    report.sent((written - skipped) as u64, frames);
    Poll::Ready(Ok(()))
}

struct Reading {
    buffer: Vec<u8>,
    filled: usize,
}

impl Reading {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        report: &impl Report,
    ) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(stream).poll_read(cx, &mut self.buffer[self.filled..]);
        match polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(Ok(read)) => self.filled += read,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
        let mut at = 0;
        loop {
            match frame(&self.buffer[at..self.filled]) {
                Ok(Some((said, len))) => {
                    report.said(said);
                    at += len;
                }
                Ok(None) => break,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        Poll::Ready(Ok(()))
    }
}

/// The control frame at the start of `bytes`, if it is there whole.
fn frame(bytes: &[u8]) -> std::io::Result<Option<(FromReader, usize)>> {
    let head = match FrameHead::parse(bytes, &FROM_READER) {
        Ok(head) => head,
        Err(FrameError::Short { .. }) => return Ok(None),
        Err(error) => return Err(std::io::Error::other(error)),
    };
    let Some(body) = bytes.get(usize::from(head.head_len)..head.frame_len()) else {
        return Ok(None);
    };
    head.check_body(body).map_err(std::io::Error::other)?;
    let said = FromReader::parse(&head, body).map_err(std::io::Error::other)?;
    Ok(Some((said, head.frame_len())))
}
