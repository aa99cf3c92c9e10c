//! Exchange: one request of a client, to its answer's last byte.
//!
//! Fault > Route > Split > Mirror > Timeout(Retry or Hedge(Locality > Balance, less Eject and
//! CircuitBreak)), by the rules of the moment at which it came.

use std::{
    fmt::Write as _,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skein_protocol::{
    http::header::REASON,
    limits,
    manifest::traffic::{PathMatch, Redirect, Request as Seen, Rewrite, Route},
    policy::traffic::{Rule, ServiceRules},
    route::CloseReason,
    wire::exchange::{RequestHead, ResponseHead},
};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time::{Instant, Sleep},
};

use super::{
    Body,
    converse::{Answer, Body as Sent, Outgoing},
    frames,
    front::Front,
    guarded::Refused,
    head::{self, Asked},
    upload::{Up, Upload},
};
use crate::proxy::{
    Connection, Direction, ListenerSpec, RequestLine,
    copy::{Copied, copy},
    guard::Work,
    outbound::{Call, Carried, Counts, Failed, both},
    socket::halves,
};

/// Answers a request.
pub(super) async fn answer(front: Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let grpc = is_grpc(request.headers());
    let one = request.version() < http::Version::HTTP_2;
    let spec = door(&front, &request);
    let upgrades = request.headers().contains_key(header::UPGRADE);
    let known = spec.as_ref().unwrap_or(&front.spec);
    let mut ending = Some(Ending::new(&front, known, &request));
    let answered = match &spec {
        Some(spec) => go((&front, spec), request, &mut ending).await,
        None => Err(nowhere(&request)),
    };
    let switched = matches!(&answered, Ok(response) if response.status() == 101);
    if upgrades {
        front.signals.answered(switched);
    }
    let mut response = match answered {
        Ok(response) => response,
        Err(failed) => refuse(failed, ending, (grpc, front.spec.outside)),
    };
    if one && !switched && front.proxy.guard.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Where a request goes: at a gateway by the host that it names.
fn door(front: &Front, request: &Request<Incoming>) -> Option<Arc<ListenerSpec>> {
    let refused = front.signals.refused().is_some();
    let Some(door) = front.spec.door.as_ref().filter(|_| !refused) else {
        return Some(Arc::clone(&front.spec));
    };
    door.at(host(request)).cloned()
}

/// The host that a request names; empty where it names none.
fn host(request: &Request<Incoming>) -> &str {
    let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default()
}

fn nowhere(request: &Request<Incoming>) -> Failed {
    let detail = format!("no service is open here for the host `{}`", host(request));
    Failed { status: Some(404), ..Failed::new(CloseReason::NoSuchService, detail) }
}

async fn go(
    (front, spec): (&Arc<Front>, &Arc<ListenerSpec>),
    mut request: Request<Incoming>,
    ending: &mut Option<Ending>,
) -> Result<Response<Body>, Failed> {
    if let Some(refused) = front.signals.refused() {
        let bad = |status, detail| {
            Err(Failed { status: Some(status), ..Failed::new(CloseReason::BadRequest, detail) })
        };
        return match refused {
            Refused::Fault(fault) => bad(fault.status(), fault.to_string()),
            Refused::Late => bad(408, "the head was not whole in time".to_owned()),
        };
    }
    let counted = share(front, request.headers().contains_key(header::UPGRADE))?;
    let switch = hyper::upgrade::on(&mut request);
    let ended = request.body().is_end_stream();
    let (parts, body) = request.into_parts();
    let Asked { mut head, attempt } = head::request(&parts, ended).map_err(|bad| Failed {
        status: Some(bad.status),
        ..Failed::new(CloseReason::BadRequest, bad.why)
    })?;
    if let Some(ending) = ending {
        ending.asked(&head);
        ending.share = counted;
    }
    head::name(&mut head, &mut rand::rng());
    if spec.outside {
        from_outside(front, &mut head);
    }
    let seen = head.clone();
    let headers = seen.texts();
    let asked = seen.seen(&headers);
    let line = Connection { service: Some(spec.service.clone()), ..front.line.clone() };
    let mut call = Call::new(&front.proxy, spec, line);
    let rules = call.rules();
    call.faults(&rules, Some(&asked)).await?;
    let route = rules.routes.first(Some(&asked));
    if let Some(redirect) = route.and_then(|rule| rule.does.redirect.as_ref()) {
        return redirected(redirect, (&seen, front.secure), ending);
    }
    if let Some(route) = route {
        head::edit(&mut head.headers, &route.does.request);
        rewrite(&mut head, route)?;
    }
    let (up, down) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let mut upload = (!ended).then(|| Upload::new(body, Arc::clone(&up)));
    // A stream of gRPC lasts as long as its two ends wish; what it holds is bounded all the same.
    if let Some(upload) = upload.as_mut().filter(|_| spec.outside && !is_grpc(&parts.headers)) {
        upload.at_least_rate();
    }
    mirror((front, spec), (&rules, &asked), &head, upload.as_mut());
    let body = match upload {
        None => Sent::None,
        Some(upload) => Sent::Client(Arc::new(AsyncMutex::new(upload))),
    };
    let outgoing = Outgoing { head, body, attempt, runtime: front.proxy.parts.runtime.clone() };
    call.outgoing = Some(&outgoing);
    let taken = call.connect(Some(&asked)).await;
    let (deadline, idle) = (call.deadline, call.answer_idle);
    if let Some(ending) = ending {
        ending.called(call.line);
    }
    let taken = taken?;
    let Carried::Answer(answer) = taken.carried else {
        return Err(Failed::new(CloseReason::BadAnswer, "bytes where an answer should be"));
    };
    let Answer { head: mut answered, reader, up: sending } = *answer;
    if let Some(route) = route {
        head::edit(&mut answered.headers, &route.does.response);
    }
    let Some(mut ending) = ending.take() else {
        return Err(Failed::new(CloseReason::BadAnswer, "answered twice"));
    };
    ending.answered(answered.status);
    ending.counts = Some(taken.counts);
    ending.moved = Some((Arc::clone(&up), Arc::clone(&down)));
    if answered.status == 101 {
        let Up::Whole(sending) = sending else {
            return Err(Failed::new(CloseReason::BadAnswer, "it switched protocols too early"));
        };
        let service = sending.into_half().map(|send| (send, reader.into_bytes()));
        let front = Arc::clone(front);
        let runtime = front.proxy.parts.runtime.clone();
        runtime.spawn(async move {
            let (Some(service), Ok(client)) = (service, switch.await) else { return };
            let cut = front.proxy.guard.cut();
            let idle = front.proxy.parts.timeouts.idle;
            let copied = copy(halves(TokioIo::new(client)), service, cut, idle).await;
            ending.copied(copied);
        });
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        return whole(&answered, body);
    }
    let (body, _whole) = frames::Incoming::new(reader, Arc::clone(&down), up, idle);
    let timer = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
    let left = match answered.status {
        _ if seen.method == "HEAD" || answered.ended => Some(0),
        204 | 304 => Some(0),
        _ => head::text(&answered.headers, "content-length").and_then(|text| text.parse().ok()),
    };
    let ended = answered.ended;
    let next = None;
    let body = Answering {
        body: Some(body),
        ending: Some(ending),
        sending: Some(sending),
        timer,
        left,
        ended,
        next,
    };
    whole(&answered, body.boxed_unsync())
}

/// What one address outside of the mesh has under way, counted while it lives.
type Share = Vec<tokio::sync::OwnedSemaphorePermit>;

/// Room for one more request of a client outside of the mesh.
fn share(front: &Front, switches: bool) -> Result<Share, Failed> {
    let Some(held) = &front.outside else { return Ok(Vec::new()) };
    let many = |what: &str, most: usize| {
        let detail = format!("this address has {most} {what}, as many as one may");
        Failed { status: Some(429), ..Failed::new(CloseReason::TooMany, detail) }
    };
    let client = held.client();
    let request = client.request();
    let request = request.ok_or_else(|| many("requests under way", limits::CLIENT_REQUESTS))?;
    let mut share = vec![request];
    if switches {
        let switched = client.switch();
        let most = limits::CLIENT_SWITCHED;
        share.push(switched.ok_or_else(|| many("connections of other protocols", most))?);
    }
    Ok(share)
}

fn whole(head: &ResponseHead, body: Body) -> Result<Response<Body>, Failed> {
    head::to_client(head, body)
        .map_err(|error| Failed::new(CloseReason::BadAnswer, error.to_string()))
}

/// Says who the client outside of the mesh is.
fn from_outside(front: &Front, head: &mut RequestHead) {
    let Some(client) = front.client else { return };
    let client = client.ip().to_canonical().to_string();
    for name in ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"] {
        head::remove_alike(&mut head.headers, name);
    }
    let known = head::text(&head.headers, "x-forwarded-for").map(str::to_owned);
    let chain = known.map_or_else(|| client.clone(), |known| format!("{known}, {client}"));
    head::set(&mut head.headers, "x-forwarded-for", chain);
    let authority = head.authority.clone();
    head::set(&mut head.headers, "x-forwarded-host", authority);
    let scheme = if front.secure { "https" } else { "http" };
    head::set(&mut head.headers, "x-forwarded-proto", scheme);
}

