//! Listener and handshake.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use palisade_netio::{
    Class, DownReason, FrameHead, Greeted, Hello, Identity, LinkEvent, ListenLimits, Op, Payload,
    Refusal, RefusalCode, Ring, Target, Uring, UringConfig, Welcome, adopt_tcp,
};

use crate::pump::{CLIENT, EXPECT, Pump, SERVER, Seen, hello};

#[test]
fn both_sides_learn_who_the_other_is() {
    let mut pump = Pump::new();
    let (dialled, accepted) = pump.pair(Class::Control);
    pump.until(|pump| pump.links[dialled].is_up());
    pump.turn();
    assert_eq!(pump.seen[dialled], [Seen::Up(SERVER)]);
    assert_eq!(pump.seen[accepted], [Seen::Up(CLIENT)]);
}

#[test]
fn version_six_addresses_work_too() {
    let mut pump = Pump::new();
    let addr = pump.listen("[::1]:0", ListenLimits::default());
    let dialled = pump.dial(addr, hello(Class::Bulk));
    pump.accept();
    pump.until(|pump| pump.links[dialled].is_up());
}

#[test]
fn a_refusal_reaches_the_dialler_in_words_and_it_tries_again() {
    let mut pump = Pump::new();
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let wrong = Hello::new(Class::Control, CLIENT, Target { cluster: 7, node: 5, shard: 1 });
    let dialled = pump.dial(addr, wrong);
    for _ in 0..2 {
        pump.until(|pump| !pump.greeted.is_empty());
        let Greeted { socket, hello, .. } = pump.greeted.remove(0);
        let refusal = hello.check(&EXPECT).unwrap_err();
        let listener = pump.listener.as_mut().unwrap();
        listener.refuse(&mut pump.ring, &mut pump.pool, socket, &refusal);
    }
    pump.until(|pump| !pump.downs(dialled).is_empty());
    let expected = Refusal::new(RefusalCode::Node, "target node 5, expected 2");
    assert_eq!(pump.links[dialled].last_reason(), Some(&DownReason::Refused(expected.clone())));
    // The second refusal is the same news.
    assert_eq!(pump.downs(dialled), [&DownReason::Refused(expected)]);
}

#[test]
fn an_impostor_is_not_taken_for_the_target() {
    let mut pump = Pump::new();
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let dialled = pump.dial(addr, hello(Class::Control));
    pump.until(|pump| !pump.greeted.is_empty());
    let Greeted { socket, .. } = pump.greeted.remove(0);
    let mut stream = adopt_tcp(socket);
    let other = Identity { node: 3, ..SERVER };
    stream.write_all(&Welcome::new(other).encode()).unwrap();
    pump.until(|pump| !pump.downs(dialled).is_empty());
    let text = "answering node 3, expected 2";
    assert_eq!(
        pump.downs(dialled),
        [&DownReason::WrongPeer(Refusal::new(RefusalCode::Node, text))]
    );
}

#[test]
fn the_listener_reads_the_hello_and_not_a_byte_more() {
    let mut pump = Pump::new();
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let mut client = TcpStream::connect(addr).unwrap();
    let mut bytes = hello(Class::Reader).encode();
    bytes.extend_from_slice(b"and more");
    client.write_all(&bytes).unwrap();
    pump.until(|pump| !pump.greeted.is_empty());
    let Greeted { socket, hello, peer } = pump.greeted.remove(0);
    assert_eq!((hello.class, peer), (Class::Reader, client.local_addr().unwrap()));
    let mut server = adopt_tcp(socket);
    let read = std::thread::spawn(move || {
        let mut rest = [0; 8];
        server.read_exact(&mut rest).unwrap();
        server.write_all(b"thanks").unwrap();
        rest
    });
    assert_eq!(&read.join().unwrap(), b"and more");
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "thanks");
}

#[test]
fn the_kernel_gives_up_on_a_silent_peer_as_soon_as_it_was_told() {
    use rustix::net::sockopt::{socket_keepalive, tcp_keepidle, tcp_user_timeout};
    // Where nothing is sent it asks now and then, a second apart.
    let is_told = |socket: &TcpStream| {
        assert_eq!(tcp_user_timeout(socket), Ok(1234));
        assert_eq!(socket_keepalive(socket), Ok(true));
        assert_eq!(tcp_keepidle(socket), Ok(Duration::from_secs(2)));
    };
    let mut pump = Pump::new();
    let config = UringConfig { user_timeout_ms: 1234, ..UringConfig::default() };
    pump.ring = Uring::new(config, &pump.pool).unwrap();
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let done = pump.run(Op::Connect { addr });
    let Payload::Handle(dialled) = done.payload else { panic!("{done:?}") };
    let mut dialled = adopt_tcp(dialled);
    is_told(&dialled);
    dialled.write_all(&hello(Class::Reader).encode()).unwrap();
    pump.until(|pump| !pump.greeted.is_empty());
    let accepted = adopt_tcp(pump.greeted.remove(0).socket);
    is_told(&accepted);
}

