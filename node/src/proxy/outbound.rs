//! Outbound: a connection of an application on this host to a service of the mesh.
//!
//! Rules -> legs -> endpoint -> stream -> head -> reply; another endpoint until one says `ok`,
//! never after it, and not one byte of the caller before it. A call holds one view and one set of
//! rules for all its tries.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use skein_protocol::{
    limits,
    manifest::traffic::{Abort, CircuitBreak, Retry as RetryRule, RetryOn},
    policy::{
        legs::{Asked, Leg},
        traffic::ServiceRules,
    },
    record::node::ServicePort,
    route::{Ask, Choice, CloseReason, NoRoute, Outcome, PortRef, Tried, Tuning, rendezvous},
    view::{Endpoint, EndpointKey, ServiceView, Use, View},
    wire::stream::{RESET_GAVE_UP, Refusal, Reply, ReplyStart, Source, StreamHead},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{
    Connection, Direction, ListenerSpec, Proxy, Socket,
    copy::{Copied, copy},
    guard::Permit,
    inbound::Refused,
    pool::InFlight,
    socket::text,
    traffic::{Counted, Entered, Traffic},
    who::Standing,
};
use crate::link::mux::{MuxError, RecvHalf, SendHalf, StreamPair};

/// Where a call went, once the endpoint took it.
struct Taken {
    pair: StreamPair,
    /// The head, where the endpoint is on this host and this agent is the one that decides.
    here: Option<StreamHead>,
    /// Held for as long as the call lives: all are counts.
    _counted: (Option<InFlight>, Option<Permit>, Option<Entered>),
}

/// Why no endpoint took a call.
struct Failed {
    reason: CloseReason,
    detail: String,
}

/// Why one endpoint did not.
struct Miss {
    outcome: Outcome,
    reason: CloseReason,
    detail: String,
}

struct Call<'a> {
    proxy: &'a Proxy,
    spec: &'a ListenerSpec,
    view: Arc<View>,
    traffic: Arc<Traffic>,
    /// Who calls, for what goes by that; 0 where no rule is.
    affinity: u64,
    /// A connection on which nothing moves for so long ends.
    idle: Duration,
    line: Connection,
}

/// Why a leg led nowhere.
enum Unled {
    /// It has no endpoint that may be called: the next leg may.
    Empty(NoRoute),
    /// One was tried, and it is over.
    Failed(Failed),
}

impl Proxy {
    /// Carries a connection that came in at a listener, to its end.
    pub async fn carry(&self, socket: Socket, client: Option<SocketAddr>, spec: &ListenerSpec) {
        self.carry_from(socket, client, spec, false).await;
    }

    /// The same for one that the kernel redirected here from what `spec` stands for.
    pub(super) async fn carry_redirected(
        &self,
        socket: Socket,
        client: SocketAddr,
        spec: &ListenerSpec,
    ) {
        self.carry_from(socket, Some(client), spec, true).await;
    }

    async fn carry_from(
        &self,
        socket: Socket,
        client: Option<SocketAddr>,
        spec: &ListenerSpec,
        redirected: bool,
    ) {
        let started = Instant::now();
        // Counted first: what asks the kernel is bounded by it too.
        let Some(permit) = self.guard.outbound() else {
            let many = format!(
                "{} connections are open on this host, as many as it may",
                limits::CONNECTIONS_MAX
            );
            return self.refuse(socket, line(client, Some(spec)), (CloseReason::TooMany, many));
        };
        let arrival = |socket: &Socket| socket.arrival(client, redirected);
        let standing = match self.standing(&socket, arrival, spec).await {
            Ok(standing) => standing,
            Err(why) => {
                // Who is not let in has not become what the document would have made of it.
                let mut line = Connection { source: Source::Node, ..line(client, Some(spec)) };
                line.duration = started.elapsed();
                return self.refuse(socket, line, (CloseReason::NotAllowed, why));
            }
        };
        let Standing { source, note } = standing;
        let mut call = Call::new(self, spec, Connection { source, ..line(client, Some(spec)) });
        call.run(socket, permit, started).await;
        call.line.duration = started.elapsed();
        call.line.detail = both(call.line.detail, note);
        self.parts.observer.finished(&call.line);
    }

    /// Ends a connection of which nothing is carried.
    pub(super) fn turn_away(
        &self,
        socket: Socket,
        client: Option<SocketAddr>,
        why: (CloseReason, String),
    ) {
        self.refuse(socket, line(client, None), why);
    }