/// Writes a request anew as its route says.
fn rewrite(head: &mut RequestHead, route: &Rule<Route>) -> Result<(), Failed> {
    let Rewrite { path, prefix, host } = &route.does.rewrite;
    let matched = match &route.matches.path {
        Some(PathMatch::Prefix(text)) => Some(text.as_str()),
        _ => None,
    };
    let written = match (path, prefix) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(prefix)) => {
            let rest = head.path.strip_prefix(matched.unwrap_or_default());
            rest.map(|rest| joined(prefix, rest))
        }
        (None, None) => None,
    };
    if let Some(written) = written {
        let canonical = skein_protocol::http::canonical(&written);
        let canonical = canonical.map_err(|fault| {
            let detail = format!("{}: its rewrite gives `{written}`: {fault}", route.name);
            Failed::new(CloseReason::BadRequest, detail)
        })?;
        head.path = canonical.into_owned();
    }
    if let Some(host) = host {
        head.authority.clone_from(host);
    }
    Ok(())
}

/// A prefix and what stands behind the one that it replaces, with one slash between them.
fn joined(prefix: &str, rest: &str) -> String {
    match (prefix.strip_suffix('/'), rest.strip_prefix('/')) {
        (Some(prefix), Some(rest)) => format!("{prefix}/{rest}"),
        (None, None) if !rest.is_empty() && !prefix.is_empty() => format!("{prefix}/{rest}"),
        _ => format!("{prefix}{rest}"),
    }
}

