//! The harness itself: a test that stands on sand proves nothing.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use skein_tests::{
    address::Address,
    binary,
    load::{Load, Plan, Stage},
    mesh::token_in,
    namespace::Lab,
    process::Process,
    relay::{Path, Relay},
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    process::Command,
};

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn the_binary_is_built() {
    assert!(binary::skein().is_file());
}

#[test]
fn no_two_hosts_share_an_address_or_a_range_of_virtual_ones() {
    let taken: Vec<Address> = (0..8).map(|_| Address::take()).collect();
    let parts: BTreeSet<u8> = taken.iter().map(|address| address.ip.octets()[3] % 128).collect();
    assert_eq!(parts.len(), taken.len());
}

#[test]
fn a_token_is_found_in_what_init_prints() {
    let said = "next host:\n  SKEIN_TOKEN='skein1.ab.cd.ef' skein join 192.0.2.1\n";
    assert_eq!(token_in(said).as_deref(), Some("skein1.ab.cd.ef"));
    assert_eq!(token_in("already a member of prod"), None);
}

#[tokio::test]
#[should_panic(expected = "not within 50ms: a thing that never is. Seen last: only 1")]
async fn a_wait_that_fails_says_what_it_saw() {
    let limit = Duration::from_millis(50);
    until(limit, "a thing that never is", async || Err::<(), _>("only 1".to_owned())).await;
}

#[tokio::test]
async fn a_process_ends_by_signal_and_its_output_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new("sh");
    command.args(["-c", "trap 'echo going; exit 7' TERM; echo here; while :; do sleep 0.01; done"]);
    let mut process = Process::start(command, &log);
    until(Duration::from_secs(5), "it says that it is here", async || {
        let output = process.output();
        output.contains("here").then_some(()).ok_or(output)
    })
    .await;
    process.terminate();
    assert_eq!(process.wait(Duration::from_secs(5)).await.code(), Some(7));
    assert!(process.output().contains("going"));
}

#[tokio::test]
async fn a_load_on_an_echo_holds_and_a_load_on_nobody_fails_before_its_connection() {
    let server = Server::start(LOCAL, Conduct::Echo).await;
    let load = Load::start(Plan { every: Duration::from_millis(2), ..Plan::new(server.address) });
    until(Duration::from_secs(5), "20 calls", async || {
        let accepted = server.accepted();
        (accepted >= 20).then_some(()).ok_or_else(|| accepted.to_string())
    })
    .await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.took.len() >= 20);
    assert!(report.percentile(0.5) <= report.percentile(1.0));

    server.kill();
    let load = Load::start(Plan::new(server.address));
    until(Duration::from_secs(5), "5 calls", async || {
        let begun = load.begun();
        (begun >= 5).then_some(()).ok_or_else(|| begun.to_string())
    })
    .await;
    let report = load.stop().await;
    assert!(report.took.is_empty());
    let refused = report.failures.iter().all(|failure| failure.stage <= Stage::First);
    assert!(report.failures.len() >= 5 && refused, "{:?}", report.failures);
}

#[tokio::test]
async fn servers_conduct_themselves_as_they_are_told() {
    let named = Server::start(LOCAL, Conduct::Named("web-1".to_owned())).await;
    let mut stream = TcpStream::connect(named.address).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "web-1\nping");
    assert_eq!((named.accepted(), named.bytes()), (1, 4));

    let http = Server::start(LOCAL, Conduct::Http("I am web-2".to_owned())).await;
    let mut stream = TcpStream::connect(http.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with("I am web-2"), "{all}");

    let reset = Server::start(LOCAL, Conduct::Reset).await;
    let mut stream = TcpStream::connect(reset.address).await.unwrap();
    let error = stream.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_relay_loses_its_share_and_carries_the_rest_both_ways() {
    let target = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    let free: SocketAddr = (LOCAL, 0).into();
    let path = Path { loss: 0.5, ..Path::default() };
    let relay = Relay::start(free, target.local_addr().unwrap(), path, 7).await;
    let client = UdpSocket::bind((LOCAL, 0)).await.unwrap();
    client.connect(relay.address).await.unwrap();
    for n in 0..200_u8 {
        client.send(&[n]).await.unwrap();
    }
    until(Duration::from_secs(5), "the relay has had 200", async || {
        let (carried, lost) = relay.counts();
        (carried + lost == 200).then_some(()).ok_or_else(|| format!("{carried} and {lost}"))
    })
    .await;
    let (carried, _) = relay.counts();
    assert!((60..140).contains(&carried), "{carried} of 200");

    relay.set(Path::default());
    let mut byte = [0; 1];
    let (_, from) = target.recv_from(&mut byte).await.unwrap();
    target.send_to(b"!", from).await.unwrap();
    client.recv(&mut byte).await.unwrap();
    assert_eq!(&byte, b"!");
}

#[tokio::test]
#[ignore = "needs root, iproute2 and nftables"]
async fn root_rooms_reach_each_other_unless_there_is_a_wall() {
    let lab = Lab::new(3);
    let dial = async |from: usize, to: usize, seconds: &str| {
        let mut command = Command::new("ip");
        let to = lab.rooms[to].ip.to_string();
        // Nothing listens: a refusal at once is a way there and back, silence is a wall.
        let shell = format!("exec 3<>/dev/tcp/{to}/9");
        command.args([
            "netns",
            "exec",
            &lab.rooms[from].name,
            "timeout",
            seconds,
            "bash",
            "-c",
            &shell,
        ]);
        let output = command.output().await.unwrap();
        String::from_utf8_lossy(&output.stderr).contains("refused")
    };
    // A way is there when an answer comes, however late; a wall when none comes for a second.
    let reaches = async |from, to| dial(from, to, "20").await;
    let walled = async |from, to| !dial(from, to, "1").await;
    assert!(reaches(0, 1).await && reaches(1, 0).await && reaches(0, 2).await);
    lab.part(&[0]);
    assert!(walled(0, 1).await && walled(1, 0).await);
    assert!(reaches(1, 2).await, "one side is whole");
    lab.heal();
    assert!(reaches(0, 1).await);
    lab.deafen(0, 1);
    assert!(walled(1, 0).await && reaches(1, 2).await);
}
