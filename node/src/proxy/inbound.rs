//! Inbound: a peer's stream to an application on this host.
//!
//! Head, within its deadline -> checks -> connect -> `ok` -> copy. The checks are the same for a
//! call from this host. Each refusal says what and why; nothing reaches an application before all
//! checks have passed.

use std::{io, sync::Arc, time::Duration};

use skein_protocol::{
    limits,
    manifest::traffic::PerWhat,
    name::NodeKey,
    record::node::Protocol,
    route::{CloseReason, rendezvous},
    trust::Role,
    wire::{
        exchange::RequestHead,
        kind::StreamKind,
        stream::{
            HeadError, PREFIX_BYTES, RESET_BAD_HEAD, Refusal, Reply, STOP_REFUSED, Source,
            StreamHead,
        },
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::{
    Connection, Direction, LocalInstance, LocalServices, Peer, PeerIdentity, Proxy, RequestLine,
    Requested, Socket, client_address,
    copy::{Copied, copy},
    guard::Permit,
};
use crate::link::mux::{RecvHalf, SendHalf, StreamPair};

/// Why a call was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    pub(super) code: Refusal,
    pub(super) why: String,
    /// After how long another call would pass, where that is known.
    pub(super) wait: Option<Duration>,
}

fn refuse<T>(code: Refusal, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, why: why.into(), wait: None })
}

impl Proxy {
    /// Carries a stream of bytes, or an exchange, that `peer` opened, from behind its kind byte to
    /// its end.
    pub async fn serve_stream(&self, peer: &Peer, kind: StreamKind, pair: StreamPair) {
        let started = Instant::now();
        let (mut send, mut recv) = pair;
        let mut line = Line::new(peer.identity.key);
        // The slot is taken before the head is read, so that silent streams are counted too.
        let Some(permit) = self.guard.stream_of(peer) else {
            let why = format!(
                "{} has as many streams open as it may: try again later",
                peer.identity.grant.name
            );
            line.refused(Refusal::Overload, &why);
            answer(&mut *send, &mut *recv, &Reply::refused(Refusal::Overload, &why)).await;
            return self.log(line, started);
        };
        let head = match read_head(&mut *recv, self.parts.timeouts.head).await {
            Ok(head) => head,
            Err(BadHead::Unknown(why)) => {
                line.refused(Refusal::NoService, &why);
                answer(&mut *send, &mut *recv, &Reply::refused(Refusal::NoService, &why)).await;
                return self.log(line, started);
            }
            Err(BadHead::Broken(why)) => {
                send.reset(RESET_BAD_HEAD);
                recv.stop(RESET_BAD_HEAD);
                line.0.detail = why;
                return self.log(line, started);
            }
        };
        line.called(&head);
        if kind == StreamKind::Http {
            let _permit = permit;
            let exchange =
                self.serve_exchange(&peer.identity, &head, (send, recv), &mut line, started);
            Box::pin(exchange).await;
            return self.log(line, started);
        }
        match self.admit_and_connect(&peer.identity, &head).await {
            Ok((socket, endpoint)) => {
                line.0.endpoint = Some(endpoint);
                line.0.connected = started.elapsed();
                let _open = self.parts.observer.opened(Direction::Inbound, &head.destination);
                let pair = (send, recv);
                let caller = &peer.identity;
                line.ended(self.answer_and_copy(pair, socket, (caller, &head), permit).await);
            }
            Err(Refused { code, why, .. }) => {
                line.refused(code, &why);
                answer(&mut *send, &mut *recv, &Reply::refused(code, &why)).await;
            }
        }
        self.log(line, started);
    }

    /// The same for an exchange of this host with itself, which the caller logs.
    pub(super) async fn serve_here(&self, (mut send, mut recv): StreamPair) {
        let me = Arc::clone(&self.parts.local.borrow());
        let Some(_permit) = self.guard.inbound() else {
            let why = "this host carries as many calls as it may";
            let refused = Reply::refused(Refusal::Overload, why);
            return answer(&mut *send, &mut *recv, &refused).await;
        };
        let mut line = Line::new(me.me.key);
        let kind = recv.read_u8().await.ok().and_then(StreamKind::from_byte);
        let head = read_head(&mut *recv, self.parts.timeouts.head).await;
        if let (Some(StreamKind::Http), Ok(head)) = (kind, head) {
            line.called(&head);
            let started = Instant::now();
            self.serve_exchange(&me.me, &head, (send, recv), &mut line, started).await;
        }
    }

