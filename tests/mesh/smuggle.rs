//! What could be read in two ways, and what floods: refused with 400 or GOAWAY, nothing of it
//! reaches the service, and others notice nothing.

use std::{net::SocketAddr, time::Duration};

use skein_tests::web::{Client, get, raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::http::Stand;

/// A whole good request besides, to see whether what hides behind it comes through.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn nothing_that_hides_a_request_reaches_the_service() {
    let stand = Stand::new(1, "http").await;
    stand.apply(&["type: Timeout, idle: 60s"]).await;
    let cases: Vec<(&str, String)> = vec![
        (
            "CL.TE",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "TE.CL",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n5c\r\n{HIDDEN}\r\n0\r\n\r\n"
            ),
        ),
        (
            "TE.TE",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "TE list",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
                .into(),
        ),
        (
            "TE with a tab",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "two lengths",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ncontent-length: 35\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "the same length twice",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na".into(),
        ),
        ("a signed length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na".into()),
        ("obs-fold", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n".into()),
        ("bare LF", "GET / HTTP/1.1\nhost: a\n\n".into()),
        ("bare CR", "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n".into()),
        ("NUL in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n".into()),
        ("space before the colon", "GET / HTTP/1.1\r\nhost : a\r\n\r\n".into()),
        (
            "HTTP/1.0 with chunks",
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into()),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into()),
        ("another host in the target", "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("//admin", "GET //admin HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("%2e%2e", "GET /a/%2e%2e/admin HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("%2f", "GET /a%2fadmin HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("a backslash", "GET /a\\admin HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        (
            "bytes behind an upgrade",
            format!(
                "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{HIDDEN}"
            ),
        ),
        ("no HTTP", "hello\r\n\r\n".into()),
        ("two spaces", "GET  / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("HTTP/2 in words", "GET / HTTP/2.0\r\nhost: a\r\n\r\n".into()),
    ];
    let count = cases.len();
    for (name, text) in cases {
        let answer = raw(stand.here, text.as_bytes()).await.expect("an end");
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer:?}");
        assert!(answer.contains("x-skein-reason: bad_request"), "{name}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 4").count(), 1, "{name}: {answer:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "a: b\r\n".repeat(150));
    for large in [long, many] {
        let answer = raw(stand.here, large.as_bytes()).await.expect("an end");
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    let answer =
        raw(stand.here, b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n").await.expect("an end");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer:?}");
    assert_eq!(stand.webs[0].seen().len(), 0, "{:?}", stand.webs[0].seen());
    stand.logged("bad_request", count).await;
}

/// A chunk that lies, a body that is shorter than it says: the service sees a request that breaks,
/// never another one behind it; and the pool stays clean.
#[tokio::test]
async fn a_body_that_breaks_ends_its_own_request_only() {
    let stand = Stand::new(1, "http").await;
    stand.apply(&["type: Timeout, idle: 60s"]).await;
    let head = "POST /broken HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in
        [format!("5\r\nabc\r\n{HIDDEN}"), format!("3\nabc\r\n{HIDDEN}"), "zz\r\n".to_owned()]
    {
        let answer = raw(stand.here, format!("{head}{body}").as_bytes()).await.expect("an end");
        assert!(!answer.contains("200 OK"), "{answer:?}");
    }
    let mut short = TcpStream::connect(stand.here).await.expect("a connection");
    let text = b"POST /short HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc";
    short.write_all(text).await.expect("sent");
    drop(short);
    for _ in 0..20 {
        assert_eq!(stand.good("/after").await.body, "1");
    }
    let seen = stand.webs[0].seen();
    assert!(seen.iter().all(|one| one.path != "/hidden"), "{seen:?}");
}

/// A head that comes a byte at a time, and one that never ends: 408 in time, slots come back.
#[tokio::test]
async fn a_slow_head_is_given_up() {
    let stand = Stand::new(1, "http").await;
    stand.apply(&["type: Timeout, idle: 60s"]).await;
    let started = std::time::Instant::now();
    let answer = raw(stand.here, b"GET / HTTP/1.1\r\nhost: a\r\nx: ").await.expect("an end");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer:?}");
    assert!(started.elapsed() > Duration::from_secs(5), "it had time");
    assert_eq!(stand.webs[0].count(), 0);
}

