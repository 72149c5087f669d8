//! Registered files: which operations use a place, and that each place is given back in time.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_netio::{
    Class, Handle, ListenLimits, Op, OpenHow, Purpose, Ring, Run, SlotId, SyncPath, Token, Uring,
    UringConfig, adopt_tcp, limits, probe, release_tcp,
};

use crate::files::{fresh_dir, open};
use crate::pump::{Pump, hello, pattern};

const PAGE: usize = 4096;

fn pump_of(places: usize) -> Pump {
    let mut pump = Pump::new();
    let config = UringConfig { register_files_max: places, ..UringConfig::default() };
    pump.ring = Uring::new(config, &pump.pool).unwrap();
    pump
}

/// Whether this kernel lets go of a registered file at once.
fn is_allowed() -> bool {
    probe().unwrap().version >= (6, 13)
}

/// What stands of `places` here.
fn allowed(places: usize) -> usize {
    if is_allowed() { places } else { 0 }
}

fn whole(slot: SlotId) -> Run {
    Run { slot, at: 0, len: PAGE as u32 }
}

fn write(pump: &mut Pump, handle: Handle, bytes: &[u8], barrier: bool) {
    let slot = pump.pool.take(Purpose::Write, PAGE).unwrap();
    pump.pool.bytes_mut(slot).copy_from_slice(bytes);
    let op = Op::Write { handle, offset: 0, runs: vec![whole(slot)], barrier };
    assert_eq!(pump.run(op).result, Ok(PAGE as u32));
    pump.pool.release(slot);
}

fn read(pump: &mut Pump, handle: Handle) -> Vec<u8> {
    let slot = pump.pool.take(Purpose::Read, PAGE).unwrap();
    let done = pump.run(Op::Read { handle, offset: 0, run: whole(slot) });
    let bytes = pump.pool.bytes(slot)[..done.result.unwrap() as usize].to_vec();
    pump.pool.release(slot);
    bytes
}

fn close(pump: &mut Pump, handle: Handle) {
    assert_eq!(pump.run(Op::Close { handle }).result, Ok(0));
}

fn connection() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    // A connection that does not end fails the test instead of stopping it.
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    (client, server)
}

fn assert_ended(peer: &mut TcpStream) {
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "the peer sees the end");
}

#[test]
fn files_have_places_while_they_are_open() {
    let dir = fresh_dir("places");
    let mut pump = pump_of(8);
    let directory = open(&mut pump, dir.clone(), OpenHow::Directory);
    let file = open(&mut pump, dir.join("file"), OpenHow::CreateNew);
    pump.until(|pump| pump.ring.registered_files() == allowed(1));
    let bytes = pattern(PAGE, 1);
    write(&mut pump, file, &bytes, true);
    assert!(read(&mut pump, file) == bytes);
    for (handle, metadata) in [(file, false), (file, true), (directory, true)] {
        assert_eq!(pump.run(Op::Sync { handle, metadata }).result, Ok(0));
    }
    assert_eq!(pump.run(Op::Allocate { handle: file, len: 1 << 20 }).result, Ok(0));
    assert_eq!(pump.ring.registered_files(), allowed(1), "a directory has none");
    close(&mut pump, file);
    close(&mut pump, directory);
    assert_eq!(pump.ring.registered_files(), 0);
}

#[test]
fn more_files_than_places_go_on_without() {
    let dir = fresh_dir("more_files_than_places");
    let mut pump = pump_of(3);
    let mut files = Vec::new();
    for at in 0..10 {
        files.push((open(&mut pump, dir.join(at.to_string()), OpenHow::CreateNew), at));
    }
    pump.until(|pump| pump.ring.registered_files() == allowed(3));
    // Those with a place go first, then others come to them.
    for _ in 0..3 {
        for &(file, at) in &files {
            write(&mut pump, file, &pattern(PAGE, at), at % 2 == 0);
        }
        for &(file, at) in &files {
            assert!(read(&mut pump, file) == pattern(PAGE, at));
        }
        close(&mut pump, files.remove(0).0);
        let (_, at) = files[0];
        close(&mut pump, files.remove(0).0);
        let path = dir.join(at.to_string());
        files.push((open(&mut pump, path, OpenHow::ReadWrite), at));
        pump.until(|pump| pump.ring.registered_files() == allowed(2));
    }
    for (file, _) in files {
        close(&mut pump, file);
    }
    assert_eq!(pump.ring.registered_files(), 0);
}

