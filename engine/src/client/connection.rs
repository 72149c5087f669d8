//! One blocking connection: greeting, frames out, frames in, deadlines.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use palisade_netio::limits::FRAME_HEAD_BYTES;
use palisade_netio::{
    ANY_NODE, ANY_SHARD, Class, FrameError, FrameHead, FrameLimits, Hello, Identity, KIND_REFUSAL,
    KIND_WELCOME, Refusal, RefusalCode, Target, Welcome,
};

use super::ClientError;

/// Bytes asked of the kernel at a time, at least.
const READ_BYTES: usize = 64 << 10;
/// Longest single wait in the kernel; deadlines are looked at in between.
const TICK: Duration = Duration::from_millis(50);
/// Shortest wait that is asked of the kernel (0 would mean for ever).
const WAIT_MIN: Duration = Duration::from_millis(1);

/// A frame that arrived; its bytes stay in the connection until the next is asked for.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Its head, checked.
    pub head: FrameHead,
    /// What follows the first 64 bytes of a bulk head; empty for a plain one.
    pub prefix: &'a [u8],
    /// Its body, checked where it has a checksum.
    pub body: &'a [u8],
}

/// A greeted connection to one node.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    addr: SocketAddr,
    peer: Identity,
    inbox: Vec<u8>,
    /// First byte of the inbox that was not handed out.
    start: usize,
    /// First byte of the inbox that was not received.
    end: usize,
    wait: Duration,
}

impl Connection {
    /// Connects and greets. `cluster` 0 means any; `stream` routes to the stream's shard.
    ///
    /// # Errors
    /// When the node cannot be reached, refuses, or answers nonsense.
    pub fn open(
        addr: SocketAddr,
        class: Class,
        cluster: u32,
        stream: u64,
        timeout: Duration,
    ) -> Result<Connection, ClientError> {
        let target = Target { cluster, node: ANY_NODE, shard: ANY_SHARD };
        let hello = Hello { stream, ..Hello::new(class, Identity::default(), target) };
        Connection::greet_with(addr, &hello, timeout)
    }

    /// The same, with a greeting of the caller's.
    ///
    /// # Errors
    /// As [`open`](Connection::open).
    pub fn greet_with(
        addr: SocketAddr,
        hello: &Hello,
        timeout: Duration,
    ) -> Result<Connection, ClientError> {
        let io = |source| ClientError::Io { addr, source };
        let deadline = Instant::now() + timeout;
        let socket = TcpStream::connect_timeout(&addr, timeout.max(WAIT_MIN)).map_err(io)?;
        socket.set_nodelay(true).map_err(io)?;
        socket.set_write_timeout(Some(timeout.max(WAIT_MIN))).map_err(io)?;
        socket.set_read_timeout(Some(TICK)).map_err(io)?;
        let mut connection = Connection {
            socket,
            addr,
            peer: Identity::default(),
            inbox: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            wait: TICK,
        };
        connection.send(&hello.encode())?;
        connection.greet(hello.target.cluster, deadline)?;
        Ok(connection)
    }

    fn greet(&mut self, cluster: u32, deadline: Instant) -> Result<(), ClientError> {
        let addr = self.addr;
        let Some(frame) = self.receive(&FrameLimits::GREETING, deadline)? else {
            let source = std::io::Error::new(ErrorKind::TimedOut, "no greeting in time");
            return Err(ClientError::Io { addr, source });
        };
        let refused = |refusal| ClientError::Greeting { addr, refusal };
        let welcome = match frame.head.kind {
            KIND_WELCOME => Welcome::parse(frame.body).map_err(refused)?,
            KIND_REFUSAL => {
                let unreadable = || Refusal::new(RefusalCode::Malformed, "unreadable refusal");
                return Err(refused(Refusal::parse(frame.body).unwrap_or_else(unreadable)));
            }
            kind => {
                let what = format!("frame of kind {kind} instead of a greeting");
                return Err(ClientError::Protocol { addr, what });
            }
        };
        if cluster != 0 && welcome.from.cluster != cluster {
            let text = format!("a node of cluster {}, wanted {cluster}", welcome.from.cluster);
            return Err(refused(Refusal::new(RefusalCode::Cluster, text)));
        }
        self.peer = welcome.from;
        Ok(())
    }

    /// The node's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Who the node says it is.
    pub fn peer(&self) -> Identity {
        self.peer
    }

    /// Sends a whole frame.
    ///
    /// # Errors
    /// When the connection failed; part of the frame may have left.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        let addr = self.addr;
        self.socket.write_all(frame).map_err(|source| ClientError::Io { addr, source })
    }

    /// The next frame, or `None` at the deadline.
    ///
    /// # Errors
    /// When the connection failed or ended, or the bytes are no frame within `limits`.
    pub fn receive(
        &mut self,
        limits: &FrameLimits,
        deadline: Instant,
    ) -> Result<Option<Frame<'_>>, ClientError> {
        let addr = self.addr;
        let head = loop {
            match FrameHead::parse(&self.inbox[self.start..self.end], limits) {
                Ok(head) => break head,
                Err(FrameError::Short { need }) => {
                    if !self.fill(need, deadline)? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(ClientError::frame(addr, error)),
            }
        };
        if !self.fill(head.frame_len(), deadline)? {
            return Ok(None);
        }
        let frame = self.start..self.start + head.frame_len();
        self.start = frame.end;
        let bytes = &self.inbox[frame];
        let (whole_head, body) = bytes.split_at(usize::from(head.head_len));
        head.check_body(body).map_err(|error| ClientError::frame(addr, error))?;
        Ok(Some(Frame { head, prefix: &whole_head[FRAME_HEAD_BYTES..], body }))
    }

    /// Waits until `need` bytes are there; `false` at the deadline. Lengths were checked before.
    fn fill(&mut self, need: usize, deadline: Instant) -> Result<bool, ClientError> {
        while self.end - self.start < need {
            self.make_room(need);
            let now = Instant::now();
            // What the kernel already has is taken even when the deadline has passed.
            let wait = deadline.saturating_duration_since(now).clamp(WAIT_MIN, TICK);
            if let Err(source) = self.wait_at_most(wait) {
                return Err(ClientError::Io { addr: self.addr, source });
            }
            match self.socket.read(&mut self.inbox[self.end..]) {
                Ok(0) => {
                    let source = ErrorKind::UnexpectedEof.into();
                    return Err(ClientError::Io { addr: self.addr, source });
                }
                Ok(count) => self.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => {
                    if Instant::now() >= deadline {
                        return Ok(false);
                    }
                }
                Err(source) => return Err(ClientError::Io { addr: self.addr, source }),
            }
        }
        Ok(true)
    }

    fn make_room(&mut self, need: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let want = need.max(READ_BYTES);
        if self.inbox.len() - self.start < want {
            self.inbox.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.inbox.len() < want {
                self.inbox.resize(want, 0);
            }
        }
    }

    fn wait_at_most(&mut self, wait: Duration) -> std::io::Result<()> {
        if wait != self.wait {
            self.socket.set_read_timeout(Some(wait))?;
            self.wait = wait;
        }
        Ok(())
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