#[test]
fn strangers_are_turned_away() {
    let mut pump = Pump::new();
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let turned_away = |pump: &mut Pump, bytes: &[u8]| {
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(bytes).unwrap();
        let reader = std::thread::spawn(move || {
            let mut answer = Vec::new();
            // Bytes left unread turn the end into a reset.
            let _ = client.read_to_end(&mut answer);
            answer
        });
        pump.until(|_| reader.is_finished());
        reader.join().unwrap()
    };
    assert!(turned_away(&mut pump, &[b'G'; 64]).is_empty());
    assert!(turned_away(&mut pump, &FrameHead::encode_bulk(1, 0, 0, &[], 0)).is_empty());
    let code = |answer: &[u8]| Refusal::parse(&answer[64..]).unwrap().code();
    let other = FrameHead::encode(17, 0, 0, b"no hello");
    assert_eq!(code(&turned_away(&mut pump, &other)), RefusalCode::Malformed);
    let newer = Hello { version: 9, ..hello(Class::Client) }.encode();
    assert_eq!(code(&turned_away(&mut pump, &newer)), RefusalCode::Version);
    assert!(pump.greeted.is_empty());
}

#[test]
fn a_full_house_says_so() {
    let mut pump = Pump::new();
    let limits = ListenLimits { connections_max: 1, ..ListenLimits::default() };
    let addr = pump.listen("127.0.0.1:0", limits);
    let first = pump.dial(addr, hello(Class::Control));
    pump.accept();
    pump.until(|pump| pump.links[first].is_up());
    let second = pump.dial(addr, hello(Class::Control));
    pump.until(|pump| !pump.downs(second).is_empty());
    assert!(
        matches!(pump.downs(second)[0], DownReason::Refused(r) if r.code() == RefusalCode::Busy)
    );
    pump.listener.as_mut().unwrap().connection_ended();
    pump.accept();
    pump.until(|pump| pump.links[second].is_up());
}

#[test]
fn silence_is_not_waited_for_for_ever_and_closing_leaves_nothing() {
    let mut pump = Pump::new();
    let handshake_ns = 100_000_000;
    let limits = ListenLimits { greeting_max: 2, connections_max: 9, handshake_ns };
    let began = pump.ring.now();
    let addr = pump.listen("127.0.0.1:0", limits);
    let silent: Vec<_> = (0..4).map(|_| TcpStream::connect(addr).unwrap()).collect();
    // Two above the limit are closed at once, two when their time is up.
    for mut client in silent {
        let reader = std::thread::spawn(move || client.read(&mut [0]).map_or(0, |n| n));
        pump.until(|_| reader.is_finished());
        assert_eq!(reader.join().unwrap(), 0);
    }
    let waited = pump.ring.now().since(began);
    assert!((handshake_ns..20 * handshake_ns).contains(&waited), "{waited} ns");
    let waiting = TcpStream::connect(addr).unwrap();
    pump.turn();
    let mut listener = pump.listener.take().unwrap();
    listener.close(&mut pump.ring, &mut pump.pool);
    pump.listener = Some(listener);
    pump.until(|pump| pump.listener.as_ref().unwrap().is_closed());
    assert_eq!(pump.ring.in_flight(), 0);
    assert!(TcpStream::connect(addr).is_err());
    drop(waiting);
}

#[test]
fn a_link_says_nothing_after_it_was_closed() {
    let mut pump = Pump::new();
    let (dialled, accepted) = pump.pair(Class::Control);
    pump.until(|pump| pump.links[dialled].is_up());
    let link = &mut pump.links[dialled];
    link.close(&mut pump.ring, &mut pump.pool);
    pump.until(|pump| pump.links[dialled].is_closed() && pump.links[accepted].is_closed());
    assert_eq!(pump.downs(dialled), [&DownReason::Closed]);
    assert_eq!(pump.downs(accepted), [&DownReason::PeerClosed]);
    let event: Option<LinkEvent> = pump.links[dialled].poll_event(&mut pump.ring, &mut pump.pool);
    assert_eq!(event, None);
}