fn redirected(
    redirect: &Redirect,
    (seen, secure): (&RequestHead, bool),
    ending: &mut Option<Ending>,
) -> Result<Response<Body>, Failed> {
    let scheme = redirect.scheme.unwrap_or(if secure { "https" } else { "http" });
    let host = redirect.host.as_deref().unwrap_or(&seen.authority);
    let path = redirect.path.as_deref().unwrap_or(&seen.path);
    let mut location = format!("{scheme}://{host}{path}");
    if let Some(query) = &seen.query {
        let _ = write!(location, "?{query}");
    }
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() =
        StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::TEMPORARY_REDIRECT);
    let location = HeaderValue::from_str(&location)
        .map_err(|error| Failed::new(CloseReason::BadRequest, error.to_string()))?;
    response.headers_mut().insert(header::LOCATION, location);
    if let Some(mut ending) = ending.take() {
        ending.answered(redirect.status);
        ending.end(CloseReason::Done, "redirected".to_owned());
    }
    Ok(response)
}

/// Sends copies where Mirror rules say. Nothing of the request waits for them.
fn mirror(
    (front, spec): (&Arc<Front>, &Arc<ListenerSpec>),
    (rules, asked): (&ServiceRules, &Seen<'_>),
    head: &RequestHead,
    mut upload: Option<&mut Upload>,
) {
    for rule in rules.mirrors.all(Some(asked)) {
        let proxy = &front.proxy;
        if !proxy.meters.draws(rule.does.percent) {
            continue;
        }
        let Ok(permit) = Arc::clone(&proxy.mirrors).try_acquire_owned() else { continue };
        let body = match &mut upload {
            None => Sent::None,
            Some(upload) => {
                let (pieces, come) = mpsc::channel(limits::MIRROR_QUEUE);
                upload.mirror(pieces);
                Sent::Copy(std::sync::Mutex::new(Some(come)))
            }
        };
        let (front, spec, rule) = (Arc::clone(front), Arc::clone(spec), rule.clone());
        let runtime = front.proxy.parts.runtime.clone();
        let outgoing = Outgoing { head: head.clone(), body, attempt: 1, runtime };
        proxy.parts.runtime.clone().spawn(async move {
            let _permit = permit;
            let mut call = Call::new(&front.proxy, &spec, front.line.clone());
            call.outgoing = Some(&outgoing);
            let copied = async {
                let Ok(taken) = call.mirrored(&rule).await else { return };
                if let Carried::Answer(answer) = taken.carried {
                    let Answer { mut reader, up: _up, .. } = *answer;
                    while let Ok((kind, _)) = reader.frame().await {
                        if kind == skein_protocol::wire::exchange::FrameKind::End {
                            break;
                        }
                    }
                }
            };
            let _ = tokio::time::timeout(limits::MIRROR_TIME, copied).await;
        });
    }
}

/// A request's line of the log, written when it is dropped.
pub(super) struct Ending {
    front: Arc<Front>,
    line: Connection,
    started: Instant,
    counts: Option<Counts>,
    moved: Option<(Arc<AtomicU64>, Arc<AtomicU64>)>,
    _open: Option<Box<dyn Send + Sync>>,
    _work: Work,
    share: Share,
}

impl Ending {
    fn new(front: &Arc<Front>, spec: &ListenerSpec, request: &Request<Incoming>) -> Self {
        let mut line = front.line.clone();
        line.service = Some(spec.service.clone());
        let refused = front.signals.refused().is_some();
        line.request = Some(RequestLine {
            method: match refused {
                true => "-".to_owned(),
                false => request.method().as_str().chars().take(limits::METHOD_BYTES).collect(),
            },
            path: match refused {
                true => "-".to_owned(),
                false => request.uri().path().chars().take(limits::LOGGED_PATH).collect(),
            },
            status: 0,
        });
        // What is dropped before its end was given up by the client.
        line.reason = CloseReason::ClientReset;
        let observer = &front.proxy.parts.observer;
        let _open = observer.opened(Direction::Outbound, &spec.service);
        let _work = front.proxy.guard.answers();
        let front = Arc::clone(front);
        Self {
            front,
            line,
            started: Instant::now(),
            counts: None,
            moved: None,
            _open,
            _work,
            share: Vec::new(),
        }
    }

    /// What it is that goes on.
    fn asked(&mut self, head: &RequestHead) {
        if let Some(request) = &mut self.line.request {
            request.path = head.path.chars().take(limits::LOGGED_PATH).collect();
        }
    }

    fn called(&mut self, line: Connection) {
        let request = self.line.request.take();
        self.line = line;
        self.line.request = request;
        self.line.reason = CloseReason::ClientReset;
    }

    fn answered(&mut self, status: u16) {
        self.line.connected = self.started.elapsed();
        if let Some(request) = &mut self.line.request {
            request.status = status;
        }
    }

    fn copied(mut self, copied: Copied) {
        self.moved = None;
        (self.line.up, self.line.down) = (copied.up, copied.down);
        self.end(copied.reason, copied.detail);
    }

    fn end(mut self, reason: CloseReason, detail: String) {
        let known = std::mem::take(&mut self.line.detail);
        (self.line.reason, self.line.detail) = (reason, both(detail, known));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if let Some((up, down)) = &self.moved {
            self.line.up = up.load(Ordering::Relaxed);
            self.line.down = down.load(Ordering::Relaxed);
        }
        self.line.duration = self.started.elapsed();
        let detail = std::mem::take(&mut self.line.detail);
        self.line.detail = both(detail, self.front.note.clone());
        self.front.proxy.parts.observer.finished(&self.line);
    }
}

/// A response's body on its way to the client.
struct Answering {
    body: Option<frames::Incoming>,
    ending: Option<Ending>,
    sending: Option<Up>,
    /// When the whole must be done.
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes that are still to come, where that is known.
    left: Option<u64>,
    /// Whether there are none at all.
    ended: bool,
    /// What came with the last of them.
    next: Option<Frame<Bytes>>,
}

impl Drop for Answering {
    /// hyper does not ask for the end of a body whose length it knows. It is waited for all the
    /// same, so that the other side does not take the exchange for one that was given up.
    fn drop(&mut self) {
        let (Some(0), Some(ending)) = (self.left, self.ending.take()) else { return };
        ending.end(CloseReason::Done, String::new());
        let (body, sending) = (self.body.take(), self.sending.take());
        let Some(mut body) = body.filter(|body| !HttpBody::is_end_stream(body)) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let end = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
                let _ = tokio::time::timeout(END_WAIT, end).await;
                drop(sending);
            });
        }
    }
}

