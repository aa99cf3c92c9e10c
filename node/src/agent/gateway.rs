//! Gateways: which ports this host opens to those outside of the mesh, and with which
//! certificates.
//!
//! In:    meshConfig.gateway, the view, a directory of certificates.
//! Out:   listeners, a TLS configuration that follows the files, what is wrong with either.
//! Never: drops a certificate that works for a file that does not.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use skein_protocol::{
    manifest::kinds::{Gateway, Listen},
    trust::{Grant, Role},
    view::View,
};
use tokio::sync::watch;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::{Agent, doors::settle};
use crate::proxy::{Bind, ListenerSpec, Listeners};

/// Adds the doors of a gateway to the listeners, and gives what cannot be opened. `open` are the
/// listeners as they are now.
pub(super) fn doors(
    (gateway, grant): (&Gateway, &Grant),
    view: &View,
    bind: Option<IpAddr>,
    (open, wanted): (&Listeners, &mut Listeners),
) -> Vec<String> {
    if !grant.roles.contains(&Role::Gateway) {
        return vec![format!(
            "this gateway opens nothing: the grant of {} has not the role gateway: join with a token \
             of `skein token create --role gateway`, or have it admitted with `--role gateway`",
            grant.name
        )];
    }
    let socket = |port| Listen::All(port).socket(bind);
    let held = |port: u16, host: Option<&str>| {
        let door = open.0.get(&Bind::Tcp(socket(port)?))?.door.as_ref()?;
        let spec = match host {
            Some(host) => door.by_host.get(host),
            None => door.other.as_ref(),
        };
        spec.map(|spec| spec.service.clone())
    };
    let services = view.services.iter().map(|(name, service)| (name, service.ports.as_slice()));
    let (doors, mut problems) = settle(gateway, services, &held);
    for (port, door) in doors {
        let Some(socket) = socket(port) else { continue };
        let first = door.other.as_ref().or_else(|| door.by_host.values().next());
        let Some(first) = first.map(Arc::clone) else { continue };
        if let Some(taken) = wanted.0.get(&Bind::Tcp(socket)) {
            problems.push(format!(
                "{}: {socket} is the port of {}: change one of the two",
                first.name, taken.name
            ));
            continue;
        }
        let spec = ListenerSpec { door: Some(Box::new(door)), ..(*first).clone() };
        wanted.0.insert(Bind::Tcp(socket), Arc::new(spec));
    }
    problems
}

impl Agent {
    /// Where the certificates of this gateway are, if it is one and has some.
    pub(super) fn gateway_folder(&self) -> Option<PathBuf> {
        let snapshot = Arc::clone(&self.workload.snapshot.borrow());
        let gateway = snapshot.plan.mesh.gateway.as_ref()?;
        let base = snapshot.mesh_base.as_ref().unwrap_or(&self.settings.dir);
        Some(base.join(gateway.certificates.as_deref()?))
    }
}

/// Keeps the TLS configuration as the directory of certificates says, and says what is wrong with
/// it. Ends never.
pub(super) async fn follow(
    agent: Arc<Agent>,
    told: watch::Sender<Option<Arc<ServerConfig>>>,
    folder: impl Fn(&Agent) -> Option<PathBuf>,
) {
    let mut known = None;
    loop {
        let wanted = folder(&agent);
        let state = wanted.as_deref().map(|folder| (folder.to_owned(), stamp(folder)));
        if known.as_ref() != Some(&state) {
            let problems = match wanted.as_deref() {
                None => {
                    told.send_replace(None);
                    Vec::new()
                }
                Some(folder) => match load(folder) {
                    Ok((config, problems)) => {
                        // A directory without any that works leaves what worked before.
                        if let Some(config) = config {
                            told.send_replace(Some(config));
                            tracing::info!(folder = %folder.display(), "certificates of the gateway loaded");
                        }
                        problems
                    }
                    Err(error) => vec![format!("{}: {error}", folder.display())],
                },
            };
            agent.problems.set_all("gateway certificates", problems);
            known = Some(state);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

type Stamp = Vec<(PathBuf, Option<SystemTime>, u64)>;

fn stamp(folder: &Path) -> Stamp {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Stamp = entries
        .filter_map(|entry| {
            let about = fs::metadata(entry.path()).ok()?;
            Some((entry.path(), about.modified().ok(), about.len()))
        })
        .take(FILES_MAX)
        .collect();
    all.sort();
    all
}

/// Files of a directory that are looked at.
const FILES_MAX: usize = 1024;

/// The certificates of a directory, by the names in them.
#[derive(Debug, Default)]
struct ByName {
    named: BTreeMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(host) = hello.server_name() else { return self.first.clone() };
        let host = host.to_ascii_lowercase();
        let wide = host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
        let found = self.named.get(&host).or_else(|| self.named.get(&wide?));
        found.or(self.first.as_ref()).cloned()
    }
}

/// What a directory holds, and what of it cannot be used.
fn load(folder: &Path) -> io::Result<(Option<Arc<ServerConfig>>, Vec<String>)> {
    let mut all = ByName::default();
    let mut problems = Vec::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.take(FILES_MAX).flatten().map(|entry| entry.path()).collect();
    files.sort();
    let is = |path: &Path, wanted: &str| path.extension().is_some_and(|found| found == wanted);
    for file in files.iter().filter(|path| is(path, "pem") || is(path, "crt")) {
        // The key is in the file itself, or beside it.
        let beside = file.with_extension("key");
        let key = if beside.exists() { &beside } else { file };
        match certified(file, key) {
            Ok((certified, names)) => {
                all.first.get_or_insert_with(|| Arc::clone(&certified));
                for name in names {
                    all.named.entry(name).or_insert_with(|| Arc::clone(&certified));
                }
            }
            Err(why) => problems.push(format!("{}: {why}; what worked stays", file.display())),
        }
    }
    if all.first.is_none() {
        if problems.is_empty() {
            problems.push(format!(
                "{}: no certificate: put NAME.pem with chain and key there, or NAME.crt and \
                 NAME.key",
                folder.display()
            ));
        }
        return Ok((None, problems));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(all));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Some(Arc::new(config)), problems))
}

fn certified(file: &Path, key: &Path) -> Result<(Arc<CertifiedKey>, Vec<String>), String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?.collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let leaf = chain.first().ok_or("no certificate in it")?;
    let names = names(leaf)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("its key ({}): {error}", key.display()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| format!("the key is not the certificate's: {error}"))?;
    Ok((Arc::new(certified), names))
}

/// The hosts that a certificate is for.
fn names(leaf: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|error| error.to_string())?;
    let extension = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let all = extension.map(|extension| extension.value.general_names.as_slice());
    let names = all.unwrap_or_default().iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(names.collect())
}