struct H2(TcpStream);

impl H2 {
    async fn to(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(frame(4, 0, 0, &[]));
        stream.write_all(&first).await.expect("the preface");
        Self(stream)
    }

    /// Sends that as long as it is taken, and gives the code of the GOAWAY that comes.
    async fn flood(mut self, bytes: Vec<u8>) -> Option<u32> {
        let (mut read, mut write) = self.0.split();
        let mut seen = Vec::new();
        let sending = async {
            for _ in 0..100_000 {
                if write.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut piece = [0; 4096];
            while let Ok(count) = read.read(&mut piece).await {
                if count == 0 {
                    break;
                }
                seen.extend_from_slice(&piece[..count]);
            }
        };
        let ended = timeout(Duration::from_secs(20), async {
            tokio::select! {
                () = sending => {}
                () = reading => {}
            }
        });
        ended.await.expect("an end");
        goaway(&seen)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn goaway(mut bytes: &[u8]) -> Option<u32> {
    while bytes.len() >= 9 {
        let length =
            usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let frame = bytes.get(..9 + length)?;
        if frame[3] == 7 {
            return Some(u32::from_be_bytes(frame[13..17].try_into().expect("four")));
        }
        bytes = &bytes[9 + length..];
    }
    None
}

/// The floods of HTTP/2, while another client works on: its requests all succeed.
#[tokio::test]
async fn floods_of_http2_end_with_goaway_and_nobody_else_notices() {
    let stand = Stand::new(1, "http").await;
    stand.apply(&["type: Timeout, idle: 60s"]).await;
    // :method GET, :scheme http, :path /, :authority a
    let head = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let rapid: Vec<u8> = {
        // Stream numbers must rise: these are sent as one long run below.
        let mut all = Vec::new();
        for number in 0..2_000u32 {
            all.extend(frame(1, 5, number * 2 + 1, &head));
            all.extend(frame(3, 0, number * 2 + 1, &8u32.to_be_bytes()));
        }
        all
    };
    let endless: Vec<u8> = {
        let mut all = frame(1, 1, 1, &head);
        for _ in 0..1_000 {
            all.extend(frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b']));
        }
        all
    };
    let large = frame(1, 5, 1, &[0x40; 1_000_000]);
    let floods = [
        ("rapid reset", rapid),
        ("CONTINUATION", endless),
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 0, 1])),
        ("a header of 1 MB", large),
    ];
    for (name, bytes) in floods {
        let client = async {
            let mut client = Client::to(stand.here).await.expect("a connection");
            let mut slowest = Duration::ZERO;
            for _ in 0..50 {
                let started = std::time::Instant::now();
                let got = client.send(get("/honest", &[])).await.expect("an answer");
                assert_eq!(got.status, 200, "{name}: {got:?}");
                slowest = slowest.max(started.elapsed());
            }
            slowest
        };
        let flood = async { H2::to(stand.here).await.flood(bytes).await };
        let (slowest, code) = tokio::join!(client, flood);
        println!("{name}: GOAWAY {code:?}, the other client's slowest of 50 {slowest:?}");
        assert!(code.is_some_and(|code| code != 0), "{name}: no GOAWAY");
    }
    let seen = stand.webs[0].seen();
    let honest = seen.iter().filter(|one| one.path == "/honest").count();
    assert_eq!(honest, 300);
    // Of the rapid resets some may have begun, at most as many as streams may be open.
    assert!(seen.len() - honest <= 200, "{}", seen.len() - honest);
}