/// Each round closes a file with operations queued on it and opens another, so that descriptors
/// and places come again at once, in every order.
#[test]
fn a_place_that_comes_again_names_the_right_file() {
    const ROUNDS: u64 = 600;
    const OPEN: u64 = 4;
    let dir = fresh_dir("places_again");
    let path = |at: u64| dir.join((at % 9).to_string());
    for at in 0..9 {
        std::fs::write(path(at), pattern(PAGE, at)).unwrap();
    }
    for (sync_path, places) in [(SyncPath::Dsync, 2), (SyncPath::LinkedSync, 3)] {
        let mut pump = Pump::new();
        let config = UringConfig {
            entries: 4,
            register_files_max: places,
            sync_path,
            ..UringConfig::default()
        };
        pump.ring = Uring::new(config, &pump.pool).unwrap();
        let slots: Vec<_> =
            (0..OPEN).map(|_| pump.pool.take(Purpose::Read, PAGE).unwrap()).collect();
        let mut files: Vec<(u64, Handle)> = Vec::new();
        for round in 0..ROUNDS {
            files.push((round, open(&mut pump, path(round), OpenHow::ReadWrite)));
            if files.len() < OPEN as usize {
                continue;
            }
            for (&(at, handle), &slot) in files.iter().zip(&slots) {
                pump.pool.bytes_mut(slot).fill(0);
                let read = Op::Read { handle, offset: 0, run: whole(slot) };
                pump.ring.submit(&mut pump.pool, Token(100 + at), read);
            }
            // In the queue behind its read.
            let (_, handle) = files[(round % OPEN) as usize];
            pump.ring.submit(&mut pump.pool, Token(99), Op::Close { handle });
            pump.until(|pump| pump.others.len() == OPEN as usize + 1);
            for done in pump.others.drain(..) {
                assert_eq!(done.result, Ok(if done.token == Token(99) { 0 } else { PAGE as u32 }));
            }
            for (&(at, _), &slot) in files.iter().zip(&slots) {
                assert!(pump.pool.bytes(slot) == pattern(PAGE, at % 9), "{at} at {round}");
            }
            files.remove((round % OPEN) as usize);
            // What is written goes to the right file too.
            let (at, handle) = files[0];
            write(&mut pump, handle, &pattern(PAGE, at % 9), true);
        }
        assert!(pump.ring.registered_files() <= places);
    }
    for at in 0..9 {
        let mut bytes = vec![0; PAGE];
        File::open(path(at)).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == pattern(PAGE, at));
    }
}

/// Places keep files open, and for a while those of a process that was killed: its peers are to
/// see that at once.
#[test]
fn sockets_have_no_places() {
    let mut pump = pump_of(4);
    let (mut peer, socket) = connection();
    let socket = release_tcp(socket);
    let send = Op::Send { socket, prefix: vec![7; 8], runs: Vec::new(), zero_copy: false };
    assert_eq!(pump.run(send).result, Ok(8));
    peer.read_exact(&mut [0; 8]).unwrap();
    close(&mut pump, socket);
    assert_ended(&mut peer);
    let (dialled, accepted) = pump.pair(Class::Control);
    assert_eq!(pump.ring.registered_files(), 0);
    for at in [dialled, accepted] {
        let (ring, pool) = (&mut pump.ring, &mut pump.pool);
        pump.links[at].close(ring, pool);
    }
    pump.until(|pump| pump.links.iter().all(|link| link.is_closed()));
}

