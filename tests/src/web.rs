//! A web server that stands for a service: HTTP/1.1 and HTTP/2, with a conduct that can change
//! while it runs, and a memory of what reached it. And a client of a few lines.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// What it does with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 200, and its name.
    Name,
    /// This status, and its name.
    Status(u16),
    /// The same with headers.
    With(u16, Vec<(&'static str, String)>),
    /// 200 and its name after a while.
    After(Duration),
    /// None, ever.
    Never,
    /// The body that came, as it comes, with its trailers.
    Echo,
}

/// A request that reached it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: HeaderMap,
}

impl Seen {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

#[derive(Debug)]
struct State {
    name: String,
    answer: Mutex<Answer>,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<u64>,
}

/// A server, running until it is dropped. Its connections end with it.
#[derive(Debug)]
pub struct Web {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: AbortHandle,
    _tasks: JoinSet<()>,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Web {
    /// Listens on a free port of `ip`.
    pub async fn start(ip: impl Into<IpAddr>, name: &str) -> Self {
        let listener = TcpListener::bind((ip.into(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let state = Arc::new(State {
            name: name.to_owned(),
            answer: Mutex::new(Answer::Name),
            seen: Mutex::default(),
            connections: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let task = tasks.spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, task, _tasks: tasks }
    }

    /// From now on it answers so.
    pub fn answers(&self, answer: Answer) {
        *held(&self.state.answer) = answer;
    }

    /// What reached it so far.
    pub fn seen(&self) -> Vec<Seen> {
        held(&self.state.seen).clone()
    }

    /// How many requests reached it.
    pub fn count(&self) -> usize {
        held(&self.state.seen).len()
    }

    /// Forgets what reached it.
    pub fn forget(&self) {
        held(&self.state.seen).clear();
    }

    /// How many connections it accepted.
    pub fn connections(&self) -> u64 {
        *held(&self.state.connections)
    }

    /// Ends it with all its connections, as a crash would.
    pub fn kill(&self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                *held(&state.connections) += 1;
                connections.spawn(connection(stream, Arc::clone(&state)));
            }
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let mut first = [0; 3];
    // The preface of HTTP/2 is the only request of that method.
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return,
            Ok(count) if count >= first.len() => break,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, request).await) }
    });
    let io = TokioIo::new(stream);
    if &first == b"PRI" {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
    }
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

async fn answer(state: &State, request: Request<Incoming>) -> Response<Body> {
    held(&state.seen).push(Seen {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: request.headers().clone(),
    });
    let conduct = held(&state.answer).clone();
    let name = || text(&state.name);
    let (status, headers, body) = match conduct {
        Answer::Name => (200, Vec::new(), name()),
        Answer::Status(status) => (status, Vec::new(), name()),
        Answer::With(status, headers) => (status, headers, name()),
        Answer::After(wait) => {
            tokio::time::sleep(wait).await;
            (200, Vec::new(), name())
        }
        Answer::Never => std::future::pending().await,
        Answer::Echo => {
            let mut response = Response::new(request.into_body().boxed_unsync());
            let trailer = hyper::header::HeaderValue::from_static("x-sum");
            response.headers_mut().insert(hyper::header::TRAILER, trailer);
            return response;
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        response.headers_mut().append(name, value.parse().expect("a value"));
    }
    response
}

fn text(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned())).map_err(|never| match never {}).boxed_unsync()
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Got {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

impl Got {
    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Why an agent answered in place of the service; empty where the service did.
    pub fn reason(&self) -> &str {
        self.header("x-skein-reason")
    }
}

/// A connection of HTTP/1.1.
#[derive(Debug)]
pub struct Client {
    _connection: JoinSet<()>,
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects.
    pub async fn to(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let _ = stream.set_nodelay(true);
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| error.to_string())?;
        let mut running = JoinSet::new();
        running.spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { _connection: running, sender })
    }

    /// Sends a request and reads its whole answer.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Got, String> {
        let done = async {
            self.sender.ready().await.map_err(|error| error.to_string())?;
            let sent = self.sender.send_request(request).await;
            let response = sent.map_err(|error| format!("{error:?}"))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Got { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        timeout(Duration::from_secs(20), done).await.unwrap_or_else(|_| Err("no answer".into()))
    }
}

/// A request without a body.
pub fn get(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    request("GET", path, headers, "")
}

/// A request.
pub fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "echo.shop");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request")
}

/// Sends these bytes, and reads what comes until the other side ends, within 15 s.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Result<String, String> {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        // A reset behind the answer is an end too.
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
            }
        }
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let talk = timeout(Duration::from_secs(15), talk).await;
    talk.map_err(|_| "no end".to_owned())?.map_err(|error| error.to_string())
}
