//! Serve: a peer's exchange with a service on this host.
//!
//! Request head, checked again -> the checks of every call, the request among what they see ->
//! a connection to the process -> `ok` -> the request, once it may -> the response, as it comes.
//! The connection goes back only when both messages are whole.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body::Body as _;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use skein_protocol::{
    limits,
    name::ServiceName,
    record::node::Protocol,
    route::CloseReason,
    wire::{
        exchange::{self, Failed, Failure, FrameKind, RequestHead},
        stream::{RESET_BY_APPLICATION, Refusal, Reply, StreamHead},
    },
};
use tokio::{
    io::AsyncWriteExt,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{
    Body,
    frames::{self, Broken, Incoming, Reader},
    head,
    processes::{Process, Unsent},
};
use crate::{
    link::mux::{SendHalf, StreamPair},
    proxy::{
        Direction, PeerIdentity, Proxy, Requested, Target, client_address,
        copy::{Copied, copy},
        inbound::{ANSWER_TIMEOUT, Line, Refused, answer},
        socket::halves,
    },
};

/// An exchange whose request may go to the process.
struct Admitted {
    process: Process,
    target: Target,
    two: bool,
    request: RequestHead,
    /// Of the service, where the client named no host.
    host: String,
}

impl Proxy {
    /// Carries an exchange from behind its stream head to its end.
    pub(in crate::proxy) async fn serve_exchange(
        &self,
        caller: &PeerIdentity,
        stream: &StreamHead,
        (mut send, recv): StreamPair,
        line: &mut Line,
        started: Instant,
    ) {
        let mut reader = Reader::new(recv);
        let read = async {
            match reader.frame().await? {
                (FrameKind::Request, content) => exchange::request(&content)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "no request came first")),
            }
        };
        let request = match timeout(self.parts.timeouts.head, read).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                line.0.detail = error.to_string();
                return send.reset(skein_protocol::wire::stream::RESET_BAD_HEAD);
            }
            Err(_) => {
                line.0.detail = "no request in time".to_owned();
                return send.reset(skein_protocol::wire::stream::RESET_BAD_HEAD);
            }
        };
        line.requested(&request);
        let admitted = match self.admit_request(caller, stream, request, line).await {
            Ok(admitted) => admitted,
            Err(Refused { code, why, .. }) => {
                line.refused(code, &why);
                let mut recv = reader.into_bytes();
                return answer(&mut *send, &mut *recv, &Reply::refused(code, &why)).await;
            }
        };
        line.0.connected = started.elapsed();
        let _open = self.parts.observer.opened(Direction::Inbound, &stream.destination);
        let told = async {
            send.write_all(&Reply::Ok.encode()).await?;
            send.flush().await
        };
        if !matches!(timeout(ANSWER_TIMEOUT, told).await, Ok(Ok(()))) {
            line.0.reason = CloseReason::ClientReset;
            return self.processes.put(&admitted.target, admitted.process).await;
        }
        let (method, path) = (admitted.request.method.clone(), admitted.request.path.clone());
        let requested = Some(Requested { method: &method, path: &path });
        let (up, down) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let moved = (Arc::clone(&up), Arc::clone(&down));
        let ended = tokio::select! {
            biased;
            cut = self.cut(caller, stream, requested) => Err(cut),
            ended = self.exchange(admitted, (&mut send, reader), moved, line) => Ok(ended),
        };
        match ended {
            Ok(None) => {}
            Ok(Some(Raw { here, there })) => {
                let cut = self.cut(caller, stream, requested);
                let copied = copy((send, here), there, cut, self.parts.timeouts.idle).await;
                line.ended(copied);
            }
            Err((reason, detail)) => {
                let (up, down) = (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
                line.ended(Copied { reason, detail, up, down });
                send.reset(crate::proxy::copy::code(reason));
            }
        }
    }

    async fn admit_request(
        &self,
        caller: &PeerIdentity,
        stream: &StreamHead,
        mut request: RequestHead,
        line: &mut Line,
    ) -> Result<Admitted, Refused> {
        let local = Arc::clone(&self.parts.local.borrow());
        let instance = self.admit(&local, caller, stream, Some(&request))?;
        let most = self.parts.timeouts.connect;
        let patience = stream.deadline().map_or(most, |deadline| deadline.min(most));
        let me = &local.me.grant.name;
        let endpoint = format!("{me}/{}", instance.id);
        let two = match instance.protocol {
            Protocol::Http2 | Protocol::Grpc => true,
            Protocol::Http => false,
            Protocol::Sniff | Protocol::Tcp => request.two,
        };
        let process = match instance.proxy_protocol {
            false => self.processes.get(&instance.target, two, patience).await,
            // What is said of one client is not for the next.
            true => {
                let header = client_address::header(stream.client, &instance.target);
                self.processes.alone(&instance.target, two, patience, &header).await
            }
        };
        let process = process.map_err(|error| Refused {
            code: Refusal::ConnectFailed,
            why: format!("{endpoint} on {me}: {error}"),
            wait: None,
        })?;
        line.0.endpoint = Some(endpoint);
        // What agents say of a request is said by this one, as it authenticated it.
        request.headers.retain(|(name, _)| {
            !skein_protocol::http::header::is_ours(name)
                || name == skein_protocol::http::header::ATTEMPT
        });
        let source = source(caller, stream);
        head::set(&mut request.headers, skein_protocol::http::header::SOURCE, source);
        let target = instance.target.clone();
        let host = host_of(&stream.destination);
        Ok(Admitted { process, target, two, request, host })
    }

    /// A request to a static endpoint outside of the mesh: the exchange without the checks.
    pub(in crate::proxy) async fn serve_outside(
        &self,
        target: Target,
        service: &ServiceName,
        (mut send, recv): StreamPair,
    ) {
        let mut reader = Reader::new(recv);
        let Ok((FrameKind::Request, content)) = reader.frame().await else { return };
        let Ok(request) = exchange::request(&content) else { return };
        let most = self.parts.timeouts.connect;
        let process = match self.processes.get(&target, false, most).await {
            Ok(process) => process,
            Err(why) => {
                let refused = Reply::refused(Refusal::ConnectFailed, &why);
                return answer(&mut *send, &mut *reader.into_bytes(), &refused).await;
            }
        };
        if send.write_all(&Reply::Ok.encode()).await.is_err() {
            return;
        }
        let host = host_of(service);
        let admitted = Admitted { process, target, two: false, request, host };
        let mut line = Line::unlogged();
        let moved = (Arc::default(), Arc::default());
        let raw = self.exchange(admitted, (&mut send, reader), moved, &mut line).await;
        if let Some(Raw { here, there }) = raw {
            let idle = self.parts.timeouts.idle;
            copy((send, here), there, self.guard.cut(), idle).await;
        }
    }

    /// The exchange with the process. `Some` when it has become bytes.
    async fn exchange(
        &self,
        admitted: Admitted,
        (send, mut reader): (&mut Box<dyn SendHalf>, Reader),
        (up, down): (Arc<AtomicU64>, Arc<AtomicU64>),
        line: &mut Line,
    ) -> Option<Raw> {
        let idle = self.idle_of(line);
        let gave_up = |line: &mut Line| line.0.reason = CloseReason::ClientReset;
        if admitted.request.waits {
            // Its caller has sent all of the head: a peer that says nothing now holds a process.
            match timeout(self.parts.timeouts.head, reader.frame()).await {
                Ok(Ok((FrameKind::Go, _))) => {}
                Ok(Ok(_) | Err(_)) | Err(_) => {
                    gave_up(line);
                    self.processes.put(&admitted.target, admitted.process).await;
                    return None;
                }
            }
        }
        let Admitted { mut process, target, two, request, host } = admitted;
        let (body, mut back): (Body, _) = if request.ended {
            let (give, back) = oneshot::channel();
            let _ = give.send(reader);
            (Empty::new().map_err(|never| match never {}).boxed_unsync(), back)
        } else {
            let (body, back) = Incoming::new(reader, Arc::clone(&up), Arc::clone(&down), idle);
            (body.boxed_unsync(), back)
        };
        let asked = match head::to_service(&request, two, &host, body) {
            Ok(asked) => asked,
            Err(error) => {
                line.failed(CloseReason::BadHead, error.to_string());
                send.reset(RESET_BY_APPLICATION);
                return None;
            }
        };
        // A caller that resets its half wants no answer any more.
        let mut given: Option<Reader> = None;
        // Whether its body is still on its way.
        let mut waiting = true;
        let mut stopped = send.stopped();
        let sent = {
            let sent = self.send(&mut process, asked, &request, (&target, two, &host));
            let mut sent = std::pin::pin!(sent);
            loop {
                tokio::select! {
                    biased;
                    sent = &mut sent => break Some(sent),
                    reader = &mut back, if waiting => {
                        waiting = false;
                        // Without it the body broke, which the process learns.
                        given = reader.ok();
                    }
                    () = gone(&mut given) => break None,
                    // It shows, too, while its body is not being read.
                    () = &mut stopped => break None,
                }
            }
        };
        let response = match sent {
            None => {
                gave_up(line);
                return None;
            }
            Some(Ok(response)) => response,
            Some(Err(error)) => {
                let (failure, reason) = match error.is_parse() {
                    true => (Failure::Garbage, CloseReason::BadAnswer),
                    false => (Failure::Reset, CloseReason::EndpointReset),
                };
                let detail = text_of(&error);
                line.failed(reason, detail.clone());
                let failed = Failed { failure, detail };
                let _ = frames::write(&mut **send, FrameKind::Failed, &failed).await;
                let _ = send.shutdown().await;
                return None;
            }
        };
        let status = response.status().as_u16();
        line.answered(status);
        if status == 101 {
            if waiting {
                given = back.await.ok();
            }
            return self.switched(response, send, given, request.upgrade, line).await;
        }
        let (parts, mut body) = response.into_parts();
        let answered = match head::response(&parts, body.is_end_stream()) {
            Ok(head) => head,
            Err(why) => {
                line.failed(CloseReason::BadAnswer, why.clone());
                let failed = Failed { failure: Failure::Garbage, detail: why };
                let _ = frames::write(&mut **send, FrameKind::Failed, &failed).await;
                let _ = send.shutdown().await;
                return None;
            }
        };
        let ended = {
            let down_now = Arc::clone(&down);
            let written = async {
                frames::write(&mut **send, FrameKind::Response, &answered)
                    .await
                    .map_err(|_| Broken::Write)?;
                frames::write_body(&mut body, &mut **send, &down_now).await
            };
            let mut written = std::pin::pin!(written);
            let moved = || up.load(Ordering::Relaxed) + down.load(Ordering::Relaxed);
            let mut quiet = std::pin::pin!(crate::proxy::copy::idle_for(idle, moved));
            loop {
                tokio::select! {
                    biased;
                    written = &mut written => break Some(written),
                    reader = &mut back, if waiting => {
                        waiting = false;
                        given = reader.ok();
                    }
                    () = gone(&mut given) => break None,
                    // It shows, too, while its body is not being read.
                    () = &mut stopped => break None,
                    () = &mut quiet => {
                        let text = "nothing moved".to_owned();
                        break Some(Err(Broken::Read(text)));
                    }
                }
            }
        };
        (line.0.up, line.0.down) = (up.load(Ordering::Relaxed), down.load(Ordering::Relaxed));
        match ended {
            Some(Ok(())) => {
                line.0.reason = CloseReason::Done;
                let _ = send.shutdown().await;
                drop(body);
                self.processes.put(&target, process).await;
            }
            Some(Err(Broken::Read(detail))) => {
                // Not a reset, which would overtake what is on its way.
                line.failed(CloseReason::EndpointReset, detail.clone());
                let failed = Failed { failure: Failure::Reset, detail };
                let _ = frames::write(&mut **send, FrameKind::Failed, &failed).await;
                let _ = send.shutdown().await;
            }
            Some(Err(Broken::Write)) | None => gave_up(line),
        }
        None
    }

    /// Sends a request, and once more on a new connection if a kept one did not take it.
    async fn send(
        &self,
        process: &mut Process,
        asked: hyper::Request<Body>,
        request: &RequestHead,
        (target, two, host): (&Target, bool, &str),
    ) -> Result<hyper::Response<hyper::body::Incoming>, hyper::Error> {
        let reused = process.is_reused();
        let Unsent { unwritten, error } = match process.send(asked).await {
            Ok(response) => return Ok(response),
            Err(unsent) => unsent,
        };
        let again = match unwritten {
            Some(asked) => Some(*asked),
            None if reused && request.ended && !request.waits && !error.is_parse() => {
                let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
                head::to_service(request, two, host, body).ok()
            }
            None => None,
        };
        let Some(again) = again.filter(|_| reused) else { return Err(error) };
        let fresh = self.processes.fresh(target, two, self.parts.timeouts.connect).await;
        match fresh {
            Ok(fresh) => *process = fresh,
            Err(_) => return Err(error),
        }
        process.send(again).await.map_err(|unsent| unsent.error)
    }

    /// A response of 101: both directions are bytes from here on.
    async fn switched(
        &self,
        response: hyper::Response<hyper::body::Incoming>,
        send: &mut Box<dyn SendHalf>,
        reader: Option<Reader>,
        wanted: bool,
        line: &mut Line,
    ) -> Option<Raw> {
        let head = head::response(&response_parts(&response), false).ok()?;
        let upgraded = hyper::upgrade::on(response).await;
        let (Some(reader), Ok(upgraded), true) = (reader, upgraded, wanted) else {
            let detail = "it switched protocols unasked".to_owned();
            line.failed(CloseReason::BadAnswer, detail.clone());
            let failed = Failed { failure: Failure::Garbage, detail };
            let _ = frames::write(&mut **send, FrameKind::Failed, &failed).await;
            let _ = send.shutdown().await;
            return None;
        };
        if frames::write(&mut **send, FrameKind::Response, &head).await.is_err() {
            line.0.reason = CloseReason::ClientReset;
            return None;
        }
        Some(Raw { here: reader.into_bytes(), there: halves(TokioIo::new(upgraded)) })
    }

    fn idle_of(&self, line: &Line) -> Duration {
        let traffic = self.parts.traffic.now();
        let Some(service) = line.0.service.as_ref().filter(|_| !traffic.is_empty()) else {
            return limits::HTTP_IDLE;
        };
        let rules = traffic.of(service, line.0.port);
        rules.timeouts.first(None).and_then(|rule| rule.does.idle).unwrap_or(limits::HTTP_IDLE)
    }
}

/// The host of a service, where the client named none.
fn host_of(service: &ServiceName) -> String {
    format!("{}.{}", service.name(), service.namespace())
}

/// An exchange that has become bytes.
struct Raw {
    here: Box<dyn crate::link::mux::RecvHalf>,
    there: StreamPair,
}

/// Waits until the caller wants nothing more; for ever while its body still comes.
async fn gone(given: &mut Option<Reader>) {
    match given {
        Some(reader) => reader.gone().await,
        None => std::future::pending().await,
    }
}

/// The parts of a response that is needed whole afterwards.
fn response_parts<B>(response: &hyper::Response<B>) -> http::response::Parts {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = response.status();
    parts.headers = response.headers().clone();
    parts
}

/// Who calls, as the service may believe it.
fn source(caller: &PeerIdentity, stream: &StreamHead) -> String {
    use skein_protocol::wire::stream::Source;
    let who = match &stream.source {
        Source::Service(service) => service.to_string(),
        Source::Node => format!("node {}", caller.grant.name),
    };
    if stream.outside() { format!("{who} from outside") } else { who }
}

/// An error of hyper with what lies beneath it, as one line.
pub(super) fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
