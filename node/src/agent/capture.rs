//! Capture: how this host's programs reach virtual addresses, by meshConfig.capture and by what
//! the kernel lets this agent do.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use skein_protocol::{
    limits,
    manifest::kinds::Capture as Said,
    name::{NodeKey, ServiceName},
    route::PortRef,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout},
};

use super::{api::LOOK_EVERY, events::Problems, settings::Settings, show::Agent};
use crate::{
    api::{
        ApiError,
        dto::{CaptureStatus, Listener},
    },
    capture::{NoRedirect, Redirect},
    proxy::{Bind, Captured, Capturing, ListenerSpec, Proxy, virtual_address::VirtualRange},
};

/// How virtual addresses are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// All of them by one redirect.
    Redirect,
    /// Each that is asked for by listeners of its own.
    Listen,
    /// None.
    Off,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Listen => "listen",
            Self::Off => "off",
        }
    }
}

/// How it is done on this host.
pub(crate) struct Capture {
    pub(crate) mode: Mode,
    range: VirtualRange,
    /// Why not by a redirect, where one was wanted.
    why: String,
    captured: watch::Receiver<Arc<Captured>>,
}

/// What runs for it.
pub(super) struct Running {
    _capturing: Capturing,
    keeping: JoinHandle<()>,
}

impl Running {
    /// Waits until the redirect is taken out, after the agent was told to stop.
    pub(super) async fn ended(self) {
        // What hangs is told by its own limit.
        let _ = timeout(limits::NFT_TIMEOUT, self.keeping).await;
    }
}

/// Begins it. `captured` says what stands at each address once there is a redirect.
pub(super) async fn start(
    proxy: &Arc<Proxy>,
    settings: &Settings,
    (me, range): (NodeKey, VirtualRange),
    problems: &Problems,
    (captured, stopped): (watch::Receiver<Arc<Captured>>, &watch::Receiver<bool>),
) -> (Capture, Option<Running>) {
    let owner = me.short().to_string();
    let with = |mode, why| Capture { mode, range, why, captured: captured.clone() };
    if matches!(settings.capture, Said::Listen | Said::Off) {
        // What this agent left behind when it was killed in another mode would be in the way.
        let _ = spawn_blocking(move || Redirect::clear(range, &owner)).await;
        let off = settings.capture == Said::Off;
        return (with(if off { Mode::Off } else { Mode::Listen }, String::new()), None);
    }
    match redirect(range, owner).await {
        Ok((listener, redirect)) => {
            let capturing = proxy.capture(listener, captured.clone());
            let keep = keep(redirect, problems.clone(), stopped.clone());
            let keeping = tokio::runtime::Handle::current().spawn(keep);
            let running = Running { _capturing: capturing, keeping };
            (with(Mode::Redirect, String::new()), Some(running))
        }
        Err(error) => {
            let text = format!(
                "meshConfig.capture: redirect is not possible, so virtual addresses are bound one \
                 by one as they are asked for: {error}"
            );
            // Bound or not, what is dialled in a range of another agent does not come here.
            let held = matches!(error, NoRedirect::Held { .. });
            let tell = held || settings.capture == Said::Redirect;
            problems.set(SUBJECT, tell.then_some(text));
            (with(Mode::Listen, error.to_string()), None)
        }
    }
}

/// The listener and the chain that leads to it.
async fn redirect(
    range: VirtualRange,
    owner: String,
) -> Result<(TcpListener, Redirect), NoRedirect> {
    let failed = |error: std::io::Error| NoRedirect::Listener(error.to_string());
    // The kernel redirects what is sent on this host to 127.0.0.1.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let put = spawn_blocking(move || Redirect::put(range, port, &owner)).await;
    let put = put.unwrap_or_else(|error| Err(NoRedirect::Nft(error.to_string())));
    Ok((listener, put?))
}

