//! Serves the API on the agent's socket and on the HTTP port.
//!
//! Never: more than `API_CONNECTIONS` at once on each (the next waits in the kernel's backlog),
//!        a head or body above its limit, a request or a connection without an end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
    response::IntoResponse,
};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use skein_protocol::limits;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    AgentApi, ApiError,
    guard::{self, Caller, HttpToken},
    routes,
};

/// Turns true when the agent stops.
pub type Shutdown = watch::Receiver<bool>;

/// Where the API is offered.
#[derive(Debug)]
pub enum ApiListener {
    /// The agent's socket, as [`super::socket::bind`] makes it.
    Socket(UnixListener),
    /// The HTTP port, and what its writers must show.
    Http(TcpListener, HttpToken),
}

/// Serves until `shutdown` turns true, and gives open requests `API_SHUTDOWN` to finish.
pub async fn serve(listener: ApiListener, api: Arc<dyn AgentApi>, mut shutdown: Shutdown) {
    let places = Arc::new(Semaphore::new(limits::API_CONNECTIONS));
    let token = match &listener {
        ApiListener::Socket(_) => None,
        ApiListener::Http(_, token) => Some(token.clone()),
    };
    let site = Site { router: routes::router(api), token };
    let told = shutdown.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener, &places) => {
                if let Some((stream, caller, place)) = accepted {
                    let connection = site.clone().connection(stream, caller, told.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
            }
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(limits::API_SHUTDOWN + Duration::from_millis(100), drained).await;
}

/// What carries a connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Accepted = (Box<dyn Stream>, Caller, OwnedSemaphorePermit);

/// Waits for a place first and a connection then. None when accepting failed: after a pause,
/// since what fails (no descriptors left) fails again at once.
async fn accept(listener: &ApiListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = places.clone().acquire_owned().await.ok()?;
    let accepted = match listener {
        ApiListener::Socket(listener) => listener
            .accept()
            .await
            .map(|(stream, _)| (Box::new(stream) as Box<dyn Stream>, Caller::Socket)),
        ApiListener::Http(listener, _) => match listener.accept().await {
            Ok((stream, peer)) => stream
                .local_addr()
                .map(|local| (Box::new(stream) as Box<dyn Stream>, tcp(peer, local))),
            Err(error) => Err(error),
        },
    };
    match accepted {
        Ok((stream, caller)) => Some((stream, caller, place)),
        Err(error) => {
            tracing::warn!(%error, "api: accept failed");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn tcp(peer: SocketAddr, local: SocketAddr) -> Caller {
    Caller::Tcp {
        peer: peer.ip().to_canonical(),
        local: SocketAddr::new(local.ip().to_canonical(), local.port()),
    }
}

#[derive(Clone)]
struct Site {
    router: Router,
    token: Option<HttpToken>,
}

impl Site {
    async fn connection(self, stream: Box<dyn Stream>, caller: Caller, mut shutdown: Shutdown) {
        let service = service_fn(|request| self.clone().answer(request, caller));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::API_HEAD_TIMEOUT)
            .max_buf_size(limits::API_HEAD_BYTES)
            .max_headers(limits::API_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop) => {}
            _ = connection.as_mut() => return,
            () = sleep(limits::API_CONNECTION_AGE) => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(limits::API_SHUTDOWN, connection).await;
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        caller: Caller,
    ) -> Result<Response<Body>, std::convert::Infallible> {
        let allowed = guard::check(
            caller,
            request.method(),
            request.uri(),
            request.headers(),
            self.token.as_ref(),
        );
        if let Err(error) = allowed {
            return Ok(error.into_response());
        }
        if request.body().size_hint().lower() > limits::API_BODY_BYTES as u64 {
            return Ok(routes::too_long());
        }
        let call = TowerToHyperService::new(self.router).call(request.map(Body::new));
        match timeout(limits::API_REQUEST_TIMEOUT, call).await {
            Ok(Ok(response)) => Ok(response),
            Err(_) => {
                let text = "the agent did not answer in time; see its log";
                Ok(ApiError::unavailable(text).into_response())
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
