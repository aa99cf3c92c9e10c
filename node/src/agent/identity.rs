//! Identity while the agent runs: its keys, joins and renewals of others, its own renewal.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rand::RngExt;
use skein_protocol::{
    clock::Wall,
    limits,
    name::NodeKey,
    record::{
        OwnChain,
        node::{HeldIssuer, TokenUses},
    },
    trust::{
        ChainClass, PublicKey, Revocations, Revoked, RootChain, Roots, VerifiedChain,
        join::{PeerAddress, Refusal, RefusalCode},
        token::{IssuerHint, Token, TokenBody, hint},
        verify_chain, verify_issuer,
    },
    view::{Liveness, NodeView, View},
    wire::ask::{Answer, Ask, TokenUseAsk},
};
use tokio::{runtime::Handle, sync::watch};

use super::{
    seeds,
    settings::Settings,
    show::{Agent, ISSUER_NEAR},
    show_chain, trust,
};
use crate::{
    clock::wall,
    disk::Disk,
    identity::{self, Desk, Files, IssuingHost, Member, Relay, Situation, Told, desk},
    keys::{Credentials, Ed25519, KeyPair, Trust, file},
    link::{
        Endpoint, Link,
        mux::{BoxFuture, StreamPair},
    },
};

/// What of this host's identity lies in files.
#[derive(Debug)]
pub(crate) struct Keys {
    /// This host's key, opened, as PKCS#8.
    key: Vec<u8>,
    /// Where.
    pub(crate) files: Files,
    /// The trusted roots.
    pub(crate) roots: Roots,
    /// The same as they travel.
    pub(crate) chain: RootChain,
    /// This host's chain.
    pub(crate) own: OwnChain,
    /// The issuer on this host.
    pub(crate) issuer: Option<Arc<IssuingHost>>,
}

impl Keys {
    /// Reads them. A host without a certificate joins first, if it has a token and a seed.
    pub(crate) async fn load(settings: &Settings, token: Option<&str>) -> Result<Self> {
        let files = Files::new(settings.dir.clone());
        if !settings.files.chain.exists() && !files.is_member() {
            let said = token.map(str::to_owned);
            let token = match said {
                None if settings.has_secret() => {
                    Some(settings.secret().map_err(anyhow::Error::msg)?)
                }
                said => said,
            };
            join_first(&files, settings, token.as_deref()).await?;
        }
        put_where_named(&files, settings)?;
        let root_chain = file::read_roots(&settings.files.roots)?;
        let roots = root_chain.verify(&Ed25519).with_context(|| {
            format!("{} holds no roots of a mesh", settings.files.roots.display())
        })?;
        let (chain, verified) = newest(settings, &files, &roots)?;
        let issuer = IssuingHost::open(&files)?.map(Arc::new);
        let pair = file::read_key_with(&settings.files.key, || settings.secret())?;
        let own = OwnChain { chain, verified };
        Ok(Self { key: pair.to_pkcs8()?, files, roots, chain: root_chain, own, issuer })
    }

