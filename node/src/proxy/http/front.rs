//! Front: a connection of a client, as far as all its requests have it in common.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use skein_protocol::{limits, route::CloseReason};

use super::{
    exchange,
    guarded::{Guarded, Signals},
    serve::text_of,
};
use crate::proxy::{Connection, ListenerSpec, Proxy, Socket, clients::Connected, guard::Permit};

/// A client's connection.
pub(super) struct Front {
    pub(super) proxy: Arc<Proxy>,
    pub(super) spec: Arc<ListenerSpec>,
    /// The log's line of a request, at its begin.
    pub(super) line: Connection,
    /// Why the caller counts as no more than its node; may be empty.
    pub(super) note: String,
    pub(super) client: Option<SocketAddr>,
    pub(super) signals: Arc<Signals>,
    /// Whether it came by TLS, which ended here.
    pub(super) secure: bool,
    /// What counts a client outside of the mesh against its address.
    pub(super) outside: Option<Connected>,
    /// Its room on this host: a request that has become another protocol lives longer than what
    /// hyper has of the connection.
    _permit: Permit,
}

impl Proxy {
    /// Serves a client's connection, whose first bytes were read already, to its end.
    pub(in crate::proxy) async fn serve_http(
        self: &Arc<Self>,
        (socket, first, two): (Socket, &[u8], bool),
        (line, note): (Connection, String),
        (spec, secure): (&Arc<ListenerSpec>, bool),
        (idle, (permit, outside), until): (
            Duration,
            (Permit, Option<Connected>),
            impl Future<Output = ()> + Send,
        ),
    ) {
        socket.tune();
        let window = outside.as_ref().map_or(limits::H2_WINDOW_BYTES, Connected::window);
        let signals = Arc::<Signals>::default();
        let idles = (idle, self.parts.timeouts.idle);
        let io = Guarded::new(socket, first, two, idles, Arc::clone(&signals));
        let io = TokioIo::new(io);
        let front = Arc::new(Front {
            proxy: Arc::clone(self),
            spec: Arc::clone(spec),
            client: line.client,
            line,
            note,
            signals,
            secure,
            outside,
            _permit: permit,
        });
        let serving = Arc::clone(&front);
        let service = service_fn(move |request: Request<Incoming>| {
            let front = Arc::clone(&serving);
            // Boxed: it is large, and hyper keeps it within its own.
            Box::pin(async move { Ok::<_, Infallible>(exchange::answer(front, request).await) })
        });
        macro_rules! serve {
            ($connection:expr) => {{
                let mut connection = std::pin::pin!($connection);
                let mut told = false;
                let last = async {
                    // Of HTTP/1 each answer says by itself that it is the last one: a connection
                    // closed between two requests may meet the next one on its way.
                    let ends = async {
                        match two && !self.guard.is_draining() {
                            true => self.guard.draining().await,
                            false => self.guard.closing().await,
                        }
                    };
                    tokio::select! {
                        () = ends => {}
                        () = until => {}
                    }
                };
                let mut last = std::pin::pin!(last);
                loop {
                    tokio::select! {
                        biased;
                        _ = self.guard.cut() => break Ok(()),
                        ended = connection.as_mut() => break ended,
                        () = last.as_mut(), if !told => {
                            told = true;
                            connection.as_mut().graceful_shutdown();
                        }
                    }
                }
            }};
        }
        let ended = if two {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .max_concurrent_streams(limits::H2_STREAMS)
                .max_header_list_size(u32::try_from(limits::HTTP_HEAD_BYTES).unwrap_or(u32::MAX))
                .initial_stream_window_size(limits::H2_STREAM_WINDOW)
                .initial_connection_window_size(window)
                .max_send_buf_size(limits::EXCHANGE_DATA_BYTES);
            serve!(builder.serve_connection(io, service))
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(None)
                .auto_date_header(false)
                .max_headers(limits::HTTP_HEADERS)
                .max_buf_size(limits::EXCHANGE_DATA_BYTES);
            serve!(builder.serve_connection(io, service).with_upgrades())
        };
        front.log(ended);
    }
}

impl Front {
    /// A line for what no request has one for.
    fn log(&self, ended: hyper::Result<()>) {
        let detail = match (self.signals.flood(), ended) {
            (Some(flood), _) => flood,
            (None, Err(error)) if error.is_parse() => text_of(&error),
            (None, Ok(()) | Err(_)) => return,
        };
        let mut line = self.line.clone();
        (line.reason, line.detail) = (CloseReason::BadRequest, detail);
        self.proxy.parts.observer.finished(&line);
    }
}
