//! Small servers that stand for the services of a host, each on a port of its own choosing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// What a server does with a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Conduct {
    /// Sends back what it gets, until its end.
    Echo,
    /// Sends this line, then what it gets.
    Named(String),
    /// Answers every HTTP/1.1 request with 200 and this body.
    Http(String),
    /// Accepts, and never reads.
    Deaf,
    /// Accepts, and closes with a reset.
    Reset,
}

/// A server, running until it is dropped. Its connections end with it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    task: AbortHandle,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Listens on a free port of `ip`.
    pub async fn start(ip: impl Into<std::net::IpAddr>, conduct: Conduct) -> Self {
        let listener = TcpListener::bind((ip.into(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (accepted, bytes) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        let task = tasks.spawn(serve(listener, conduct, Arc::clone(&accepted), Arc::clone(&bytes)));
        Self { address, accepted, bytes, task, _tasks: tasks }
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many bytes it has read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends it with all its connections, as a crash would.
    pub fn kill(&self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    conduct: Conduct,
    accepted: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            Ok((stream, _)) = listener.accept() => {
                accepted.fetch_add(1, Ordering::Relaxed);
                let (conduct, bytes) = (conduct.clone(), Arc::clone(&bytes));
                connections.spawn(async move {
                    // The other side may go at any time: that is its own affair.
                    let _ = attend(stream, conduct, &bytes).await;
                });
            }
        }
    }
}

async fn attend(mut stream: TcpStream, conduct: Conduct, bytes: &AtomicU64) -> std::io::Result<()> {
    match conduct {
        Conduct::Echo => echo(&mut stream, bytes).await,
        Conduct::Named(name) => {
            stream.write_all(format!("{name}\n").as_bytes()).await?;
            echo(&mut stream, bytes).await
        }
        Conduct::Http(body) => http(&mut stream, &body, bytes).await,
        Conduct::Deaf => std::future::pending().await,
        Conduct::Reset => stream.set_zero_linger(),
    }
}

async fn echo(stream: &mut TcpStream, bytes: &AtomicU64) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            count => {
                bytes.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
                stream.write_all(&buffer[..count]).await?;
            }
        }
    }
}

/// Requests without a body, one after the other.
async fn http(stream: &mut TcpStream, body: &str, bytes: &AtomicU64) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        while let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            request.drain(..end + 4);
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => {
                bytes.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
                request.extend_from_slice(&buffer[..count]);
            }
        }
    }
}