    /// Checks a call, from a peer or from this host, and connects the application.
    pub(super) async fn admit_and_connect(
        &self,
        caller: &PeerIdentity,
        head: &StreamHead,
    ) -> Result<(Socket, String), Refused> {
        let local = Arc::clone(&self.parts.local.borrow());
        let instance = self.admit(&local, caller, head, None)?;
        let most = self.parts.timeouts.connect;
        let patience = head.deadline().map_or(most, |deadline| deadline.min(most));
        let endpoint = format!("{}/{}", local.me.grant.name, instance.id);
        let connected = async {
            let mut socket = Socket::connect(&instance.target, patience).await?;
            if instance.proxy_protocol {
                let header = client_address::header(head.client, &instance.target);
                socket.write_all(&header).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(socket)
        };
        match connected.await {
            Ok(socket) => Ok((socket, endpoint)),
            Err(error) => refuse(
                Refusal::ConnectFailed,
                format!("{endpoint} on {}: {error}", local.me.grant.name),
            ),
        }
    }

    /// Every check of a call but the bounds on streams. Pure but for the policy behind
    /// [`super::Authorise`].
    pub(super) fn admit<'a>(
        &self,
        local: &'a LocalServices,
        caller: &PeerIdentity,
        head: &StreamHead,
        request: Option<&RequestHead>,
    ) -> Result<&'a LocalInstance, Refused> {
        let me = &local.me.grant.name;
        // Its own callers are turned away by nobody else: while it runs it is their last resort.
        let own = caller.key == local.me.key;
        if !own && (local.draining || self.guard.is_draining()) {
            return refuse(Refusal::Draining, format!("{me} drains"));
        }
        if local.probation {
            let why = format!(
                "{me} takes no calls yet: it does not hold the policy of the mesh (`skein status` \
                 there says what it waits for)"
            );
            return refuse(Refusal::Draining, why);
        }
        if head.hops >= limits::HOPS_MAX {
            let why = format!("passed {} agents already: a loop of routes", head.hops);
            return refuse(Refusal::Denied, why);
        }
        if let Source::Service(source) = &head.source
            && !caller.grant.covers(source)
        {
            let who = &caller.grant.name;
            let why = format!(
                "the grant of {who} does not cover `{source}`: on an issuer, \
                 `skein admit` it with that service, or set another `source`"
            );
            return refuse(Refusal::Denied, why);
        }
        if head.outside() && !caller.grant.roles.contains(&Role::Gateway) {
            let who = &caller.grant.name;
            let why = format!(
                "the grant of {who} has not the role gateway: it brings in nobody from outside"
            );
            return refuse(Refusal::Denied, why);
        }
        if head.boot.is_some_and(|boot| boot != local.boot) {
            return refuse(Refusal::NoService, format!("{me} has restarted"));
        }
        let instance = find(local, head)?;
        if request.is_none() {
            self.may_be_unread(instance, head)?;
        }
        let requested =
            request.map(|request| Requested { method: &request.method, path: &request.path });
        if let Err(why) = self.parts.authorise.authorise(caller, head, requested) {
            return refuse(Refusal::Denied, why);
        }
        self.within_rates(caller, head, request)?;
        Ok(instance)
    }

    /// Whether bytes may come to a port that speaks HTTP: not where requests are to be counted.
    fn may_be_unread(&self, instance: &LocalInstance, head: &StreamHead) -> Result<(), Refused> {
        let speaks = matches!(instance.protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc);
        let traffic = self.parts.traffic.now();
        if !speaks || traffic.is_empty() {
            return Ok(());
        }
        let rules = traffic.of(&head.destination, head.port);
        match rules.rate_limits.iter().next() {
            None => Ok(()),
            Some(rule) => refuse(
                Refusal::RateLimited,
                format!("{} counts requests, and these are bytes: connect anew", rule.name),
            ),
        }
    }

    /// Counts a call against every rate that is about it. Of bytes all are: whatever is in them.
    fn within_rates(
        &self,
        caller: &PeerIdentity,
        head: &StreamHead,
        request: Option<&RequestHead>,
    ) -> Result<(), Refused> {
        let traffic = self.parts.traffic.now();
        if traffic.is_empty() {
            return Ok(());
        }
        let rules = traffic.of(&head.destination, head.port);
        let headers = request.map(RequestHead::texts).unwrap_or_default();
        let seen = request.map(|request| request.seen(&headers));
        let meant = rules.rate_limits.iter().filter(|rule| match &seen {
            None => true,
            Some(seen) => rule.matches.covers(seen),
        });
        for rule in meant {
            let who = match &rule.does.per {
                PerWhat::All => String::new(),
                PerWhat::Source => match &head.source {
                    Source::Service(service) => service.to_string(),
                    Source::Node => format!("node {}", caller.key),
                },
                // Only of requests that are read; those without it count together.
                PerWhat::Header(name) => match &seen {
                    None => String::new(),
                    Some(seen) => {
                        let found = seen.headers.iter().find(|(key, _)| key == name);
                        found.map_or_else(String::new, |(_, value)| (*value).to_owned())
                    }
                },
            };
            let who = rendezvous::affinity(who.as_bytes());
            if let Err(wait) = self.meters.limit(rule, who) {
                let why = format!(
                    "over the rate of {}: the next passes in {} ms",
                    rule.name,
                    wait.as_millis().max(1)
                );
                return Err(Refused { code: Refusal::RateLimited, why, wait: Some(wait) });
            }
        }
        Ok(())
    }

    /// Waits until a call that is open is to be cut: when the time to drain is over, or when
    /// policy no longer allows it.
    pub(super) async fn cut(
        &self,
        caller: &PeerIdentity,
        head: &StreamHead,
        request: Option<Requested<'_>>,
    ) -> (CloseReason, String) {
        tokio::select! {
            cut = self.guard.cut() => cut,
            why = self.parts.authorise.forbidden(caller, head, request) => (CloseReason::Denied, why),
        }
    }

    async fn answer_and_copy(
        &self,
        pair: StreamPair,
        socket: Socket,
        (caller, head): (&PeerIdentity, &StreamHead),
        permit: Permit,
    ) -> Copied {
        let (mut send, recv) = pair;
        let _permit = permit;
        let service = socket.into_pair();
        let ok = Reply::Ok.encode();
        let told = timeout(ANSWER_TIMEOUT, write(&mut *send, &ok)).await;
        if !matches!(told, Ok(Ok(()))) {
            let detail = String::new();
            return Copied { reason: CloseReason::ClientReset, detail, up: 0, down: 0 };
        }
        let cut = self.cut(caller, head, None);
        copy((send, recv), service, cut, self.parts.timeouts.idle).await
    }

    fn log(&self, line: Line, started: Instant) {
        let mut connection = line.0;
        connection.duration = started.elapsed();
        self.parts.observer.finished(&connection);
    }
}

