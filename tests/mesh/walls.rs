//! Hosts with interfaces of their own: a partition that heals, and what a listener on the wire sees.

use std::{net::SocketAddr, time::Duration};

use skein_tests::{
    echo::{curl, serve},
    figure::figure,
    host::Host,
    manifest::{discovery, registry},
    mesh::Mesh,
    namespace::Lab,
    process::Process,
    wait::until,
};
use tokio::time::{Instant, sleep_until};

const HERE: u16 = 9080;
const PORT: u16 = 8080;
/// The process of each serving host: a namespace has all ports for itself.
const PROCESS: u16 = 18_080;
const SOON: Duration = Duration::from_secs(10);
/// What is carried, and must not be seen on the wire.
const SECRET: &str = "the-word-that-nobody-else-may-read";

/// One call from inside of the host, of which the body is told.
async fn call(host: &Host, path: &str) -> Result<String, String> {
    let url = format!("http://127.0.0.1:{HERE}/{path}");
    curl(host, &url).await
}

async fn reached(host: &Host) {
    until(SOON, "the service is reached", async || call(host, "").await).await;
}

fn offer(mesh: &Mesh, serving: &[usize]) -> Vec<Process> {
    let mut services = Vec::new();
    for host in &mesh.hosts {
        host.manifest("use.yaml", &discovery("web", HERE, PORT));
    }
    for n in serving {
        let host = &mesh[*n];
        services.push(serve(host, PROCESS, mesh.folder()));
        let process = SocketAddr::new(host.ip, PROCESS);
        host.manifest("web.yaml", &registry("web", PORT, process));
    }
    services
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables and curl"]
async fn root_both_sides_of_a_partition_serve_what_they_reach_and_agree_soon_after() {
    let lab = Lab::new(4);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.form().await;
    let _services = offer(&mesh, &[0, 2]);
    for host in &mesh.hosts {
        reached(host).await;
    }
    mesh.same_view(SOON).await;

    lab.part(&[0, 1]);
    let parted = Instant::now();
    for host in &mesh.hosts {
        until(SOON, "each side sees the other dead", async || {
            let status = host.try_json(&["status"]).await?;
            let counted = (&status["members"]["alive"], &status["members"]["dead"]);
            (counted == (&2.into(), &2.into())).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
    let told = parted.elapsed();
    let mut calls = 0;
    while parted.elapsed() < Duration::from_secs(30) {
        for host in &mesh.hosts {
            call(host, "").await.unwrap_or_else(|error| panic!("{}: {error}", host.name));
            calls += 1;
        }
        // The pace of the load, not a wait for something.
        sleep_until(Instant::now() + Duration::from_millis(200)).await;
    }

    lab.heal();
    // Five times the five seconds of issue 2.
    let same = mesh.same_view(Duration::from_secs(25)).await;
    let alive = mesh.all_alive(4, Duration::from_secs(25)).await;
    println!("{calls} calls held while the mesh was parted");
    figure("each side of a partition counts the other dead", told);
    figure("one root after a partition has healed", same);
    figure("all are alive again after that", alive);
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables, tcpdump and curl"]
async fn root_a_listener_on_the_wire_reads_nothing_of_what_is_carried() {
    let lab = Lab::new(2);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.form().await;
    let file = mesh.folder().join("wire.pcap");
    let mut command = mesh[1].program("tcpdump");
    command.args(["-i", "eth0", "-U", "-s", "0", "-w"]).arg(&file);
    let log = mesh.folder().join("tcpdump.log");
    let mut listener = Process::start(command, &log);
    until(SOON, "tcpdump listens", async || {
        let said = listener.output();
        said.contains("listening on").then_some(()).ok_or(said)
    })
    .await;

    let _services = offer(&mesh, &[1]);
    reached(&mesh[0]).await;
    for _ in 0..20 {
        call(&mesh[0], SECRET).await.expect("a call");
    }
    // The same words in the open, so that the listener is known to see what is there.
    let bare = "in-the-open-for-all-to-read";
    let url = format!("http://{}:{PROCESS}/{bare}", mesh[1].ip);
    let mut command = mesh[0].program("curl");
    command.args(["-sS", "--max-time", "3", &url]);
    assert!(command.output().await.expect("curl").status.success());
    let contains = |word: &str| {
        let bytes = std::fs::read(&file).unwrap_or_default();
        bytes.windows(word.len()).any(|window| window == word.as_bytes())
    };
    until(SOON, "what is in the open is in the capture", async || {
        contains(bare).then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    listener.terminate();
    listener.wait(SOON).await;
    let size = std::fs::metadata(&file).expect("a capture").len();
    assert!(size > 10_000, "there was traffic: {size} bytes");
    for word in [SECRET, "GET /the", "shop/web", "web/a", "skein1"] {
        assert!(!contains(word), "{word} stands in the capture of {size} bytes");
    }
    println!("{size} bytes captured, none of them readable");
}
