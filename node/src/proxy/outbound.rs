//! Outbound: a connection of an application on this host to a service of the mesh.
//!
//! Rules -> legs -> endpoint -> stream -> head -> reply; another endpoint until one says `ok`,
//! never after it, and not one byte of the caller before it. A call holds one view and one set of
//! rules for all its tries.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use skein_protocol::{
    limits,
    manifest::traffic::{
        Abort, CircuitBreak, Hedge, HedgeAfter, Mirror, Request, Retry as RetryRule, RetryOn,
    },
    name::ServiceName,
    policy::{
        legs::{Asked, Leg},
        traffic::{Reads, Rule, ServiceRules},
    },
    record::node::ServicePort,
    route::{Ask, Choice, CloseReason, NoRoute, Outcome, PortRef, Tried, Tuning, rendezvous},
    view::{Endpoint, EndpointKey, ServiceView, Use, View},
    wire::{
        kind::StreamKind,
        stream::{RESET_GAVE_UP, Refusal, Reply, ReplyStart, Source, StreamHead},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{
    Connection, Direction, ListenerSpec, Proxy, Socket, Target,
    clients::Connected,
    copy::{Copied, copy},
    guard::Permit,
    http::{Answer, Fallen, Outgoing, Says},
    inbound::Refused,
    look::Found,
    pool::InFlight,
    socket::{self, text},
    traffic::{Counted, Entered, Traffic},
    who::Standing,
};
use crate::link::mux::{MuxError, RecvHalf, SendHalf, StreamPair};

/// Where a call went, once an endpoint took it.
pub(super) struct Taken {
    pub(super) carried: Carried,
    /// The head, where the endpoint is on this host and this agent is the one that decides.
    here: Option<Box<StreamHead>>,
    pub(super) counts: Counts,
}

/// What came of a call that was taken.
pub(super) enum Carried {
    /// A connection.
    Bytes(StreamPair),
    /// The begin of an answer.
    Answer(Box<Answer>),
}

/// Held for as long as a call lives: all are counts.
#[derive(Default)]
pub(super) struct Counts {
    _in_flight: Option<InFlight>,
    _permit: Option<Permit>,
    _entered: Vec<Entered>,
}

/// Why no endpoint took a call.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) reason: CloseReason,
    pub(super) detail: String,
    /// With which status a request is answered, where not with the reason's.
    pub(super) status: Option<u16>,
    /// After how long another request would pass.
    pub(super) wait: Option<Duration>,
}

impl Failed {
    pub(super) fn new(reason: CloseReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), status: None, wait: None }
    }
}

/// Why one endpoint did not.
struct Miss {
    outcome: Option<Outcome>,
    failed: Failed,
    /// As what it counts for a retry; `None`: it is over.
    after: Option<RetryOn>,
}

/// A call on its way out.
pub(super) struct Call<'a> {
    proxy: &'a Arc<Proxy>,
    spec: &'a ListenerSpec,
    view: Arc<View>,
    traffic: Arc<Traffic>,
    /// Who calls, for what goes by that; 0 where no rule is.
    affinity: u64,
    /// A connection on which nothing moves for so long ends.
    idle: Duration,
    /// When it began, until when a request must be done, and how long its answer may be still.
    begun: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) answer_idle: Duration,
    /// Counted until an endpoint takes it.
    waits: Mutex<Option<Entered>>,
    /// What it has tried, of whichever leg, and how often after something of it was sent.
    tried: Tried,
    retries: u32,
    /// The request; of bytes there is none.
    pub(super) outgoing: Option<&'a Outgoing>,
    pub(super) line: Connection,
}

/// Why a leg led nowhere.
enum Unled {
    /// It has no endpoint that may be called: the next leg may.
    Empty(NoRoute),
    /// One was tried, and it is over.
    Failed(Failed),
    /// All that it has were tried, and another's may be: the next leg's.
    Missed(Missed),
}

/// What a try left, while another is made.
enum Missed {
    Failed(Failed),
    /// An answer that says that it failed: better than none.
    Answer(Box<Taken>),
}

impl Missed {
    /// Of what two legs left the answer; else what came last.
    fn better(known: Option<Self>, last: Self) -> Self {
        match (known, last) {
            (Some(answer @ Self::Answer(_)), Self::Failed(_)) => answer,
            (_, last) => last,
        }
    }
}

impl Proxy {
    /// Carries a connection that came in at a listener, to its end. One of requests takes no further
    /// one once `until` is over.
    pub async fn carry(
        self: &Arc<Self>,
        socket: Socket,
        client: Option<SocketAddr>,
        spec: &Arc<ListenerSpec>,
        until: impl Future<Output = ()> + Send,
    ) {
        self.carry_from(socket, client, spec, (false, until)).await;
    }

    /// The same for one that the kernel redirected here from what `spec` stands for.
    pub(super) async fn carry_redirected(
        self: &Arc<Self>,
        socket: Socket,
        client: SocketAddr,
        spec: &Arc<ListenerSpec>,
    ) {
        self.carry_from(socket, Some(client), spec, (true, std::future::pending())).await;
    }

