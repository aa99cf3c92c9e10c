//! Probes: one run of a check against one target.
//!
//! Never: lasts longer than its timeout, reads more than a response's head, passes output of a
//! service on as anything but text of a bounded length.

use std::{io, pin::pin, process::Stdio, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process_group};
use skein_protocol::{
    manifest::{kinds::CheckKind, value::TargetAddress},
    record::node::Health,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    process::Command,
    time::timeout,
};

/// What one run found.
pub(crate) type Found = (Health, String);

/// Runs a check once.
pub(crate) async fn probe(
    kind: &CheckKind,
    target: Option<&TargetAddress>,
    limit: Duration,
) -> Found {
    let run = async {
        match kind {
            CheckKind::Tcp => tcp(target).await,
            CheckKind::Http { path, host } => http(target, path, host.as_deref()).await,
            CheckKind::Exec(command) => exec(command).await,
            CheckKind::Unit(unit) => {
                let command = ["systemctl", "is-active", "--quiet", unit];
                let found = exec(&command.map(str::to_owned)).await?;
                let word = if found.0 == Health::Passing { "active" } else { "not active" };
                let health = match found.0 {
                    Health::Passing => Health::Passing,
                    _ => Health::Critical,
                };
                Ok((health, format!("{unit} is {word}")))
            }
            // Its runner waits for reports and never probes.
            CheckKind::Ttl(_) => Ok((Health::Critical, "no report".to_owned())),
        }
    };
    match timeout(limit, run).await {
        Ok(Ok(found)) => found,
        Ok(Err(why)) => (Health::Critical, why),
        Err(_) => (Health::Critical, format!("no answer within {limit:?}")),
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(target: &TargetAddress) -> io::Result<Box<dyn Stream>> {
    Ok(match target {
        TargetAddress::Ip(address) => Box::new(TcpStream::connect(address).await?),
        TargetAddress::Unix(path) => Box::new(UnixStream::connect(path).await?),
        TargetAddress::Name(host, port) => {
            Box::new(TcpStream::connect((host.as_str(), *port)).await?)
        }
    })
}

async fn reach(target: Option<&TargetAddress>) -> Result<Box<dyn Stream>, String> {
    let target = target.ok_or("the check's port is none of the service's")?;
    connect(target).await.map_err(|error| format!("connect to {target}: {error}"))
}

async fn tcp(target: Option<&TargetAddress>) -> Result<Found, String> {
    reach(target).await?;
    let target = target.map(ToString::to_string).unwrap_or_default();
    Ok((Health::Passing, format!("connected to {target}")))
}

async fn http(
    target: Option<&TargetAddress>,
    path: &str,
    host: Option<&str>,
) -> Result<Found, String> {
    let stream = reach(target).await?;
    let own = match target {
        Some(TargetAddress::Unix(_)) | None => "localhost".to_owned(),
        Some(target) => target.to_string(),
    };
    let request = Request::get(path)
        .header(header::HOST, host.unwrap_or(&own))
        .header(header::USER_AGENT, "skein-check")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("GET {path}: {error}"))?;
    let broken = |error: hyper::Error| format!("GET {path}: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let mut response = pin!(sender.send_request(request));
    // The connection may end in the same moment in which the response is there.
    let response = tokio::select! {
        biased;
        response = &mut response => response,
        _ = connection => response.await,
    };
    let status = response.map_err(broken)?.status();
    let health = if status.is_success() {
        Health::Passing
    } else if status == StatusCode::TOO_MANY_REQUESTS {
        Health::Warning
    } else {
        Health::Critical
    };
    Ok((health, format!("GET {path}: {status}")))
}

async fn exec(command: &[String]) -> Result<Found, String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("there is no command".to_owned());
    };
    let unrunnable = |error: io::Error| format!("{program} cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .map_err(unrunnable)?;
    // Ends with this run, also when it is given up.
    let _group = Group(child.id());
    let status = child.wait().await.map_err(unrunnable)?;
    let health = match status.code() {
        Some(0) => Health::Passing,
        Some(1) => Health::Warning,
        _ => Health::Critical,
    };
    Ok((health, format!("{program}: {status}")))
}

/// A command with all that it started. A shell that is killed leaves its children behind.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader {
            // Nobody is left of most groups by now.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, UnixListener},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// Answers one HTTP request with `status`, on a free port.
    async fn answering(status: &'static str) -> (TargetAddress, tokio::task::JoinSet<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = TargetAddress::Ip(listener.local_addr().unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&head[..length]).into_owned()
        });
        (target, tasks)
    }

    async fn http_finds(status: &'static str) -> Health {
        let (target, _server) = answering(status).await;
        let kind = CheckKind::Http { path: "/healthz".into(), host: None };
        probe(&kind, Some(&target), LONG).await.0
    }

    #[tokio::test]
    async fn http_judges_by_status() {
        assert_eq!(http_finds("204 No Content").await, Health::Passing);
        assert_eq!(http_finds("429 Too Many Requests").await, Health::Warning);
        assert_eq!(http_finds("500 Internal Server Error").await, Health::Critical);
        assert_eq!(http_finds("302 Found").await, Health::Critical);
        assert_eq!(http_finds("nonsense").await, Health::Critical);
    }

    #[tokio::test]
    async fn http_asks_for_the_path_by_the_host() {
        let (target, mut server) = answering("200 OK").await;
        let kind = CheckKind::Http {
            path: "/healthz?deep=1".into(),
            host: Some("shop.example.com".into()),
        };
        probe(&kind, Some(&target), LONG).await;
        let head = server.join_next().await.unwrap().unwrap();
        assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("host: shop.example.com\r\n"), "{head}");
    }

    #[tokio::test]
    async fn tcp_reaches_ports_and_unix_sockets_and_says_what_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = TargetAddress::Ip(address);
        assert_eq!(probe(&CheckKind::Tcp, Some(&target), LONG).await.0, Health::Passing);
        drop(listener);
        let (health, why) = probe(&CheckKind::Tcp, Some(&target), LONG).await;
        assert_eq!(health, Health::Critical);
        assert!(why.contains(&format!("connect to {address}")), "{why}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let target = TargetAddress::Unix(path.to_str().unwrap().to_owned());
        assert_eq!(probe(&CheckKind::Tcp, Some(&target), LONG).await.0, Health::Critical);
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(probe(&CheckKind::Tcp, Some(&target), LONG).await.0, Health::Passing);
    }

    #[tokio::test]
    async fn a_silent_server_fails_at_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = TargetAddress::Ip(listener.local_addr().unwrap());
        let kind = CheckKind::Http { path: "/".into(), host: None };
        let found = probe(&kind, Some(&target), Duration::from_millis(50)).await;
        assert_eq!(found, (Health::Critical, "no answer within 50ms".to_owned()));
    }

    /// Processes whose command line holds that.
    fn running(marker: &str) -> usize {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|one| std::fs::read(one.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(marker)).count()
    }

    #[tokio::test]
    async fn what_a_command_started_ends_with_its_time() {
        let seconds = format!("35{:05}", std::process::id() % 100_000);
        let script = format!("sleep {seconds}; true");
        let command = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
        let limit = Duration::from_millis(300);
        let found = probe(&CheckKind::Exec(command), None, limit).await;
        assert_eq!(found.0, Health::Critical);
        let sleeping = format!("sleep\0{seconds}");
        timeout(LONG, async {
            while running(&sleeping) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("its child is gone");
    }

    #[tokio::test]
    async fn exec_judges_by_exit_code() {
        let run = |script: &str| {
            let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
            async move { probe(&CheckKind::Exec(command), None, LONG).await.0 }
        };
        assert_eq!(run("exit 0").await, Health::Passing);
        assert_eq!(run("exit 1").await, Health::Warning);
        assert_eq!(run("exit 2").await, Health::Critical);
        assert_eq!(run("kill -9 $$").await, Health::Critical);
    }
}