    /// A host that slept past its certificate's end proves its key and gets a new one, from an
    /// issuer that has not ended as far as this host's disk tells.
    pub(crate) async fn renew_if_expired(
        &mut self,
        settings: &Settings,
        control: &Handle,
        revocations: &Revocations,
    ) -> Result<()> {
        if self.own.verified.class != ChainClass::Expired {
            return Ok(());
        }
        tracing::warn!("this node's certificate has ended: renewing it before anything else");
        let credentials = self.credentials(revocations.clone(), BTreeSet::new())?;
        let may_issue =
            |issuer: &&Arc<IssuingHost>| revocations.may_issue(issuer.verified()).is_ok();
        if let Some(issuer) = self.issuer.as_ref().filter(may_issue) {
            identity::client::renew_own(&self.files, &credentials, issuer, wall())?;
        } else {
            let from = SocketAddr::new(settings.mesh.ip(), 0);
            let endpoint = Endpoint::dialler(from, &credentials, control)?;
            let mut addresses: Vec<SocketAddr> =
                self.files.read_peers().into_iter().map(|peer| peer.address).collect();
            for seed in &settings.seeds {
                // What does not resolve now may be another's address in a moment.
                addresses.extend(seeds::resolve(seed).await.unwrap_or_default());
            }
            if addresses.is_empty() {
                bail!(
                    "this node's certificate has ended, and no other agent's address is known: \
                     say one with --join"
                );
            }
            let mut pause = Duration::from_secs(1);
            while let Err(error) = identity::renew(&self.files, &endpoint, &addresses, wall()).await
            {
                // Not the end: an issuer may come back, and this host then needs nobody.
                tracing::warn!(
                    "this node's certificate has ended and was not renewed ({error}): trying \
                     again; give the address of a live agent with --join, or admit this node again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_EVERY);
            }
        }
        let own = credentials.own().context("no certificate after renewal")?;
        self.own = OwnChain { chain: own.chain.clone(), verified: own.verified.clone() };
        Ok(())
    }

    /// What this agent shows and trusts. `known` are the nodes that its disk holds records of.
    pub(crate) fn credentials(
        &self,
        revocations: Revocations,
        known: BTreeSet<NodeKey>,
    ) -> Result<Arc<Credentials>> {
        let key = KeyPair::from_pkcs8(&self.key)?;
        let trust = trust(&self.roots, &revocations, known.into_iter());
        Ok(Credentials::member(key, self.own.chain.clone(), trust, wall())?)
    }
}

/// The newer of the chain that the document names and the one in the agent's directory.
fn newest(
    settings: &Settings,
    files: &Files,
    roots: &Roots,
) -> Result<(skein_protocol::trust::Chain, VerifiedChain)> {
    let mut best: Option<(skein_protocol::trust::Chain, VerifiedChain)> = None;
    let mut why = None;
    for path in [&settings.files.chain, &files.node_chain()] {
        if !path.exists() {
            continue;
        }
        let chain = file::read_chain(path)?;
        match verify_chain(&chain, roots, wall(), &Ed25519) {
            Ok(verified) => {
                let newer = best.as_ref().is_none_or(|(_, b)| verified.not_after > b.not_after);
                if newer {
                    best = Some((chain, verified));
                }
            }
            Err(error) => why = Some((path.clone(), error)),
        }
    }
    match (best, why) {
        (Some(best), _) => Ok(best),
        (None, Some((path, error))) => bail!(
            "{}: {error}. It must be certified by this mesh's root: move it away and run `skein \
             join ADDR --token @FILE`",
            path.display()
        ),
        (None, None) => bail!("{} is missing", settings.files.chain.display()),
    }
}

/// What `join` wrote, where the agent's document names other paths and nothing lies there yet.
fn put_where_named(files: &Files, settings: &Settings) -> Result<()> {
    let named = &settings.files;
    if files.roots().exists() && !named.roots.exists() {
        file::write_roots(&named.roots, &file::read_roots(&files.roots())?)?;
    }
    if files.node_key().exists() && !named.key.exists() {
        file::write_key(&named.key, &file::read_key(&files.node_key())?)?;
    }
    if files.node_chain().exists() && !named.chain.exists() {
        file::write_chain(&named.chain, &file::read_chain(&files.node_chain())?)?;
    }
    Ok(())
}

async fn join_first(files: &Files, settings: &Settings, token: Option<&str>) -> Result<()> {
    let Some(text) = token else {
        bail!(
            "this host is in no mesh: {} is missing. Make one with `skein init`, or join one with \
             `skein join ADDR --token @FILE`",
            settings.files.chain.display()
        );
    };
    let token: Token = text.trim().parse().context("the join token does not read")?;
    let mut addresses = Vec::new();
    for seed in &settings.seeds {
        match seeds::resolve(seed).await {
            Ok(found) => addresses.extend(found),
            Err(why) => tracing::warn!(%seed, why, "the seed's name does not resolve"),
        }
    }
    if addresses.is_empty() {
        bail!("there is a join token but no agent to join by: say one with --join ADDR");
    }
    let name = crate::cli::local::host_name()?.parse()?;
    let from = SocketAddr::new(settings.mesh.ip(), 0);
    let joined = identity::join(files, from, &addresses, &token, &name, wall()).await?;
    files.write_peers(&joined.peers)?;
    tracing::info!(mesh = joined.mesh, "joined");
    Ok(())
}

/// Uses of tokens, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Tokens {
    held: Mutex<TokenUses>,
    disk: Arc<Disk>,
}

impl Tokens {
    pub(crate) fn open(disk: Arc<Disk>) -> Result<Self> {
        let held = disk.token_uses().context("the uses of join tokens cannot be read")?;
        Ok(Self { held: Mutex::new(held), disk })
    }