    async fn carry_from(
        self: &Arc<Self>,
        mut socket: Socket,
        mut client: Option<SocketAddr>,
        spec: &Arc<ListenerSpec>,
        (redirected, until): (bool, impl Future<Output = ()> + Send),
    ) {
        let started = Instant::now();
        // Counted first: what asks the kernel is bounded by it too.
        let room = if spec.outside { self.guard.outside() } else { self.guard.outbound() };
        let Some(permit) = room else {
            let many = format!(
                "{} connections are open on this host, as many as it may",
                limits::CONNECTIONS_MAX
            );
            return self.refuse(socket, line(client, Some(spec)), (CloseReason::TooMany, many));
        };
        let mut held = match self.share(spec, client) {
            Ok(held) => held,
            Err(why) => return self.refuse(socket, line(client, Some(spec)), why),
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
        let (mut spec, mut secure) = (Arc::clone(spec), false);
        if let Some(door) = &Arc::clone(&spec).door {
            match self.enter(socket, client, door).await {
                Ok(entered) => {
                    (socket, secure) = (entered.socket, entered.secure);
                    if let Some(told) = entered.client {
                        client = Some(told);
                        held = match self.one_of(told) {
                            Ok(held) => Some(held),
                            Err(why) => return self.refuse(socket, line(client, Some(&spec)), why),
                        };
                    }
                    // The door goes with it: requests may name other hosts than the handshake.
                    if let Some(named) = entered.spec {
                        let door = spec.door.clone();
                        spec = Arc::new(ListenerSpec { door, ..(*named).clone() });
                    }
                }
                Err(why) => {
                    let mut line = line(client, Some(&spec));
                    (line.reason, line.detail) = (CloseReason::BadRequest, why);
                    line.duration = started.elapsed();
                    return self.parts.observer.finished(&line);
                }
            }
        }
        let spec = &spec;
        let line = Connection { source, ..line(client, Some(spec)) };
        let mut call = Call::new(self, spec, line.clone());
        let found = call.look(&mut socket, started).await;
        match found {
            Found::Bytes(taken) => {
                let _work = self.guard.carries();
                call.run(socket, taken, started).await;
            }
            Found::Http { first, two } => {
                let counted = call.enter_connection();
                let line = Connection { port: call.line.port, ..line };
                match counted {
                    Ok(_counted) => {
                        let http = (socket, &*first, two);
                        let idle = call.idle_http();
                        let held = (permit, held);
                        let more = (idle, held, until);
                        let serve = self.serve_http(http, (line, note), (spec, secure), more);
                        return Box::pin(serve).await;
                    }
                    Err(failed) => call.refused(socket, failed),
                }
            }
        }
        drop((permit, held));
        call.line.duration = started.elapsed();
        call.line.detail = both(call.line.detail, note);
        self.parts.observer.finished(&call.line);
    }

    /// What counts a client outside of the mesh against its address; that of a balancer counts for
    /// nobody until it has said who comes.
    fn share(
        &self,
        spec: &ListenerSpec,
        client: Option<SocketAddr>,
    ) -> Result<Option<Connected>, (CloseReason, String)> {
        let Some(client) = client.filter(|_| spec.outside) else { return Ok(None) };
        match spec.door.as_ref().is_some_and(|door| door.trusts(client)) {
            true => Ok(None),
            false => self.one_of(client).map(Some),
        }
    }

    fn one_of(&self, client: SocketAddr) -> Result<Connected, (CloseReason, String)> {
        self.clients.at(client.ip()).connection().ok_or_else(|| {
            let (address, most) = (client.ip(), limits::CLIENT_CONNECTIONS);
            let many = format!("{address} has {most} connections open, as many as one address may");
            (CloseReason::TooMany, many)
        })
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
        request: None,
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
pub(super) fn both(detail: String, note: String) -> String {
    match (detail.is_empty(), note.is_empty()) {
        (_, true) => detail,
        (true, false) => note,
        (false, false) => format!("{detail}; {note}"),
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(proxy: &'a Arc<Proxy>, spec: &'a ListenerSpec, line: Connection) -> Self {
        let view = Arc::clone(&proxy.parts.view.borrow());
        let traffic = proxy.parts.traffic.now();
        let idle = proxy.parts.timeouts.idle;
        let affinity = if traffic.is_empty() { 0 } else { affinity(&line) };
        Self {
            proxy,
            spec,
            view,
            traffic,
            affinity,
            idle,
            begun: Instant::now(),
            deadline: None,
            answer_idle: limits::HTTP_IDLE,
            waits: Mutex::new(None),
            tried: Tried::default(),
            retries: 0,
            outgoing: None,
            line,
        }
    }

    fn pending(&self) -> MutexGuard<'_, Option<Entered>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port that is called, as the view has it.
    fn port(&self) -> Result<&ServicePort, NoRoute> {
        let service = self.view.services.get(&self.spec.service);
        let service = service.ok_or_else(|| NoRoute::NoService(self.spec.service.clone()))?;
        self.spec.port.find(service)
    }

    /// What holds for the port that is called; nothing while the view does not have it.
    pub(super) fn rules(&self) -> Arc<ServiceRules> {
        match self.port() {
            Ok(ServicePort { port, .. }) => self.traffic.of(&self.spec.service, *port),
            Err(_) => Arc::default(),
        }
    }

    /// Whether requests are read, bytes are carried, or the first bytes tell.
    pub(super) fn reading(&mut self) -> Reads {
        let Ok(ServicePort { protocol, port, .. }) = self.port() else { return Reads::Bytes };
        let (protocol, port) = (*protocol, *port);
        self.line.port = port;
        let service = &self.spec.service;
        let asked = self.spec.outside || self.proxy.parts.authorise.reads_requests(service);
        self.traffic.of(service, port).reads(protocol, asked)
    }

    pub(super) fn proxy(&self) -> &'a Arc<Proxy> {
        self.proxy
    }

    /// What is called.
    pub(super) fn place(&self) -> (ServiceName, u16) {
        (self.spec.service.clone(), self.line.port)
    }

    /// For how long a client may be silent before its first request.
    pub(super) fn idles(&self) -> Duration {
        if self.spec.outside { limits::HTTP_FIRST_OUTSIDE } else { limits::HTTP_IDLE }
    }

    fn idle_http(&self) -> Duration {
        let timeout = self.rules().timeouts.first(None).and_then(|rule| rule.does.idle);
        timeout.unwrap_or(limits::HTTP_IDLE)
    }

    /// Counts a connection of which requests are read.
    fn enter_connection(&self) -> Result<Option<Entered>, Failed> {
        if self.spec.door.is_some() {
            // Its requests may go to several services.
            return Ok(None);
        }
        let rules = self.rules();
        let breaks = rules.circuit_breaks.first(None).map(|rule| rule.does).unwrap_or_default();
        self.enter(&self.spec.service, Counted::Connections, &breaks).map(Some)
    }

    fn refused(&mut self, socket: Socket, failed: Failed) {
        socket.refuse();
        (self.line.reason, self.line.detail) = (failed.reason, failed.detail);
    }

    async fn run(
        &mut self,
        socket: Socket,
        got: Option<Box<Result<Taken, Failed>>>,
        started: Instant,
    ) {
        let connected = match got {
            Some(got) => *got,
            None => self.connect(None).await,
        };
        match connected {
            Ok(Taken { carried: Carried::Bytes(pair), here, counts: _counts }) => {
                self.line.connected = started.elapsed();
                let proxy = self.proxy;
                let _open = proxy.parts.observer.opened(Direction::Outbound, &self.spec.service);
                let caller = socket.into_pair();
                let me = Arc::clone(&proxy.parts.local.borrow());
                let cut = async {
                    match &here {
                        Some(head) => proxy.cut(&me.me, head, None).await,
                        None => proxy.guard.cut().await,
                    }
                };
                let Copied { reason, detail, up, down } = copy(caller, pair, cut, self.idle).await;
                (self.line.reason, self.line.detail) = (reason, detail);
                (self.line.up, self.line.down) = (up, down);
            }
            // A call without a request gets no answer.
            Ok(Taken { carried: Carried::Answer(_), .. }) => socket.refuse(),
            Err(failed) => self.refused(socket, failed),
        }
    }

    /// An endpoint for the call, or for the request and its answer.
    pub(super) async fn connect(&mut self, request: Option<&Request<'_>>) -> Result<Taken, Failed> {
        let port = match self.port() {
            Ok(ServicePort { port, .. }) => *port,
            Err(unknown) => return self.fall_back(unknown).await,
        };
        self.line.port = port;
        if request.is_none() {
            let rules = self.traffic.of(&self.spec.service, port);
            self.faults(&rules, None).await?;
        }
        let asked = Asked {
            service: &self.spec.service,
            port,
            subset: &self.spec.terms.subset,
            request,
            source: self.affinity,
        };
        let legs = self.proxy.meters.legs(&self.traffic, &asked);
        let mut nothing = None;
        let mut missed: Option<Missed> = None;
        for leg in &legs {
            match self.lead(leg, request).await {
                Ok(taken) => return Ok(taken),
                Err(Unled::Failed(failed)) => match missed {
                    Some(answer @ Missed::Answer(_)) => return self.last(answer),
                    Some(Missed::Failed(_)) | None => return Err(failed),
                },
                Err(Unled::Missed(last)) => missed = Some(Missed::better(missed, last)),
                Err(Unled::Empty(no_route)) => nothing = nothing.or(Some(no_route)),
            }
        }
        if let Some(missed) = missed {
            return self.last(missed);
        }
        let unknown = || NoRoute::NoService(self.spec.service.clone());
        self.fall_back(nothing.unwrap_or_else(unknown)).await
    }

    /// What is left when no other endpoint may be tried.
    fn last(&mut self, missed: Missed) -> Result<Taken, Failed> {
        match missed {
            Missed::Answer(taken) => {
                self.line.detail = NO_OTHER.trim_start_matches("; ").to_owned();
                Ok(*taken)
            }
            Missed::Failed(mut failed) => {
                failed.detail += NO_OTHER;
                Err(failed)
            }
        }
    }

    /// A copy of a request, to where a Mirror rule says.
    pub(super) async fn mirrored(&mut self, rule: &Rule<Mirror>) -> Result<Taken, Failed> {
        let port = self.port().map(|found| found.port).unwrap_or_default();
        let asked = Asked {
            service: &self.spec.service,
            port,
            subset: &self.spec.terms.subset,
            request: None,
            source: self.affinity,
        };
        let leg = asked.mirrored(rule);
        self.lead(&leg, None).await.map_err(|unled| match unled {
            Unled::Failed(failed) | Unled::Missed(Missed::Failed(failed)) => failed,
            Unled::Missed(Missed::Answer(_)) => Failed::new(CloseReason::Done, ""),
            Unled::Empty(no_route) => Failed::new(no_route.reason(), no_route.to_string()),
        })
    }

    /// Faults on purpose: a wait, or the end.
    pub(super) async fn faults(
        &self,
        rules: &ServiceRules,
        request: Option<&Request<'_>>,
    ) -> Result<(), Failed> {
        for rule in rules.faults.all(request) {
            let fault = &rule.does;
            if !self.proxy.meters.draws(fault.percent) {
                continue;
            }
            if let Some(delay) = fault.delay {
                tokio::time::sleep(delay).await;
            }
            let status = match (fault.abort, request) {
                (None, _) | (Some(Abort::Status(_)), None) => continue,
                (Some(Abort::Reset), _) => None,
                (Some(Abort::Status(status)), Some(_)) => Some(status),
            };
            let detail = format!("ended on purpose by {}", rule.name);
            return Err(Failed { status, ..Failed::new(CloseReason::Fault, detail) });
        }
        Ok(())
    }

    /// Counts this call for a circuit breaker.
    fn enter(
        &self,
        service: &ServiceName,
        what: Counted,
        rule: &CircuitBreak,
    ) -> Result<Entered, Failed> {
        self.proxy.meters.enter(service, what, rule).map_err(|bound| {
            let detail = format!(
                "this host has {bound} {} of {service}, as many as a CircuitBreak allows",
                what.word()
            );
            Failed::new(CloseReason::CircuitOpen, detail)
        })
    }

    /// Goes where a leg leads: to one endpoint after another, as often as its rules allow.
    async fn lead(&mut self, leg: &Leg, request: Option<&Request<'_>>) -> Result<Taken, Unled> {
        let view = Arc::clone(&self.view);
        let unknown = || Unled::Empty(NoRoute::NoService(leg.service.clone()));
        let service = view.services.get(&leg.service).ok_or_else(unknown)?;
        let ServicePort { port, .. } = leg.port.find(service).map_err(Unled::Empty)?;
        let rules = self.traffic.of(&leg.service, *port);
        let tuning = rules.tuning(request);
        let timeout = rules.timeouts.first(request).map(|rule| rule.does).unwrap_or_default();
        self.idle = timeout.idle.unwrap_or(self.proxy.parts.timeouts.idle);
        let rule = rules.retries.first(request).map(|rule| &rule.does);
        let most = match rule.map(|rule| usize::try_from(rule.attempts).unwrap_or(usize::MAX)) {
            // Said outright: no other one.
            Some(0) => 1,
            Some(attempts) => attempts.saturating_add(1).max(limits::TRIES_MAX),
            None => limits::TRIES_MAX,
        };
        let going = Going {
            leg,
            service,
            port: *port,
            tuning: &tuning,
            connect: timeout.connect,
            per_try: rule.and_then(|rule| rule.per_try),
            affinity: rules.affinity(request, self.affinity),
            most,
        };
        let breaks = rules.circuit_breaks.first(request).map(|rule| rule.does).unwrap_or_default();
        let what = if request.is_some() { Counted::Requests } else { Counted::Connections };
        let entered = self.enter(&leg.service, what, &breaks).map_err(Unled::Failed)?;
        let pending = self.enter(&leg.service, Counted::Pending, &breaks);
        *self.pending() = Some(pending.map_err(Unled::Failed)?);
        self.answer_idle = timeout.idle.unwrap_or(limits::HTTP_IDLE);
        self.deadline = timeout.request.filter(|_| request.is_some()).map(|most| self.begun + most);
        let tries = self.tries(&going, rules.hedges.first(request).map(|rule| rule.does), rule);
        let tried = match timeout.request.filter(|_| request.is_some()) {
            None => tries.await,
            Some(most) => tokio::time::timeout(most, tries).await.unwrap_or_else(|_| {
                let most = most.as_millis();
                let detail = format!("no answer within the {most} ms of its Timeout");
                Err(Unled::Failed(Failed::new(CloseReason::Timeout, detail)))
            }),
        };
        *self.pending() = None;
        match tried {
            Ok(mut taken) => {
                taken.counts._entered.push(entered);
                Ok(taken)
            }
            Err(Unled::Missed(Missed::Answer(mut taken))) => {
                taken.counts._entered.push(entered);
                Err(Unled::Missed(Missed::Answer(taken)))
            }
            Err(unled) => Err(unled),
        }
    }

    /// One endpoint after another.
    async fn tries(
        &mut self,
        going: &Going<'_>,
        hedge: Option<Hedge>,
        rule: Option<&RetryRule>,
    ) -> Result<Taken, Unled> {
        let (leg, most) = (going.leg, going.most);
        let usual = RetryRule::default();
        let judged = rule.unwrap_or(&usual);
        self.proxy.meters.call(&leg.service);
        let mut missed: Option<Missed> = None;
        let mut tried = std::mem::take(&mut self.tried);
        loop {
            let before = missed.take();
            let chosen = self.choose(going, &tried);
            let (choice, in_flight) = match (chosen, before) {
                (Ok(chosen), _) => chosen,
                (Err(_), Some(missed)) => {
                    self.tried = tried;
                    return Err(Unled::Missed(missed));
                }
                (Err(no_route), None) => return Err(Unled::Empty(no_route)),
            };
            let first = tried.endpoints.is_empty();
            let hedge = hedge.filter(|_| first && self.outgoing.is_some_and(Outgoing::may_hedge));
            let got = match hedge {
                Some(hedge) => self.hedged(going, (choice, in_flight), &mut tried, hedge).await,
                None => self.one(going, choice, in_flight, &mut tried).await,
            };
            let (left, after, pushback) = match got {
                Ok(taken) => {
                    let idempotent = self.outgoing.is_some_and(Outgoing::is_idempotent);
                    let wants = match &taken.carried {
                        Carried::Bytes(_) => false,
                        Carried::Answer(answer) => answer.is_worth_another(judged, idempotent),
                    };
                    let pushback = match &taken.carried {
                        Carried::Answer(answer) if wants => answer.pushback(),
                        Carried::Answer(_) | Carried::Bytes(_) => Err(()),
                    };
                    match pushback {
                        Ok(wait) if wait <= limits::RETRY_AFTER_MAX => {
                            (Missed::Answer(Box::new(taken)), None, wait)
                        }
                        Ok(_) | Err(()) => return Ok(taken),
                    }
                }
                Err(Miss { failed, after: Some(after), .. }) => {
                    (Missed::Failed(failed), Some(after), Duration::ZERO)
                }
                Err(Miss { failed, after: None, .. }) => return Err(Unled::Failed(failed)),
            };
            let unsent = is_unsent(after);
            let (worth, why) = self.worth_another(judged, after);
            let budget = if unsent { usual.budget } else { judged.budget };
            let enough = (unsent && tried.endpoints.len() >= most) || !worth;
            let over = match enough {
                true => Some(why),
                false => (!self.proxy.meters.retry(&leg.service, budget))
                    .then_some("; no other is tried, since the retry budget is spent"),
            };
            if let Some(why) = over {
                return match left {
                    Missed::Answer(taken) => Ok(*taken),
                    Missed::Failed(mut failed) => {
                        failed.detail += why;
                        Err(Unled::Failed(failed))
                    }
                };
            }
            if !unsent {
                if rule.is_some() || after.is_none() || !pushback.is_zero() {
                    let backoff = self.proxy.meters.wait(&judged.backoff, self.retries);
                    tokio::time::sleep(backoff.max(pushback)).await;
                }
                self.retries = self.retries.saturating_add(1);
            }
            missed = Some(left);
        }
    }

    /// Whether another endpoint may do what this one did not, and what to say where not. Before an
    /// endpoint's `ok` nothing of a call has gone anywhere: another one is tried whatever a rule
    /// says of failures. `after` is `None` for an answer that wants to be tried again.
    fn worth_another(&self, judged: &RetryRule, after: Option<RetryOn>) -> (bool, &'static str) {
        if is_unsent(after) {
            return (true, "");
        }
        let Some(outgoing) = self.outgoing else { return (false, "") };
        let wanted = after.is_none_or(|after| {
            judged.on.contains(&after)
                || (judged.on.contains(&RetryOn::Idempotent) && outgoing.is_idempotent())
        });
        if !wanted || self.retries >= judged.attempts {
            return (false, "");
        }
        if !outgoing.is_first() {
            return (false, "; not tried again, since the request is a retry already");
        }
        match outgoing.again() {
            true => (true, ""),
            false => (false, "; not tried again, since its body is not kept"),
        }
    }

    fn choose(&self, going: &Going<'_>, tried: &Tried) -> Result<(Choice, InFlight), NoRoute> {
        let ask = Ask {
            service: going.service,
            port: going.port,
            subset: &going.leg.subset,
            me: self.view.me,
            here: &self.view.locality,
            tried,
            tuning: going.tuning,
            affinity: going.affinity,
        };
        self.proxy.pool.choose(&ask)
    }

    /// One endpoint, and what the log and the next choice learn from it.
    async fn one(
        &mut self,
        going: &Going<'_>,
        choice: Choice,
        in_flight: InFlight,
        tried: &mut Tried,
    ) -> Result<Taken, Miss> {
        let patience = self.start(going, &choice, tried);
        let number = self.line.tries.saturating_sub(1);
        let got = self.attempt(going, &choice, in_flight, (patience, number)).await;
        if let Err(miss) = &got {
            learn(tried, &choice, miss);
        }
        got
    }

    /// Notes that an endpoint is tried, and gives how long it may take.
    fn start(&mut self, going: &Going<'_>, choice: &Choice, tried: &mut Tried) -> Duration {
        let endpoint = &choice.endpoint;
        tried.endpoints.insert(endpoint.key());
        self.line.tries += 1;
        self.note(endpoint);
        self.patience(going, tried)
    }

    fn note(&mut self, endpoint: &Endpoint) {
        self.line.endpoint = Some(endpoint.id());
        let here = endpoint.node.key == self.view.me;
        self.line.peer = (!here).then_some(endpoint.node.key);
    }

    /// One endpoint, and a second one when the first takes long. The first good answer counts.
    async fn hedged(
        &mut self,
        going: &Going<'_>,
        (choice, in_flight): (Choice, InFlight),
        tried: &mut Tried,
        hedge: Hedge,
    ) -> Result<Taken, Miss> {
        let patience = self.start(going, &choice, tried);
        let service = &going.leg.service;
        self.proxy.meters.may_hedge(service);
        let wait = match hedge.after {
            HedgeAfter::Time(time) => Some(time),
            HedgeAfter::Percentile(share) => self.proxy.meters.percentile(service, share),
        };
        let (got, other) = {
            let first = self.attempt(going, &choice, in_flight, (patience, 0));
            let mut first = std::pin::pin!(first);
            let late = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    // Too few answers to tell what is late.
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                got = &mut first => (got, None),
                () = late => {
                    let may = self.proxy.meters.hedge(service, hedge.budget);
                    let other = may.then(|| self.choose(going, tried).ok()).flatten();
                    match other {
                        None => (first.await, None),
                        Some((other, in_flight)) => {
                            let second = self.attempt(going, &other, in_flight, (patience, 1));
                            let (got, by_other) = race(first, std::pin::pin!(second)).await;
                            (got, Some((other.endpoint.clone(), by_other)))
                        }
                    }
                }
            }
        };
        match other {
            None => {
                if let Err(miss) = &got {
                    learn(tried, &choice, miss);
                }
            }
            Some((other, by_other)) => {
                tried.endpoints.insert(other.key());
                self.line.tries += 1;
                if by_other {
                    self.note(&other);
                }
            }
        }
        got
    }

    /// One endpoint, and what its balancer learns from it.
    async fn attempt(
        &self,
        going: &Going<'_>,
        choice: &Choice,
        in_flight: InFlight,
        (patience, number): (Duration, u32),
    ) -> Result<Taken, Miss> {
        let endpoint = &choice.endpoint;
        let key = endpoint.key();
        let head = self.head(going, endpoint);
        let here = endpoint.node.key == self.view.me;
        let taken = match (here, self.outgoing) {
            (true, None) => self.here(&head, patience).await,
            (true, Some(outgoing)) => {
                let stream = self.stream_here();
                self.ask(stream, head.clone(), (patience, number), Some(outgoing)).await
            }
            (false, outgoing) => {
                self.there(endpoint, head.clone(), (patience, number), outgoing).await
            }
        };
        let (pair, permit, latency) = match taken {
            Ok(taken) => taken,
            Err(miss) => {
                self.report(going, &key, miss.outcome);
                return Err(miss);
            }
        };
        // It waits for an endpoint no more; what it waits for now is an answer.
        *self.pending() = None;
        let counts = Counts { _in_flight: Some(in_flight), _permit: permit, _entered: Vec::new() };
        let Some(outgoing) = self.outgoing else {
            self.report(going, &key, Some(Outcome::Connected(latency)));
            let carried = Carried::Bytes(pair);
            return Ok(Taken { carried, here: here.then(|| Box::new(head)), counts });
        };
        // Not the dial: that is the link's, and most calls find it there.
        let begun = Instant::now();
        match outgoing.converse(pair, going.per_try).await {
            Ok(answer) => {
                let took = latency + begun.elapsed();
                let outcome = match answer.says() {
                    Says::Well => Outcome::Connected(took),
                    Says::Throttled => Outcome::Throttled,
                    Says::Failed => Outcome::Failed,
                };
                self.report(going, &key, Some(outcome));
                self.proxy.meters.answered(&going.leg.service, took);
                Ok(Taken { carried: Carried::Answer(Box::new(answer)), here: None, counts })
            }
            Err(Fallen::Client(detail)) => {
                let failed = Failed::new(CloseReason::ClientReset, detail);
                Err(Miss { outcome: None, failed, after: None })
            }
            Err(Fallen::Endpoint { reason, detail, after }) => {
                self.report(going, &key, Some(Outcome::Failed));
                let outcome = Some(Outcome::Failed);
                let detail = format!("{}: {detail}", endpoint.id());
                Err(Miss { outcome, failed: Failed::new(reason, detail), after: Some(after) })
            }
        }
    }

    fn report(&self, going: &Going<'_>, key: &EndpointKey, outcome: Option<Outcome>) {
        let service = going.service;
        let Some(outcome) = outcome else { return };
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
            return Err(refused(Refused { code: Refusal::Overload, why, wait: None }));
        };
        let me = Arc::clone(&self.proxy.parts.local.borrow());
        let head = head.clone().with_deadline(patience);
        let connected = self.proxy.admit_and_connect(&me.me, &head).await;
        match connected {
            Ok((socket, _)) => Ok((socket.into_pair(), Some(permit), started.elapsed())),
            Err(why) => Err(refused(why)),
        }
    }

    /// A stream to this agent itself, for a request to an endpoint on this host.
    fn stream_here(&self) -> StreamPair {
        let (ours, theirs) = socket::local_stream();
        let proxy = Arc::clone(self.proxy);
        self.proxy.parts.runtime.spawn(async move { Box::pin(proxy.serve_here(theirs)).await });
        ours
    }

    /// An endpoint on another host.
    async fn there(
        &self,
        endpoint: &Endpoint,
        head: StreamHead,
        (patience, number): (Duration, u32),
        outgoing: Option<&Outgoing>,
    ) -> Attempt {
        let deadline = Instant::now() + patience;
        let node = &endpoint.node;
        let share = match self.spec.outside {
            false => None,
            true => Some(self.proxy.clients.to_host(node.key).ok_or_else(|| {
                let most = limits::OUTSIDE_PER_HOST;
                let why =
                    format!("{most} calls from outside are open at {}, as many as may", node.name);
                refused(Refused { code: Refusal::Overload, why, wait: None })
            })?),
        };
        let late = |what: &str| format!("{}: {what} within {} ms", node.name, patience.as_millis());
        let dialled = timeout_at(deadline, self.proxy.parts.dialer.data(node.key)).await;
        let mux = match dialled {
            Ok(Ok(mux)) => mux,
            Ok(Err(error)) => return Err(unreachable(format!("{}: {error}", node.name))),
            Err(_) => return Err(unreachable(late("no link"))),
        };
        let stream = match timeout_at(deadline, mux.open()).await {
            Ok(Ok(pair)) => pair,
            Ok(Err(MuxError::Full)) => {
                let why = format!("{} takes no further stream", node.name);
                return Err(refused(Refused { code: Refusal::Overload, why, wait: None }));
            }
            Ok(Err(error)) => return Err(unreachable(format!("{}: {error}", node.name))),
            Err(_) => return Err(unreachable(late("no stream"))),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let asked = self.ask(stream, head, (left, number), outgoing).await;
        let asked = asked.map(|(pair, _, took)| (pair, share.map(Permit::of), took));
        asked.map_err(|mut miss| {
            if miss.failed.reason != CloseReason::RateLimited {
                let named = miss.failed.detail.starts_with(&*node.name.to_string());
                if !named && matches!(miss.outcome, Some(Outcome::NoReply | Outcome::Unreachable)) {
                    miss.failed.detail = format!("{}: {}", node.name, miss.failed.detail);
                }
            }
            miss
        })
    }

    /// Asks the agent at the other end of a stream.
    async fn ask(
        &self,
        (mut send, mut recv): StreamPair,
        head: StreamHead,
        (patience, number): (Duration, u32),
        outgoing: Option<&Outgoing>,
    ) -> Attempt {
        let started = Instant::now();
        let head = head.with_deadline(patience);
        let asked = ask(&head, outgoing.map(|one| (one, number)), &mut *send, &mut *recv);
        let miss = match tokio::time::timeout(patience, asked).await {
            Ok(Ok(())) => return Ok(((send, recv), None, started.elapsed())),
            Ok(Err(Unasked::Refused(why))) => refused(why),
            Ok(Err(Unasked::Broken(why))) => unreachable(why),
            Err(_) => Miss {
                outcome: Some(Outcome::NoReply),
                failed: Failed::new(
                    CloseReason::NoReply,
                    format!("no reply within {} ms", patience.as_millis()),
                ),
                after: Some(RetryOn::Connect),
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
            let connected = match self.outgoing {
                None => Socket::connect(target, self.proxy.parts.timeouts.connect)
                    .await
                    .map(|socket| Carried::Bytes(socket.into_pair()))
                    .map_err(Unfallen::Elsewhere),
                Some(outgoing) => self.fall_back_with(target, outgoing).await,
            };
            match connected {
                Ok(carried) => {
                    return Ok(Taken { carried, here: None, counts: Counts::default() });
                }
                Err(Unfallen::Elsewhere(error)) => detail = format!("{detail}; fallback: {error}"),
                Err(Unfallen::Over(failed)) => return Err(failed),
            }
        }
        Err(Failed::new(no_route.reason(), detail))
    }

    /// A request to a static endpoint, as if this agent served it.
    async fn fall_back_with(
        &self,
        target: &Target,
        outgoing: &Outgoing,
    ) -> Result<Carried, Unfallen> {
        let (ours, theirs) = socket::local_stream();
        let (proxy, target) = (Arc::clone(self.proxy), target.clone());
        let service = self.spec.service.clone();
        self.proxy.parts.runtime.spawn(async move {
            Box::pin(proxy.serve_outside(target, &service, theirs)).await;
        });
        let (mut send, mut recv) = ours;
        let elsewhere = |error: &dyn std::fmt::Display| Unfallen::Elsewhere(error.to_string());
        let frame = outgoing.frame(0).map_err(|error| elsewhere(&error))?;
        send.write_all(&frame).await.map_err(|error| elsewhere(&error))?;
        match reply(&mut *recv).await {
            Ok(()) => {}
            Err(Unasked::Refused(Refused { why, .. }) | Unasked::Broken(why)) => {
                return Err(Unfallen::Elsewhere(why));
            }
        }
        match outgoing.converse((send, recv), None).await {
            Ok(answer) => Ok(Carried::Answer(Box::new(answer))),
            // It may have seen the request: nobody else gets it.
            Err(Fallen::Client(detail)) => {
                Err(Unfallen::Over(Failed::new(CloseReason::ClientReset, detail)))
            }
            Err(Fallen::Endpoint { reason, detail, .. }) => {
                Err(Unfallen::Over(Failed::new(reason, detail)))
            }
        }
    }
}

/// Why a static endpoint did not take a call.
enum Unfallen {
    /// Nothing of it got there: the next one may.
    Elsewhere(String),
    /// It may have.
    Over(Failed),
}

impl Taken {
    fn is_well(&self) -> bool {
        match &self.carried {
            Carried::Bytes(_) => true,
            Carried::Answer(answer) => matches!(answer.says(), Says::Well),
        }
    }
}

/// Two tries at once: the first good answer, or the better of two that are not; and whether it is
/// the second's.
async fn race(
    mut first: Pin<&mut impl Future<Output = Result<Taken, Miss>>>,
    mut second: Pin<&mut impl Future<Output = Result<Taken, Miss>>>,
) -> (Result<Taken, Miss>, bool) {
    let (one, by_second) = tokio::select! {
        got = &mut first => (got, false),
        got = &mut second => (got, true),
    };
    if one.as_ref().is_ok_and(Taken::is_well) {
        return (one, by_second);
    }
    match by_second {
        true => (better(one, first.await), false),
        false => (better(one, second.await), true),
    }
}

/// Of two tries the one that went better; the second, if neither did.
fn better(one: Result<Taken, Miss>, other: Result<Taken, Miss>) -> Result<Taken, Miss> {
    match (one, other) {
        (_, Ok(other)) => Ok(other),
        (Ok(one), Err(_)) => Ok(one),
        (Err(_), Err(other)) => Err(other),
    }
}

/// Why a call that could be tried again is not.
const NO_OTHER: &str = "; not tried again, since no other endpoint is left";

/// Whether nothing of a call had gone to an endpoint when it failed.
fn is_unsent(after: Option<RetryOn>) -> bool {
    matches!(after, Some(RetryOn::Connect | RetryOn::Refused | RetryOn::Draining))
}

/// Another try goes to another node, where the whole agent is out.
fn learn(tried: &mut Tried, choice: &Choice, miss: &Miss) {
    let agent_is_out = match miss.outcome {
        Some(Outcome::NoReply | Outcome::Unreachable) => true,
        Some(Outcome::Refused(code)) => code == Refusal::Draining || code == Refusal::Overload,
        Some(Outcome::Connected(_) | Outcome::Failed | Outcome::Throttled) | None => false,
    };
    if agent_is_out {
        tried.nodes.insert(choice.endpoint.key().node);
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
    /// How long one may take to answer a request.
    per_try: Option<Duration>,
    /// What ring-hash goes by.
    affinity: u64,
    /// Endpoints that may be tried.
    most: usize,
}

fn refused(Refused { code, why, wait }: Refused) -> Miss {
    let after = match code {
        code if !code.elsewhere() => None,
        Refusal::Draining => Some(RetryOn::Draining),
        _ => Some(RetryOn::Refused),
    };
    let failed = Failed { wait, ..Failed::new(code.into(), why) };
    Miss { outcome: Some(Outcome::Refused(code)), failed, after }
}

fn unreachable(why: String) -> Miss {
    Miss {
        outcome: Some(Outcome::Unreachable),
        failed: Failed::new(CloseReason::Unreachable, why),
        after: Some(RetryOn::Connect),
    }
}

enum Unasked {
    Refused(Refused),
    Broken(String),
}

/// Sends the head, a request's too, and waits for `ok`.
async fn ask(
    head: &StreamHead,
    outgoing: Option<(&Outgoing, u32)>,
    send: &mut dyn SendHalf,
    recv: &mut dyn RecvHalf,
) -> Result<(), Unasked> {
    let broken = |error: std::io::Error| Unasked::Broken(format!("the stream broke: {error}"));
    let wrong = |error: &dyn std::fmt::Display| Unasked::Broken(format!("bad reply: {error}"));
    let bytes = match outgoing {
        None => head.encode().map_err(|error| wrong(&error))?,
        Some((outgoing, number)) => {
            let mut bytes = head.encode_as(StreamKind::Http).map_err(|error| wrong(&error))?;
            bytes.extend(outgoing.frame(number).map_err(|error| wrong(&error))?);
            bytes
        }
    };
    send.write_all(&bytes).await.map_err(broken)?;
    send.flush().await.map_err(broken)?;
    reply(recv).await
}

/// Waits for `ok`.
async fn reply(recv: &mut dyn RecvHalf) -> Result<(), Unasked> {
    let broken = |error: std::io::Error| Unasked::Broken(format!("the stream broke: {error}"));
    let wrong = |error: &dyn std::fmt::Display| Unasked::Broken(format!("bad reply: {error}"));
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
        Reply::Refused { code, reason } => {
            let wait = (code == Refusal::RateLimited).then_some(RATE_WAIT);
            Err(Unasked::Refused(Refused { code, why: reason, wait }))
        }
    }
}

/// A peer says in words only when the next call passes; a client is told the least there is.
const RATE_WAIT: Duration = Duration::from_secs(1);
