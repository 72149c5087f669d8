//! The client's list of streams against a made-up node that has more than one answer holds.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use palisade::client::wire::{
    KIND_LIST_STREAMS, KIND_STREAMS, STREAMS_MAX, StreamEntry, encode_streams,
};
use palisade::client::{Client, ClientOptions};
use palisade_netio::{FrameHead, FrameLimits, Identity, Welcome};

fn frame(socket: &mut TcpStream) -> Option<FrameHead> {
    let mut head = [0; 64];
    socket.read_exact(&mut head).ok()?;
    let head = FrameHead::parse(&head, &FrameLimits::ANY).expect("a frame");
    let mut body = vec![0; head.body_len as usize];
    socket.read_exact(&mut body).ok()?;
    Some(head)
}

/// A node with streams 0 to `count` - 1; ends when the test does.
fn node(count: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            frame(&mut socket).expect("a greeting");
            let identity = Identity { cluster: 1, node: 9, shards: 1, ..Identity::default() };
            socket.write_all(&Welcome::new(identity).encode()).expect("room");
            while let Some(head) = frame(&mut socket) {
                assert_eq!(head.kind, KIND_LIST_STREAMS);
                let entry = |id| StreamEntry { id, leader: 9, base_lsn: 0, committed_lsn: id };
                let part: Vec<_> = (head.tag2..count).take(STREAMS_MAX).map(entry).collect();
                let body = encode_streams(&part);
                let answer = FrameHead::encode(KIND_STREAMS, head.tag, head.tag2, &body);
                socket.write_all(&answer).expect("the client reads");
            }
        }
    });
    addr
}

#[test]
fn a_list_of_streams_is_whole_however_many_there_are() {
    for count in [3, STREAMS_MAX as u64, 2 * STREAMS_MAX as u64 + 1] {
        let options = ClientOptions { cluster: 1, timeout: Duration::from_secs(10) };
        let mut client = Client::new(&[node(count).to_string()], options).expect("an address");
        let streams = client.list_streams().expect("an answer");
        let ids: Vec<u64> = streams.iter().map(|stream| stream.id).collect();
        assert!(ids.iter().copied().eq(0..count), "{} of {count} streams", ids.len());
    }
}