    pub(crate) fn all(&self) -> TokenUses {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the uses, on disk first.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut TokenUses) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        // Not after a wait for a disk that does not answer.
        if let Some(why) = self.disk.trouble() {
            return Err(unwritable(&why));
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = held.clone();
        let result = change(&mut next)?;
        self.disk.keep_token_uses(&next).map_err(|error| unwritable(&error.to_string()))?;
        *held = next;
        Ok(result)
    }
}

fn unwritable(why: &str) -> Refusal {
    let text = format!("the issuing host cannot write its disk, so it admits nobody: {why}");
    Refusal::new(RefusalCode::Trouble, text)
}

/// The desk at which others join and renew.
pub(crate) struct AgentDesk(pub(crate) Arc<Agent>);

impl Desk for AgentDesk {
    fn issuer(&self) -> Option<Arc<IssuingHost>> {
        // Who cannot write issues nothing: another does, if one is reached.
        self.0.issuer().filter(|_| self.0.disk.trouble().is_none())
    }

    fn trust(&self) -> Arc<Trust> {
        self.0.credentials.trust().unwrap_or_else(|| {
            Arc::new(trust(&self.0.roots(), &Revocations::default(), std::iter::empty()))
        })
    }

    fn situation(&self) -> Situation {
        let agent = &self.0;
        let view = agent.view();
        let now = wall();
        let members = view.nodes.values().map(|node| Member {
            key: node.key,
            name: node.name.clone(),
            holds: holds_name(node, now),
        });
        let peers = view
            .nodes
            .values()
            .filter(|node| node.liveness == Liveness::Alive)
            .filter_map(|node| {
                let address = node.addresses.first()?.socket();
                Some(PeerAddress { node: node.key, address })
            })
            .take(limits::JOIN_PEERS);
        Situation {
            now,
            trust: self.trust(),
            members: members.collect(),
            policy: agent.listed_policy(),
            peers: peers.collect(),
        }
    }

    fn take_use<'a>(&'a self, token: &'a TokenBody) -> BoxFuture<'a, Result<u32, Refusal>> {
        Box::pin(async move {
            let agent = &self.0;
            let terms = &token.terms;
            let asked = TokenUseAsk { id: token.id(), at_most: terms.uses, until: terms.not_after };
            let Some(maker) = agent.maker_of(terms.issuer) else {
                return agent.take_token_use(asked).await;
            };
            // While the issuer that made it lives, it alone counts: of two hosts that are asked at
            // once only one gets the last use.
            match agent.ask(maker, Ask::TokenUse(asked)).await {
                Ok(Answer::TokenUse(Ok(used))) => Ok(used),
                Ok(Answer::TokenUse(Err(code))) => {
                    let known = [RefusalCode::UsedUp, RefusalCode::TokenRevoked];
                    let code = known.into_iter().find(|known| known.number() == code);
                    let code = code.unwrap_or(RefusalCode::Trouble);
                    Err(desk::refused_use(code, asked.at_most))
                }
                Ok(_) | Err(_) => Err(desk::refused_use(RefusalCode::Trouble, asked.at_most)),
            }
        })
    }

    fn issuers(&self) -> Vec<Arc<Vec<u8>>> {
        let own = self.0.issuer().map(|issuer| Arc::new(issuer.certificate().to_vec()));
        let view = self.0.view();
        let others = view.nodes.values().filter(|node| may_issue(node));
        own.into_iter().chain(others.filter_map(|node| node.held_issuer.clone())).collect()
    }

    fn told(&self, what: &Told<'_>) {
        let (node, name) = (what.node.short(), what.name);
        let by = what.token.map(|id| data_encoding::HEXLOWER.encode(&id));
        let (key, token) = (what.node, by.unwrap_or_else(|| "none: a renewal".to_owned()));
        match what.result {
            Ok(()) => tracing::info!(%node, %name, %key, token, "certificate issued"),
            Err(refusal) => {
                let why = refusal.shown();
                tracing::warn!(%node, %name, %key, token, why, "certificate refused");
            }
        }
    }

    fn relay(&self) -> BoxFuture<'_, Result<Relay, Refusal>> {
        Box::pin(async move {
            let refused = |text: String| Refusal::new(RefusalCode::NoIssuer, text);
            let Some(share) = self.0.strangers.relay() else {
                let text = "as many others join through this host as may at once: try again";
                return Err(refused(text.to_owned()));
            };
            let view = self.0.view();
            let issuers = view.nodes.values().filter(|node| {
                node.issuer && node.key != self.0.me && node.liveness == Liveness::Alive
            });
            for node in issuers {
                let Ok(mux) = crate::proxy::Dialer::data(&self.0.data, node.key).await else {
                    continue;
                };
                if let Ok(pair) = mux.open().await {
                    return Ok(Relay { pair, _share: Box::new(share) });
                }
            }
            if self.0.issuer().is_some()
                && let Some(why) = self.0.disk.trouble()
            {
                return Err(unwritable(&why));
            }
            Err(refused("no host with an issuer is reached from here".to_owned()))
        })
    }
}