/// Keeps the chain in until the agent stops, then takes it out.
async fn keep(redirect: Redirect, problems: Problems, mut stopped: watch::Receiver<bool>) {
    let mut held = redirect;
    loop {
        tokio::select! {
            biased;
            () = crate::stop::stopped(&mut stopped) => break,
            () = sleep(limits::CAPTURE_LOOK) => {}
        }
        let looked = spawn_blocking(move || {
            let found = held.look();
            (held, found)
        });
        let Ok((redirect, found)) = looked.await else { return };
        held = redirect;
        match found {
            Ok(false) => problems.set(SUBJECT, None),
            Ok(true) => {
                problems.set(SUBJECT, None);
                tracing::warn!("the redirect of virtual addresses was gone, and was put in again");
            }
            Err(error) => problems
                .set(SUBJECT, Some(format!("the redirect of virtual addresses is gone: {error}"))),
        }
    }
    let _ = spawn_blocking(move || held.take_out()).await;
}

impl Capture {
    /// For `status`.
    pub(super) fn show(&self) -> CaptureStatus {
        CaptureStatus {
            mode: self.mode.word().to_owned(),
            range: self.range.to_string(),
            reason: self.why.clone(),
        }
    }

    /// What the kernel redirects, as listeners.
    pub(super) fn show_listeners(&self) -> Vec<Listener> {
        let captured = Arc::clone(&self.captured.borrow());
        let all = captured.0.iter().map(|(at, spec)| shown(&SocketAddr::V4(*at), spec));
        all.collect()
    }
}

fn shown(at: &SocketAddr, spec: &ListenerSpec) -> Listener {
    Listener {
        kind: "virtual".to_owned(),
        service: spec.service.to_string(),
        address: at.ip().to_string(),
        port: at.port(),
        target_port: match &spec.port {
            PortRef::Number(number) => *number,
            PortRef::Name(_) => 0,
        },
        state: "redirected".to_owned(),
        ..Listener::default()
    }
}

impl Agent {
    /// The virtual address of a service, which answers from now on where it can.
    pub(super) async fn bind_virtual(&self, service: &ServiceName) -> Result<Ipv4Addr, ApiError> {
        if self.capture.mode == Mode::Off {
            return Err(ApiError::unavailable(
                "meshConfig.capture is off: no virtual address is bound on this host",
            )
            .fix("write a ServiceDiscovery for the service, or set capture: auto"));
        }
        let given = self.virtual_addresses.lock().await.give(service);
        let address = given.map_err(|error| ApiError::unavailable(error.to_string()))?;
        self.bound.send_if_modified(|bound| bound.insert(service.clone()));
        let stands = async {
            match self.capture.mode {
                Mode::Redirect => self.stands(address).await,
                Mode::Listen | Mode::Off => self.is_bound(address).await,
            }
        };
        // What is not bound by then is shown as it is.
        let _ = timeout(BOUND_WITHIN, stands).await;
        Ok(address)
    }

    async fn stands(&self, address: Ipv4Addr) {
        let mut captured = self.capture.captured.clone();
        let stands = |all: &Arc<Captured>| all.0.keys().any(|at| *at.ip() == address);
        drop(captured.wait_for(stands).await);
    }

    /// Waits until the listeners of a virtual address are bound or refused.
    async fn is_bound(&self, address: Ipv4Addr) {
        loop {
            let wanted = Arc::clone(&self.wanted.borrow());
            let mine = |bind: &&Bind| matches!(bind, Bind::Tcp(s) if s.ip() == address);
            let binds: Vec<&Bind> = wanted.0.keys().filter(mine).collect();
            let bound = Arc::clone(&self.listening.bound.borrow());
            let problems = Arc::clone(&self.listening.problems.borrow());
            let refused = self.problems.all().contains_key("virtual address");
            let settled = binds
                .iter()
                .all(|bind| bound.contains_key(*bind) || problems.iter().any(|p| p.bind == **bind));
            if settled && (!binds.is_empty() || refused) {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

const SUBJECT: &str = "capture";
/// How long `--bind` waits for what it asked for.
const BOUND_WITHIN: Duration = Duration::from_secs(2);
