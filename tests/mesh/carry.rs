//! What is carried: exact bytes or a reset, never an end too early, in bounded memory.

use std::{net::SocketAddr, time::Duration};

use skein_tests::{
    manifest::{discovery, registry},
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    time::timeout,
};

const HERE: u16 = 9080;
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);
/// A gibibyte there and back takes half a minute in a debug build.
const LONG: Duration = Duration::from_secs(200);
/// Sixty-four windows of a whole connection: what is kept of it anywhere would show.
const BODY: usize = 1024 * 1024 * 1024;
/// More than all buffers on the way hold: what is kept back beyond them is a leak.
const DEAF: usize = 64 * 1024 * 1024;

async fn stand(conduct: Conduct) -> (Mesh, Server, SocketAddr) {
    let mesh = Mesh::start(2).await;
    let server = Server::start(mesh[1].ip, conduct).await;
    mesh[1].manifest("big.yaml", &registry("big", PORT, server.address));
    mesh[0].manifest("use.yaml", &discovery("big", HERE, PORT));
    let here = SocketAddr::new(mesh[0].ip, HERE);
    until(SOON, "the service passes and is listened for", async || {
        let detail = mesh[0].try_json(&["service", "shop/big"]).await?;
        TcpStream::connect(here).await.map_err(|error| error.to_string())?;
        let passing = detail["endpoints"][0]["status"] == "passing";
        passing.then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    (mesh, server, here)
}

/// Byte `n` of the body: no period that a buffer's size divides.
fn byte(n: usize) -> u8 {
    u8::try_from(n % 251).unwrap_or_default()
}

async fn read_exactly(mut half: OwnedReadHalf) -> usize {
    let (mut count, mut buffer) = (0, vec![0; 256 * 1024]);
    loop {
        let got = half.read(&mut buffer).await.expect("no reset");
        if got == 0 {
            return count;
        }
        assert!(buffer[..got].iter().enumerate().all(|(n, b)| *b == byte(count + n)));
        count += got;
    }
}

fn resident_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_gibibyte_comes_back_whole_after_a_half_close_and_memory_stays_flat() {
    let (mut mesh, server, here) = stand(Conduct::Echo).await;
    let ids = [0, 1].map(|n| mesh[n].agent().id().expect("it runs"));
    let resident = ids.map(resident_kib);
    let before = server.bytes();
    let start = std::time::Instant::now();
    let (read, mut write) = TcpStream::connect(here).await.unwrap().into_split();
    let writer = async {
        let chunk: Vec<u8> = (0..251 * 256).map(byte).collect();
        let mut left = BODY;
        while left > 0 {
            let part = left.min(chunk.len());
            write.write_all(&chunk[..part]).await.expect("it takes all");
            left -= part;
        }
        write.shutdown().await.expect("a half close");
    };
    let both = async { tokio::join!(writer, read_exactly(read)) };
    let ((), count) = timeout(LONG, both).await.expect("it ends");
    assert_eq!(count, BODY);
    assert_eq!(server.bytes() - before, u64::try_from(BODY).unwrap());
    let after = ids.map(resident_kib);
    let took = start.elapsed();
    println!("{} MiB there and back in {took:?}; memory {resident:?} to {after:?} KiB", BODY >> 20);
    for (before, after) in resident.into_iter().zip(after) {
        // The windows of one connection both ways, and room.
        assert!(after < before + 60 * 1024, "memory went from {before} to {after} KiB");
    }
}

#[tokio::test]
async fn a_server_that_never_reads_stops_its_caller_and_memory_stays_flat() {
    let (mut mesh, _server, here) = stand(Conduct::Deaf).await;
    let ids = [0, 1].map(|n| mesh[n].agent().id().expect("it runs"));
    let before = ids.map(resident_kib);
    let mut stream = TcpStream::connect(here).await.unwrap();
    let (chunk, mut taken) = (vec![7; 64 * 1024], 0);
    // It stops when every buffer on the way is full: then a whole second takes nothing.
    while let Ok(sent) = timeout(Duration::from_secs(1), stream.write_all(&chunk)).await {
        sent.expect("no reset");
        taken += chunk.len();
        assert!(taken < DEAF, "nothing holds the caller back");
    }
    let after = ids.map(resident_kib);
    println!("{} KiB taken; memory {before:?} to {after:?} KiB", taken / 1024);
    for (before, after) in before.into_iter().zip(after) {
        assert!(after < before + 20 * 1024, "memory went from {before} to {after} KiB");
    }
}

#[tokio::test]
async fn a_reset_behind_the_mesh_is_a_reset_in_front_of_it() {
    let (_mesh, _server, here) = stand(Conduct::Reset).await;
    let mut stream = TcpStream::connect(here).await.unwrap();
    let read = timeout(SOON, stream.read(&mut [0; 1])).await.expect("it ends");
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}