/// A connection that joins or renews.
pub(super) async fn serve_stranger(agent: &Arc<Agent>, link: Link) {
    identity::serve(link, &AgentDesk(Arc::clone(agent))).await;
}

impl Agent {
    /// The live host of another issuer, by the head of that one's key.
    fn maker_of(&self, issuer: IssuerHint) -> Option<NodeKey> {
        if self.issuer().is_some_and(|own| hint(&own.verified().key) == issuer) {
            return None;
        }
        let (view, roots) = (self.view(), self.roots());
        let made = |node: &&Arc<NodeView>| {
            let lives = node.liveness == Liveness::Alive && may_issue(node);
            lives && issuer_of(node, &roots).is_some_and(|key| hint(&key) == issuer)
        };
        view.nodes.values().find(made).map(|node| node.key)
    }

    /// Whether that node holds an issuer of this mesh.
    pub(crate) fn issues(&self, node: &NodeKey) -> bool {
        let view = self.view();
        let node = view.nodes.get(node).filter(|node| may_issue(node));
        node.is_some_and(|node| issuer_of(node, &self.roots()).is_some())
    }

    /// What the other issuers of the mesh say of join tokens, by their hosts.
    pub(crate) fn issuers_tokens(&self) -> Vec<(NodeKey, Arc<TokenUses>)> {
        let (view, roots) = (self.view(), self.roots());
        let others = view.nodes.values().filter(|node| node.key != self.me && may_issue(node));
        let others = others.filter(|node| issuer_of(node, &roots).is_some());
        others.map(|node| (node.key, Arc::clone(&node.tokens))).collect()
    }

    /// Takes a use of a token at this host, on disk first.
    pub(crate) async fn take_token_use(
        self: &Arc<Self>,
        asked: TokenUseAsk,
    ) -> Result<u32, Refusal> {
        let agent = Arc::clone(self);
        let taken = tokio::task::spawn_blocking(move || {
            let others: Vec<Arc<TokenUses>> =
                agent.issuers_tokens().into_iter().map(|(_, tokens)| tokens).collect();
            let taken = |uses: &mut TokenUses| desk::take_use(uses, &others, &asked, wall());
            let used = agent.tokens.change(taken)?;
            let tokens = agent.tokens.all();
            agent.phase.send_modify(|phase| phase.tokens = tokens);
            Ok(used)
        });
        taken.await.unwrap_or_else(|error| {
            Err(Refusal::new(RefusalCode::Trouble, format!("the desk failed: {error}")))
        })
    }
}

/// The key of the issuer that a node holds: by a certificate of this mesh that names it as the
/// host, not by its word.
fn issuer_of(node: &NodeView, roots: &Roots) -> Option<PublicKey> {
    let certificate = node.held_issuer.as_ref()?;
    let issuer = verify_issuer(certificate, roots, &Ed25519).ok()?;
    (issuer.host == node.key).then_some(issuer.key)
}

/// Whether a node's name is its own: until it was revoked, or its certificate is over for so long
/// that it cannot renew it any more.
pub(crate) fn holds_name(node: &NodeView, now: Wall) -> bool {
    node.certified && node.not_after.after(limits::EXPIRED_RENEWS) >= now
}

/// A relayed join or renewal that came over a member's data link.
pub(super) async fn serve_relayed(agent: &Arc<Agent>, by: NodeKey, pair: StreamPair) {
    let Some(_share) = agent.strangers.relayed(by) else {
        let (mut send, mut receive) = pair;
        send.reset(identity::NO_ISSUER);
        return receive.stop(identity::NO_ISSUER);
    };
    let desk = AgentDesk(Arc::clone(agent));
    if let Err(error) = identity::serve_relayed(pair, &agent.credentials, &desk).await {
        tracing::debug!(%error, "a relayed join or renewal ended");
    }
}