    fn refuse(&self, socket: Socket, mut line: Connection, why: (CloseReason, String)) {
        socket.refuse();
        (line.reason, line.detail) = why;
        self.parts.observer.finished(&line);
    }
}

/// A connection at its beginning.
fn line(client: Option<SocketAddr>, spec: Option<&ListenerSpec>) -> Connection {
    let listener = spec.map_or_else(|| "redirect".to_owned(), |spec| spec.name.clone());
    Connection {
        direction: Direction::Outbound,
        listener,
        service: spec.map(|spec| spec.service.clone()),
        port: spec.map_or(0, |spec| match spec.port {
            PortRef::Number(number) => number,
            PortRef::Name(_) => 0,
        }),
        source: spec.map_or(Source::Node, |spec| spec.terms.source.clone()),
        client,
        peer: None,
        endpoint: None,
        reason: CloseReason::NoEndpoints,
        detail: String::new(),
        up: 0,
        down: 0,
        connected: Duration::ZERO,
        duration: Duration::ZERO,
        tries: 0,
    }
}

/// What ring-hash and sticky shares go by: who calls, and from where.
fn affinity(line: &Connection) -> u64 {
    let client = line.client.map(|client| client.ip().to_string());
    let who = format!("{} {}", line.source, client.unwrap_or_default());
    rendezvous::affinity(who.as_bytes())
}

/// Why it ended so, and why it counted as no more than its node.
fn both(detail: String, note: String) -> String {
    match (detail.is_empty(), note.is_empty()) {
        (_, true) => detail,
        (true, false) => note,
        (false, false) => format!("{detail}; {note}"),
    }
}

impl<'a> Call<'a> {
    fn new(proxy: &'a Proxy, spec: &'a ListenerSpec, line: Connection) -> Self {
        let view = Arc::clone(&proxy.parts.view.borrow());
        let traffic = proxy.parts.traffic.now();
        let idle = proxy.parts.timeouts.idle;
        let affinity = if traffic.is_empty() { 0 } else { affinity(&line) };
        Self { proxy, spec, view, traffic, affinity, idle, line }
    }

    async fn run(&mut self, socket: Socket, _permit: Permit, started: Instant) {
        match self.connect().await {
            Ok(taken) => {
                let Taken { pair, here, _counted } = taken;
                self.line.connected = started.elapsed();
                let proxy = self.proxy;
                let _open = proxy.parts.observer.opened(Direction::Outbound, &self.spec.service);
                let caller = socket.into_pair();
                let me = Arc::clone(&proxy.parts.local.borrow());
                let cut = async {
                    match &here {
                        Some(head) => proxy.cut(&me.me, head).await,
                        None => proxy.guard.cut().await,
                    }
                };
                let Copied { reason, detail, up, down } = copy(caller, pair, cut, self.idle).await;
                (self.line.reason, self.line.detail) = (reason, detail);
                (self.line.up, self.line.down) = (up, down);
            }
            Err(Failed { reason, detail }) => {
                socket.refuse();
                (self.line.reason, self.line.detail) = (reason, detail);
            }
        }
    }

    async fn connect(&mut self) -> Result<Taken, Failed> {
        let view = Arc::clone(&self.view);
        let Some(service) = view.services.get(&self.spec.service) else {
            let unknown = NoRoute::NoService(self.spec.service.clone());
            return self.fall_back(unknown).await;
        };
        let port = match self.spec.port.find(service) {
            Ok(ServicePort { port, .. }) => *port,
            Err(unknown) => return self.fall_back(unknown).await,
        };
        self.line.port = port;
        let rules = self.traffic.of(&self.spec.service, port);
        self.faults(&rules).await?;
        let breaks = rules.circuit_breaks.first(None);
        let breaks = breaks.map(|rule| rule.does).unwrap_or_default();
        let connection = self.enter(Counted::Connections, &breaks)?;
        let _pending = self.enter(Counted::Pending, &breaks)?;
        let asked = Asked {
            service: &self.spec.service,
            port,
            subset: &self.spec.terms.subset,
            request: None,
            source: self.affinity,
        };
        let legs = self.proxy.meters.legs(&self.traffic, &asked);
        let mut nothing = None;
        for leg in &legs {
            match self.lead(leg).await {
                Ok(mut taken) => {
                    taken._counted.2 = Some(connection);
                    return Ok(taken);
                }
                Err(Unled::Failed(failed)) => return Err(failed),
                Err(Unled::Empty(no_route)) => nothing = nothing.or(Some(no_route)),
            }
        }
        let unknown = || NoRoute::NoService(self.spec.service.clone());
        self.fall_back(nothing.unwrap_or_else(unknown)).await
    }