fn find<'a>(local: &'a LocalServices, head: &StreamHead) -> Result<&'a LocalInstance, Refused> {
    let me = &local.me.grant.name;
    let StreamHead { destination, port, .. } = head;
    let Some(instances) = local.instances.get(&(destination.clone(), *port)) else {
        let why = format!("{me} does not serve `{destination}` port {port}");
        return refuse(Refusal::NoService, why);
    };
    let meant = |one: &&LocalInstance| head.instance.as_ref().is_none_or(|id| *id == one.id);
    let mut meant = instances.iter().filter(meant).peekable();
    if meant.peek().is_none() {
        let why = format!("{me} no longer has that instance of `{destination}`");
        return refuse(Refusal::NoService, why);
    }
    match meant.find(|one| one.takes) {
        Some(instance) => Ok(instance),
        None => refuse(
            Refusal::Draining,
            format!("that instance of `{destination}` on {me} takes no new calls"),
        ),
    }
}

enum BadHead {
    /// Whole, but of a kind that this agent does not know: answered.
    Unknown(String),
    /// Late, cut short or malformed: reset.
    Broken(String),
}

async fn read_head(recv: &mut dyn RecvHalf, patience: Duration) -> Result<StreamHead, BadHead> {
    let read = async {
        let mut prefix = [0; PREFIX_BYTES];
        recv.read_exact(&mut prefix).await.map_err(cut_short)?;
        let length = StreamHead::body_length(prefix).map_err(bad)?;
        let mut body = vec![0; length];
        recv.read_exact(&mut body).await.map_err(cut_short)?;
        StreamHead::decode(&body).map_err(bad)
    };
    let limit = patience.as_millis();
    let late = BadHead::Broken(format!("no stream head within {limit} ms"));
    timeout(patience, read).await.unwrap_or(Err(late))
}