/// How often the certificate's age is looked at; a failed renewal is tried again as often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Renews this host's certificate from a third of its life on.
pub(super) async fn keep_fresh(
    agent: Arc<Agent>,
    endpoint: Endpoint,
    mut stopped: watch::Receiver<bool>,
) {
    let mut roots = agent.roots.subscribe();
    let mut held = agent.issuer.subscribe();
    let mut revocations = agent.revocations.clone();
    let mut rooted_at = None;
    loop {
        revocations.borrow_and_update();
        agent.problems.set("issuer", renew_issuer(&agent));
        let issuers = live_issuers(&agent.view());
        let due = agent.credentials.own().is_some_and(|own| {
            wall() >= identity::renew_at(own.verified.not_before, own.verified.not_after)
                || under_an_old_root(&agent, &own.verified, &mut rooted_at)
                || issuer_is_suspended(&agent, &own.verified)
        });
        if due {
            let renewed = renew(&agent, &endpoint).await;
            agent.problems.set("renewal", renewed.err().map(|error| format!("{error:#}")));
        }
        keep_peers(&agent);
        let jitter = rand::rng().random_range(0..30);
        tokio::select! {
            biased;
            () = crate::stop::stopped(&mut stopped) => return,
            () = tokio::time::sleep(LOOK_EVERY + Duration::from_secs(jitter)) => {}
            () = issuer_back(&agent, issuers), if due => {}
            () = issuer_under_newest(&agent), if wants_newest(&agent) => {}
            Ok(()) = roots.changed() => {}
            Ok(()) = held.changed() => {}
            Ok(()) = revocations.changed() => {}
        }
    }
}

/// Whether the host of this node's issuer was revoked: this node keeps working where it is known,
/// and moves to another issuer before the root decides about that one.
fn issuer_is_suspended(agent: &Agent, own: &VerifiedChain) -> bool {
    agent.revocations.borrow().judge(own, false) == Err(Revoked::Suspended)
}

/// Between two attempts to get a certificate under the newest root, should one not lead there.
const ROOTED_EVERY: Duration = Duration::from_secs(300);
/// When an issuer is under the newest root, all others come to it within this for each of them.
const ROOTED_WITHIN: Duration = Duration::from_millis(20);

/// Whether this host's certificate is under a root that another has followed on, and one under
/// the newest may be had.
fn under_an_old_root(
    agent: &Agent,
    own: &VerifiedChain,
    tried: &mut Option<std::time::Instant>,
) -> bool {
    let newest = agent.roots().newest();
    let old = newest.is_some_and(|newest| own.root != newest);
    let may = match agent.issuer() {
        Some(issuer) => Some(issuer.verified().root) == newest,
        None => issues_under(&agent.view(), newest),
    };
    let pause = tried.is_some_and(|at| at.elapsed() < ROOTED_EVERY);
    let due = old && may && !pause;
    if due {
        *tried = Some(std::time::Instant::now());
    }
    due
}

/// Whether some live host issues under that root. Its own certificate tells.
fn issues_under(view: &View, root: Option<PublicKey>) -> bool {
    view.nodes.values().any(|node| issues_under_root(node, root))
}

fn issues_under_root(node: &NodeView, root: Option<PublicKey>) -> bool {
    node.liveness == Liveness::Alive && may_issue(node) && Some(node.root) == root
}

/// Whether this host waits for an issuer under the newest root: it is under an older one, has no
/// issuer of its own, and nobody issues under the newest yet.
fn wants_newest(agent: &Agent) -> bool {
    let newest = agent.roots().newest();
    let old = agent.credentials.own().is_some_and(|own| Some(own.verified.root) != newest);
    old && agent.issuer().is_none() && !issues_under(&agent.view(), newest)
}

/// Waits for an issuer under the newest root, and then for this host's turn.
async fn issuer_under_newest(agent: &Agent) {
    let newest = agent.roots().newest();
    let mut view = agent.view.clone();
    let found = view.wait_for(|view| issues_under(view, newest)).await;
    let members = found.map(|view| view.nodes.len());
    let Ok(members) = members else {
        // The driver has ended, and so does this agent.
        return std::future::pending().await;
    };
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    let within = ROOTED_WITHIN.saturating_mul(members).min(ROOTED_EVERY);
    let turn = within.mul_f64(rand::random::<f64>());
    tokio::time::sleep(turn).await;
}