/// For so long the end of an answer is waited for whose bytes are all there.
const END_WAIT: Duration = Duration::from_secs(1);

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready()) {
            let text = "the answer was not whole in the time of its Timeout";
            if let Some(ending) = this.ending.take() {
                ending.end(CloseReason::Timeout, text.to_owned());
            }
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, text))));
        }
        if let Some(frame) = this.next.take() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => {
                if let Some(ending) = this.ending.take() {
                    ending.end(CloseReason::Done, String::new());
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(ending) = this.ending.take() {
                    let reason = match error.kind() {
                        io::ErrorKind::TimedOut => CloseReason::IdleTimeout,
                        _ => crate::proxy::copy::broken(error, CloseReason::EndpointReset),
                    };
                    ending.end(reason, error.to_string());
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                this.left = this.left.map(|left| left.saturating_sub(bytes));
                // Most often the end is there already.
                if this.left == Some(0)
                    && let Some(body) = &mut this.body
                    && let Poll::Ready(next) = Pin::new(body).poll_frame(cx)
                {
                    match next {
                        // Trailers, in all likelihood: given next.
                        Some(Ok(frame)) => this.next = Some(frame),
                        Some(Err(_)) => {}
                        None => {
                            if let Some(ending) = this.ending.take() {
                                ending.end(CloseReason::Done, String::new());
                            }
                        }
                    }
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// The answer of this agent, in place of the service's.
///
/// Who is outside of the mesh learns the word alone: the rest is for its people, in the log.
fn refuse(failed: Failed, ending: Option<Ending>, (grpc, outside): (bool, bool)) -> Response<Body> {
    let Failed { reason, detail, status, wait } = failed;
    let told = match outside {
        true => reason.word().to_owned(),
        false => format!("{}: {detail}", reason.word()),
    };
    let status = status.unwrap_or_else(|| reason.status());
    let text: Body = match grpc {
        true => Empty::new().map_err(|never| match never {}).boxed_unsync(),
        false => Full::new(Bytes::from(told.clone() + "\n"))
            .map_err(|never| match never {})
            .boxed_unsync(),
    };
    let mut response = Response::new(text);
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason.word()));
    if let Some(wait) = wait {
        // RFC 9110 10.2.3: whole seconds.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(reason.grpc_status())));
        let message = percent(&format!("skein: {told}"));
        if let Ok(message) = HeaderValue::from_str(&message) {
            headers.insert("grpc-message", message);
        }
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    }
    if reason == CloseReason::BadRequest {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(mut ending) = ending {
        ending.answered(status);
        ending.line.connected = Duration::ZERO;
        ending.end(reason, detail);
    }
    response
}

/// gRPC's form of a message: what is not printable ASCII is escaped.
fn percent(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes().take(limits::REASON_BYTES) {
        match byte {
            b' '..=b'~' if byte != b'%' => escaped.push(char::from(byte)),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_with_one_slash_between() {
        for (prefix, rest, wanted) in [
            ("/", "/a", "/a"),
            ("/v2", "/a", "/v2/a"),
            ("/v2/", "/a", "/v2/a"),
            ("/v2/", "a", "/v2/a"),
            ("/v2", "a", "/v2/a"),
            ("/v2", "", "/v2"),
            ("/", "", "/"),
        ] {
            assert_eq!(joined(prefix, rest), wanted, "{prefix} {rest}");
        }
    }

    #[test]
    fn a_grpc_message_is_printable() {
        assert_eq!(percent("a%b\n\u{e9}"), "a%25b%0A%C3%A9");
    }
}