    /// Faults on purpose: a wait, or the end.
    async fn faults(&self, rules: &ServiceRules) -> Result<(), Failed> {
        for rule in rules.faults.all(None) {
            let fault = &rule.does;
            if !self.proxy.meters.draws(fault.percent) {
                continue;
            }
            if let Some(delay) = fault.delay {
                tokio::time::sleep(delay).await;
            }
            // A status is for requests.
            if let Some(Abort::Reset) = fault.abort {
                let detail = format!("ended on purpose by {}", rule.name);
                return Err(Failed { reason: CloseReason::Fault, detail });
            }
        }
        Ok(())
    }

    /// Counts this call for a circuit breaker.
    fn enter(&self, what: Counted, rule: &CircuitBreak) -> Result<Entered, Failed> {
        let service = &self.spec.service;
        self.proxy.meters.enter(service, what, rule).map_err(|bound| Failed {
            reason: CloseReason::CircuitOpen,
            detail: format!(
                "this host has {bound} {} of {service}, as many as a CircuitBreak allows",
                what.word()
            ),
        })
    }

    /// Goes where a leg leads: to one endpoint after another, as often as its rules allow.
    async fn lead(&mut self, leg: &Leg) -> Result<Taken, Unled> {
        let view = Arc::clone(&self.view);
        let unknown = || Unled::Empty(NoRoute::NoService(leg.service.clone()));
        let service = view.services.get(&leg.service).ok_or_else(unknown)?;
        let ServicePort { port, .. } = leg.port.find(service).map_err(Unled::Empty)?;
        let rules = self.traffic.of(&leg.service, *port);
        let tuning = rules.tuning();
        let timeout = rules.timeouts.first(None).map(|rule| rule.does).unwrap_or_default();
        self.idle = timeout.idle.unwrap_or(self.proxy.parts.timeouts.idle);
        let rule = rules.retries.first(None).map(|rule| &rule.does);
        let most = rule.map_or(limits::TRIES_MAX, |rule| {
            usize::try_from(rule.attempts).unwrap_or(usize::MAX).saturating_add(1)
        });
        let connect = timeout.connect;
        let going = Going { leg, service, port: *port, tuning: &tuning, connect, most };
        self.proxy.meters.call(&leg.service);
        let mut tried = Tried::default();
        let mut missed: Option<Failed> = None;
        let mut retry = 0;
        loop {
            let ask = Ask {
                service,
                port: *port,
                subset: &leg.subset,
                me: view.me,
                here: &view.locality,
                tried: &tried,
                tuning: &tuning,
                affinity: self.affinity,
            };
            let (choice, in_flight) = match (self.proxy.pool.choose(&ask), missed) {
                (Ok(chosen), _) => chosen,
                (Err(_), Some(failed)) => return Err(Unled::Failed(failed)),
                (Err(no_route), None) => return Err(Unled::Empty(no_route)),
            };
            let (mut failed, outcome) = match self.attempt(&going, &choice, &mut tried).await {
                Ok((pair, permit)) => {
                    let endpoint = &choice.endpoint;
                    let here = endpoint.node.key == self.view.me;
                    let here = here.then(|| self.head(&going, endpoint));
                    return Ok(Taken { pair, here, _counted: (Some(in_flight), permit, None) });
                }
                Err(miss) => miss,
            };
            if tried.endpoints.len() >= most || !worth_another(rule, outcome) {
                return Err(Unled::Failed(failed));
            }
            let budget = rule.map_or_else(|| RetryRule::default().budget, |rule| rule.budget);
            if !self.proxy.meters.retry(&leg.service, budget) {
                failed.detail += "; no other is tried, since the retry budget is spent";
                return Err(Unled::Failed(failed));
            }
            if let Some(rule) = rule {
                tokio::time::sleep(self.proxy.meters.wait(&rule.backoff, retry)).await;
            }
            retry = retry.saturating_add(1);
            missed = Some(failed);
        }
    }