/// Renews this host's issuer while the root's key is here; else says who must.
fn renew_issuer(agent: &Agent) -> Option<String> {
    let issuer = agent.issuer()?;
    let left = issuer.verified().not_after.since(wall());
    let old = agent.roots().newest().is_some_and(|newest| issuer.verified().root != newest);
    if left > ISSUER_NEAR && !(old && issuer.has_root()) {
        return None;
    }
    let days = left.as_secs() / 86_400;
    if !issuer.has_root() {
        return Some(format!(
            "this host's issuer certificate ends in {days} days, and the root's key is not here: \
             bring it for `skein issuer renew`"
        ));
    }
    let renewed = identity::RootKey::open(&agent.files, None)
        .and_then(|root| root.write_issuer(&agent.files, wall()))
        .map_err(anyhow::Error::from)
        .and_then(|_| agent.open_issuer());
    let failed = |error| format!("this host's issuer ends in {days} days: {error:#}");
    renewed.err().map(failed)
}

/// What a record says of the issuer on its host.
pub(crate) fn held(issuer: Option<&IssuingHost>) -> HeldIssuer {
    HeldIssuer(issuer.map(|issuer| issuer.certificate().to_vec()))
}

impl Agent {
    /// Takes the issuer of this host's files, from now on.
    pub(crate) fn open_issuer(&self) -> Result<()> {
        let issuer = IssuingHost::open(&self.files)?.map(Arc::new);
        let said = held(issuer.as_deref());
        self.issuer.send_replace(issuer);
        self.phase.send_modify(|phase| phase.issuer = said);
        Ok(())
    }
}

/// Whether a node says that it holds an issuer, and was not revoked.
fn may_issue(node: &NodeView) -> bool {
    node.issuer && node.certified
}

fn live_issuers(view: &View) -> BTreeSet<NodeKey> {
    let issuers = view
        .nodes
        .values()
        .filter(|node| may_issue(node) && node.liveness == Liveness::Alive && node.key != view.me);
    issuers.map(|node| node.key).collect()
}

/// Waits until an issuer lives that did not: who waits for one need not wait for the next look.
async fn issuer_back(agent: &Agent, before: BTreeSet<NodeKey>) {
    let mut view = agent.view.clone();
    let back = view.wait_for(|view| live_issuers(view).difference(&before).next().is_some());
    if back.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Writes down where members are, for a start at which this host's certificate has ended.
pub(super) fn keep_peers(agent: &Agent) {
    let view = agent.view();
    let mut members: Vec<_> = view
        .nodes
        .values()
        .filter(|node| node.key != agent.me && node.liveness == Liveness::Alive)
        .collect();
    members.sort_by_key(|node| !node.issuer);
    let peers = members.into_iter().filter_map(|node| {
        Some(PeerAddress { node: node.key, address: node.addresses.first()?.socket() })
    });
    let peers: Vec<PeerAddress> = peers.take(limits::JOIN_PEERS).collect();
    // Without it a start finds them by its records and seeds, as long as its certificate holds.
    if !peers.is_empty() && peers != agent.files.read_peers() {
        let _ = agent.files.write_peers(&peers);
    }
}

async fn renew(agent: &Agent, endpoint: &Endpoint) -> Result<()> {
    let revocations = Arc::clone(&agent.revocations.borrow());
    let may_issue = |issuer: &Arc<IssuingHost>| revocations.may_issue(issuer.verified()).is_ok();
    if let Some(issuer) = agent.issuer().filter(may_issue) {
        identity::client::renew_own(&agent.files, &agent.credentials, &issuer, wall())?;
    } else {
        let view = agent.view();
        let mut others: Vec<_> = view.nodes.values().filter(|node| node.key != agent.me).collect();
        // When this host's certificate has ended, nobody answers its probes: the dead may live.
        others.retain(|node| node.certified);
        others.sort_by_key(|node| (node.liveness, !node.issuer));
        // Of the addresses the first that answers is asked, and passes it on to any issuer: one
        // under the newest root is asked itself.
        let newest = agent.roots().newest();
        if others.iter().any(|node| issues_under_root(node, newest)) {
            others.retain(|node| issues_under_root(node, newest));
        }
        let addresses: Vec<SocketAddr> = others
            .into_iter()
            .filter_map(|node| node.addresses.first())
            .map(|address| address.socket())
            .take(limits::DIAL_ADDRESSES)
            .collect();
        identity::renew(&agent.files, endpoint, &addresses, wall())
            .await
            .context("this node's certificate was not renewed; it is tried again every minute")?;
    }
    let own = agent.credentials.own().context("no certificate")?;
    show_chain(agent, own.chain.clone()).await?;
    tracing::info!(until = %crate::clock::rfc3339(own.verified.not_after), "certificate renewed");
    Ok(())
}