fn bad(error: HeadError) -> BadHead {
    match error {
        HeadError::Version(_) | HeadError::Unknown(_) => BadHead::Unknown(error.to_string()),
        HeadError::Oversize(_) | HeadError::Body(_) | HeadError::Unsorted => {
            BadHead::Broken(error.to_string())
        }
    }
}

fn cut_short(error: io::Error) -> BadHead {
    BadHead::Broken(format!("stream head cut short: {error}"))
}

/// A refusal, then the end in order. A peer that does not take it is no longer waited for.
pub(super) async fn answer(send: &mut dyn SendHalf, recv: &mut dyn RecvHalf, reply: &Reply) {
    let all = async {
        write(send, &reply.encode()).await?;
        send.shutdown().await
    };
    if !matches!(timeout(ANSWER_TIMEOUT, all).await, Ok(Ok(()))) {
        send.reset(RESET_BAD_HEAD);
    }
    recv.stop(STOP_REFUSED);
}

async fn write(send: &mut dyn SendHalf, bytes: &[u8]) -> io::Result<()> {
    send.write_all(bytes).await?;
    send.flush().await
}

/// The access log's line as it grows.
pub(super) struct Line(pub(super) Connection);

impl Line {
    fn new(peer: NodeKey) -> Self {
        Self(Connection {
            direction: Direction::Inbound,
            listener: String::new(),
            service: None,
            port: 0,
            source: Source::Node,
            client: None,
            peer: Some(peer),
            endpoint: None,
            request: None,
            reason: CloseReason::BadHead,
            detail: String::new(),
            up: 0,
            down: 0,
            connected: Duration::ZERO,
            duration: Duration::ZERO,
            tries: 1,
        })
    }

    /// Of what the other side of this agent logs.
    pub(super) fn unlogged() -> Self {
        Self::new(NodeKey([0; 32]))
    }

    fn called(&mut self, head: &StreamHead) {
        self.0.service = Some(head.destination.clone());
        self.0.port = head.port;
        self.0.source = head.source.clone();
        self.0.client = head.client;
    }

    pub(super) fn requested(&mut self, request: &RequestHead) {
        self.0.request = Some(RequestLine {
            method: request.method.clone(),
            path: request.path.chars().take(limits::LOGGED_PATH).collect(),
            status: 0,
        });
    }

    pub(super) fn answered(&mut self, status: u16) {
        if let Some(request) = &mut self.0.request {
            request.status = status;
        }
    }

    pub(super) fn failed(&mut self, reason: CloseReason, detail: String) {
        (self.0.reason, self.0.detail) = (reason, detail);
    }

    pub(super) fn refused(&mut self, code: Refusal, why: &str) {
        self.0.reason = code.into();
        self.0.detail = why.to_owned();
    }

    pub(super) fn ended(&mut self, copied: Copied) {
        self.0.reason = copied.reason;
        self.0.detail = copied.detail;
        self.0.up = copied.up;
        self.0.down = copied.down;
    }
}

/// A reply is at most 259 bytes: what takes longer is not being read.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