    /// One endpoint, and what its balancer learns from it.
    async fn attempt(
        &mut self,
        going: &Going<'_>,
        choice: &Choice,
        tried: &mut Tried,
    ) -> Result<(StreamPair, Option<Permit>), (Failed, Outcome)> {
        let endpoint = &choice.endpoint;
        let key = endpoint.key();
        tried.endpoints.insert(key.clone());
        self.line.tries += 1;
        self.line.endpoint = Some(endpoint.id());
        let patience = self.patience(going, tried);
        let head = self.head(going, endpoint);
        let here = endpoint.node.key == self.view.me;
        self.line.peer = (!here).then_some(endpoint.node.key);
        let taken = match here {
            true => self.here(&head, patience).await,
            false => self.there(endpoint, head, patience).await,
        };
        let miss = match taken {
            Ok((pair, permit, latency)) => {
                self.report(going, &key, Outcome::Connected(latency));
                return Ok((pair, permit));
            }
            Err(miss) => miss,
        };
        let agent_is_out = match miss.outcome {
            Outcome::NoReply | Outcome::Unreachable => true,
            Outcome::Refused(code) => code == Refusal::Draining || code == Refusal::Overload,
            Outcome::Connected(_) => false,
        };
        if agent_is_out {
            tried.nodes.insert(key.node);
        }
        self.report(going, &key, miss.outcome);
        let Miss { reason, detail, outcome } = miss;
        Err((Failed { reason, detail }, outcome))
    }

    fn report(&self, going: &Going<'_>, key: &EndpointKey, outcome: Outcome) {
        let service = going.service;
        if self.proxy.pool.report(service, key, outcome, &going.tuning.eject) {
            tracing::info!(service = %service.name, instance = %key.instance, node = %key.node.short(), "ejected");
        }
    }

    /// How long this endpoint may take: briefly while there is another one, else as long as a
    /// dial or the application behind it could need.
    fn patience(&self, going: &Going<'_>, tried: &Tried) -> Duration {
        let other = |one: &Endpoint| {
            !matches!(one.usable, Use::No(_))
                && one.instance.ports.iter().any(|served| served.port == going.port)
                && going.leg.subset.covers(&one.instance, &one.node.locality)
                && !tried.endpoints.contains(&one.key())
        };
        let timeouts = self.proxy.parts.timeouts;
        let connect = going.connect.unwrap_or(timeouts.connect);
        let more = tried.endpoints.len() < going.most;
        if more && going.service.endpoints.iter().any(other) {
            timeouts.reply.min(connect)
        } else {
            // Said outright, it is what the whole may take; else a dial and a connect.
            going.connect.unwrap_or(connect + timeouts.reply)
        }
    }

    fn head(&self, going: &Going<'_>, endpoint: &Endpoint) -> StreamHead {
        let (service, source) = (going.leg.service.clone(), self.line.source.clone());
        StreamHead {
            instance: Some(endpoint.instance.id.clone()),
            client: self.line.client,
            boot: Some(endpoint.node.boot),
            ..StreamHead::new(service, going.port, source)
        }
        .from_outside(self.spec.outside)
    }

    /// An endpoint on this host: the checks without the wire.
    async fn here(&self, head: &StreamHead, patience: Duration) -> Attempt {
        let started = Instant::now();
        let Some(permit) = self.proxy.guard.inbound() else {
            let why = "this host carries as many calls as it may".to_owned();
            return Err(refused(Refusal::Overload, why));
        };
        let me = Arc::clone(&self.proxy.parts.local.borrow());
        let head = head.clone().with_deadline(patience);
        let connected = self.proxy.admit_and_connect(&me.me, &head).await;
        match connected {
            Ok((socket, _)) => Ok((socket.into_pair(), Some(permit), started.elapsed())),
            Err(Refused { code, why }) => Err(refused(code, why)),
        }
    }

    /// An endpoint on another host.
    async fn there(&self, endpoint: &Endpoint, head: StreamHead, patience: Duration) -> Attempt {
        let deadline = Instant::now() + patience;
        let node = &endpoint.node;
        let late = |what: &str| format!("{}: {what} within {} ms", node.name, patience.as_millis());
        let dialled = timeout_at(deadline, self.proxy.parts.dialer.data(node.key)).await;
        let mux = match dialled {
            Ok(Ok(mux)) => mux,
            Ok(Err(error)) => return Err(unreachable(format!("{}: {error}", node.name))),
            Err(_) => return Err(unreachable(late("no link"))),
        };
        let started = Instant::now();
        let (mut send, mut recv) = match timeout_at(deadline, mux.open()).await {
            Ok(Ok(pair)) => pair,
            Ok(Err(MuxError::Full)) => {
                let why = format!("{} takes no further stream", node.name);
                return Err(refused(Refusal::Overload, why));
            }
            Ok(Err(error)) => return Err(unreachable(format!("{}: {error}", node.name))),
            Err(_) => return Err(unreachable(late("no stream"))),
        };
        let head = head.with_deadline(deadline.saturating_duration_since(started));
        let asked = timeout_at(deadline, ask(&head, &mut *send, &mut *recv)).await;
        let miss = match asked {
            Ok(Ok(())) => return Ok(((send, recv), None, started.elapsed())),
            Ok(Err(Unasked::Refused(Refused { code, why }))) => refused(code, why),
            Ok(Err(Unasked::Broken(why))) => unreachable(format!("{}: {why}", node.name)),
            Err(_) => Miss {
                outcome: Outcome::NoReply,
                reason: CloseReason::NoReply,
                detail: late("no reply"),
            },
        };
        send.reset(RESET_GAVE_UP);
        recv.stop(RESET_GAVE_UP);
        Err(miss)
    }