/// What was greeted may go to a thread with blocking calls, whose close ends the connection.
#[test]
fn a_socket_that_was_accepted_goes_on_at_its_new_owner() {
    let mut pump = pump_of(8);
    let addr = pump.listen("127.0.0.1:0", ListenLimits::default());
    let mut client = TcpStream::connect(addr).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client.write_all(&hello(Class::Reader).encode()).unwrap();
    pump.until(|pump| !pump.greeted.is_empty());
    let mut server = adopt_tcp(pump.greeted.remove(0).socket);
    server.write_all(b"from its owner").unwrap();
    let mut heard = [0; 14];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"from its owner");
    drop(server);
    assert_ended(&mut client);
}

/// A file cannot be executed while somebody has it open for writing.
fn is_open(program: &Path) -> bool {
    let error = std::process::Command::new(program).status().err();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::ExecutableFileBusy)
}

/// Opens a new program, in a place of the table.
fn open_program(pump: &mut Pump, path: &Path) -> Handle {
    let file = open(pump, path.to_owned(), OpenHow::CreateNew);
    pump.until(|pump| pump.ring.registered_files() == allowed(1));
    let mut program = vec![b'\n'; PAGE];
    program[..10].copy_from_slice(b"#!/bin/sh\n");
    write(pump, file, &program, true);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(is_open(path) || !is_allowed());
    file
}

#[test]
fn a_file_is_open_no_longer_than_its_handle() {
    let path = fresh_dir("open_no_longer").join("program");
    let mut pump = pump_of(4);
    let file = open_program(&mut pump, &path);
    close(&mut pump, file);
    // A process that another test starts has it open for a moment.
    pump.until(|_| !is_open(&path));
}

#[test]
fn dropping_a_ring_lets_go_of_its_files() {
    let dir = fresh_dir("dropped_ring");
    for is_closed in [false, true] {
        let path = dir.join(is_closed.to_string());
        let mut pump = pump_of(8);
        let file = open_program(&mut pump, &path);
        let next = pump_of(8);
        let Pump { ring, mut pool, .. } = std::mem::replace(&mut pump, next);
        if is_closed {
            ring.close(&mut pool)
        } else {
            drop(ring)
        }
        // The descriptor is its owner's still, who closes it elsewhere.
        assert!(is_open(&path) || !is_allowed());
        close(&mut pump, file);
        pump.until(|_| !is_open(&path));
    }
}

fn refused(pump: &mut Pump, dir: PathBuf) {
    let file = open(pump, dir.join("file"), OpenHow::CreateNew);
    let bytes = pattern(PAGE, 3);
    write(pump, file, &bytes, true);
    assert!(read(pump, file) == bytes);
    assert_eq!(pump.ring.registered_files(), 0);
    close(pump, file);
}

#[test]
fn without_a_table_descriptors_are_used() {
    refused(&mut pump_of(0), fresh_dir("no_table"));
}

/// The kernel takes no table above the limit of open files, which counts for the whole process:
/// the second half of this test runs in one of its own.
#[test]
fn a_table_that_the_kernel_refuses_is_done_without() {
    const LIMITED: &str = "PALISADE_TEST_OPEN_FILES_ARE_LIMITED";
    if std::env::var_os(LIMITED).is_none() {
        let test = "registered::a_table_that_the_kernel_refuses_is_done_without";
        let script =
            format!("ulimit -n {} && exec \"$0\" --exact \"$1\"", limits::REGISTER_FILES_MAX - 1);
        let mut shell = std::process::Command::new("sh");
        let this = std::env::current_exe().unwrap();
        let output = shell.args(["-c", &script]).arg(this).arg(test).env(LIMITED, "1").output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    refused(&mut Pump::new(), fresh_dir("refused_table"));
}
