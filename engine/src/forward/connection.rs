//! One reader's connection: reads its control frames and writes what is queued for it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use palisade_netio::{FileMap, unacknowledged_bytes};

use super::flow::{Body, Inflow, Outflow, Part};
use super::limits::{PIECE_BYTES, SEND_BYTES};
use super::wire::FromReader;

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

/// What is queued for a connection, and how it is told to end.
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) bell: Bell,
    flow: RefCell<Outflow<FileMap>>,
    /// A second handle of the socket, if there is one, that never waits.
    sends: Option<std::net::TcpStream>,
    /// Ends once everything is written.
    pub(crate) finish: Cell<bool>,
    /// Ends now.
    pub(crate) abort: Cell<bool>,
}

impl Outbox {
    pub(crate) fn new(answer: Vec<u8>, sends: Option<std::net::TcpStream>) -> Outbox {
        Outbox {
            bell: Bell::default(),
            sends,
            flow: RefCell::new(Outflow::new(answer)),
            finish: Cell::new(false),
            abort: Cell::new(false),
        }
    }

    pub(crate) fn push(&self, head: Vec<u8>, body: Body<FileMap>) {
        self.flow.borrow_mut().push(head, body);
        self.bell.ring();
    }

    /// Bytes that were written and that the peer has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> u64 {
        self.sends.as_ref().and_then(|socket| unacknowledged_bytes(socket).ok()).unwrap_or(0)
    }
}

/// What a connection reports.
pub(crate) trait Report {
    /// Whether there is room for what is said.
    fn listens(&self) -> bool;
    fn said(&self, said: FromReader);
    fn sent(&self, bytes: u64, frames: usize);
    /// Whether what waits is to be copied.
    fn blocked(&self) -> bool;
}

/// Serves a connection until either side ends it. Closes the socket.
pub(crate) async fn serve(mut stream: TcpStream, outbox: Rc<Outbox>, report: impl Report) {
    let mut inflow = Inflow::default();
    loop {
        let step = poll_fn(|cx| {
            // Registered before anything is looked at, so that nothing queued is missed.
            let mut moved = outbox.bell.poll(cx);
            if outbox.abort.get() {
                return Poll::Ready(false);
            }
            if report.listens() {
                match poll_read(cx, &mut stream, &mut inflow, &report) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => {}
                }
            }
            match poll_write(cx, &mut stream, &outbox, &report) {
                Poll::Ready(Ok(())) => moved = true,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => {}
            }
            if moved { Poll::Ready(true) } else { Poll::Pending }
        });
        if !step.await {
            break;
        }
        if outbox.finish.get() && outbox.flow.borrow().is_empty() {
            break;
        }
        glommio::yield_if_needed().await;
    }
    drop(stream);
}

fn poll_write(
    cx: &mut Context<'_>,
    stream: &mut TcpStream,
    outbox: &Outbox,
    report: &impl Report,
) -> Poll<std::io::Result<()>> {
    let mut flow = outbox.flow.borrow_mut();
    let mut piece = [0; PIECE_BYTES];
    let written = match flow.next_part() {
        Part::Bytes([]) => return Poll::Pending,
        Part::Bytes(bytes) => Pin::new(stream).poll_write(cx, bytes),
        Part::Mapped(mapped, range) => {
            let end = range.end.min(range.start + SEND_BYTES);
            let sends = outbox.sends.as_ref();
            let sent = sends.map(|socket| mapped.map.send_to(socket, range.start..end));
            match sent {
                Some(Ok(sent)) => Poll::Ready(Ok(sent)),
                Some(Err(error)) if error.kind() != std::io::ErrorKind::WouldBlock => {
                    Poll::Ready(Err(error))
                }
                // A few bytes wait until there is room.
                _ => {
                    let len = range.len().min(PIECE_BYTES);
                    let len = mapped.map.read_at(&mut piece[..len], range.start)?;
                    Pin::new(stream).poll_write(cx, &piece[..len])
                }
            }
        }
    };
    let written = match written {
        Poll::Pending => {
            if !flow.is_blocked() && report.blocked() {
                flow.on_blocked();
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
        Poll::Ready(Ok(written)) => written,
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
    };
    let (bytes, frames) = flow.on_written(written);
    report.sent(bytes, frames);
    Poll::Ready(Ok(()))
}

fn poll_read(
    cx: &mut Context<'_>,
    stream: &mut TcpStream,
    inflow: &mut Inflow,
    report: &impl Report,
) -> Poll<std::io::Result<()>> {
    let read = match Pin::new(stream).poll_read(cx, inflow.space()) {
        Poll::Pending => return Poll::Pending,
        Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into())),
        Poll::Ready(Ok(read)) => read,
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
    };
    let parsed = inflow.on_read(read, |said| report.said(said));
    Poll::Ready(parsed.map_err(std::io::Error::other))
}