    /// The static endpoints of the document, while no live instance is known.
    async fn fall_back(&mut self, no_route: NoRoute) -> Result<Taken, Failed> {
        let mut detail = no_route.to_string();
        for target in &self.spec.terms.fallback {
            self.line.tries += 1;
            self.line.endpoint = Some(text(target));
            match Socket::connect(target, self.proxy.parts.timeouts.connect).await {
                Ok(socket) => {
                    return Ok(Taken {
                        pair: socket.into_pair(),
                        here: None,
                        _counted: (None, None, None),
                    });
                }
                Err(error) => detail = format!("{detail}; fallback: {error}"),
            }
        }
        Err(Failed { reason: no_route.reason(), detail })
    }
}

type Attempt = Result<(StreamPair, Option<Permit>, Duration), Miss>;

/// A leg on its way: what all its tries have in common.
#[derive(Clone, Copy)]
struct Going<'a> {
    leg: &'a Leg,
    service: &'a ServiceView,
    port: u16,
    tuning: &'a Tuning,
    /// How long an endpoint may take, where a rule says so.
    connect: Option<Duration>,
    /// Endpoints that may be tried.
    most: usize,
}

/// Whether another endpoint may do what this one did not. Without a rule: whenever no byte of the
/// caller has gone anywhere, which is so until `ok`.
fn worth_another(rule: Option<&RetryRule>, outcome: Outcome) -> bool {
    let after = match outcome {
        Outcome::Refused(code) if !code.elsewhere() => return false,
        Outcome::Refused(Refusal::Draining) => RetryOn::Draining,
        Outcome::Refused(_) => RetryOn::Refused,
        Outcome::Unreachable | Outcome::NoReply => RetryOn::Connect,
        Outcome::Connected(_) => return false,
    };
    rule.is_none_or(|rule| rule.on.contains(&after))
}

fn refused(code: Refusal, why: String) -> Miss {
    Miss { outcome: Outcome::Refused(code), reason: code.into(), detail: why }
}

fn unreachable(why: String) -> Miss {
    Miss { outcome: Outcome::Unreachable, reason: CloseReason::Unreachable, detail: why }
}

enum Unasked {
    Refused(Refused),
    Broken(String),
}

/// Sends the head and waits for `ok`.
async fn ask(
    head: &StreamHead,
    send: &mut dyn SendHalf,
    recv: &mut dyn RecvHalf,
) -> Result<(), Unasked> {
    let broken = |error: std::io::Error| Unasked::Broken(format!("the stream broke: {error}"));
    let wrong = |error: &dyn std::fmt::Display| Unasked::Broken(format!("bad reply: {error}"));
    let bytes = head.encode().map_err(|error| wrong(&error))?;
    send.write_all(&bytes).await.map_err(broken)?;
    send.flush().await.map_err(broken)?;
    let start = recv.read_u8().await.map_err(broken)?;
    let code = match Reply::start(start).map_err(|error| wrong(&error))? {
        ReplyStart::Ok => return Ok(()),
        ReplyStart::Refused(code) => code,
    };
    let mut length = [0; 2];
    recv.read_exact(&mut length).await.map_err(broken)?;
    let length = Reply::reason_length(length).map_err(|error| wrong(&error))?;
    let mut reason = vec![0; length];
    recv.read_exact(&mut reason).await.map_err(broken)?;
    match Reply::decode_refused(code, &reason).map_err(|error| wrong(&error))? {
        Reply::Ok => Ok(()),
        Reply::Refused { code, reason } => Err(Unasked::Refused(Refused { code, why: reason })),
    }
}
