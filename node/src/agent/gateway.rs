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
    os::unix::fs::MetadataExt,
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
    clock::Wall,
    manifest::kinds::{Gateway, Listen},
    trust::{Grant, Role},
    view::View,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::{Agent, doors::settle};
use crate::{
    clock::wall,
    proxy::{Bind, ListenerSpec, Listeners},
};

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
    let mut held = Held::default();
    // Where no signal can be had the files' own changes are followed all the same.
    let mut reload = signal(SignalKind::hangup()).ok();
    loop {
        let wanted = folder(&agent);
        let state = wanted.as_deref().map(|folder| (folder.to_owned(), stamp(folder)));
        // What is wrong may be mended by what no stamp shows: an owner, a mount, a right.
        if known.as_ref() != Some(&state) || !held.problems.is_empty() {
            let changed = known.as_ref() != Some(&state);
            held = match wanted.as_deref() {
                None => {
                    told.send_replace(None);
                    Held::default()
                }
                Some(folder) => look(folder, &told, (changed, held)),
            };
            known = Some(state);
        }
        let mut problems = held.problems.clone();
        problems.extend(held.ends.iter().filter_map(|end| near(end, wall())));
        agent.problems.set_all("gateway certificates", problems);
        let again = async {
            match &mut reload {
                Some(reload) => reload.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = again => known = None,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// What came of the last look.
#[derive(Debug, Default)]
struct Held {
    problems: Vec<String>,
    ends: Vec<End>,
}

/// Loads a directory. One without any certificate that works leaves what worked before.
fn look(
    folder: &Path,
    told: &watch::Sender<Option<Arc<ServerConfig>>>,
    (changed, before): (bool, Held),
) -> Held {
    let found = match load(folder) {
        Ok(found) => found,
        Err(error) => {
            let problems = vec![format!("{}: {error}", folder.display())];
            return Held { problems, ends: before.ends };
        }
    };
    // Of a look that was made for its problems alone: new once they are fewer.
    if let Some(config) = found.config
        && (changed || found.problems != before.problems)
    {
        told.send_replace(Some(config));
        tracing::info!(folder = %folder.display(), "certificates of the gateway loaded");
    }
    Held { problems: found.problems, ends: found.ends }
}

/// When the certificate of a file begins and ends.
#[derive(Clone, Debug)]
pub(super) struct End {
    /// The file.
    pub(super) file: PathBuf,
    /// The hosts that it is for.
    pub(super) names: Vec<String>,
    /// Its number, in hexadecimal.
    pub(super) serial: String,
    /// From when on it holds.
    pub(super) begins: Wall,
    /// Until when.
    pub(super) ends: Wall,
}

/// What is wrong with the time that a certificate has left.
pub(super) fn near(end: &End, now: Wall) -> Option<String> {
    let (file, left) = (end.file.display(), end.ends.since(now));
    let life = end.ends.since(end.begins);
    match left {
        _ if now < end.begins => Some(format!("{file}: it does not hold yet")),
        Duration::ZERO => Some(format!("{file}: it has ended: put another one there")),
        left if left < NEAR.min(life / 10) => {
            let hours = left.as_secs() / 3600;
            Some(format!("{file}: it ends in {hours} hours: put another one there"))
        }
        _ => None,
    }
}

/// A certificate that has less than this, or than a tenth of its life, should have been renewed.
const NEAR: Duration = Duration::from_secs(7 * 86_400);

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

type Stamp = Vec<(PathBuf, Option<SystemTime>, u64, i64)>;

fn stamp(folder: &Path) -> Stamp {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut all: Stamp = entries
        .filter_map(|entry| {
            let about = fs::metadata(entry.path()).ok()?;
            Some((
                entry.path(),
                about.modified().ok(),
                about.len(),
                about.ctime_nsec() ^ about.ctime(),
            ))
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
struct Loaded {
    config: Option<Arc<ServerConfig>>,
    problems: Vec<String>,
    ends: Vec<End>,
}

/// The files that should hold certificates.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.take(FILES_MAX).flatten();
    let is = |path: &PathBuf| path.extension().is_some_and(|end| end == "pem" || end == "crt");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is).collect();
    files.sort();
    Ok(files)
}

/// The certificates of a directory, each with its end or with why it has none.
pub(super) fn listed(folder: &Path) -> Vec<(PathBuf, Result<End, String>)> {
    let end = |file: PathBuf| {
        let leaf = CertificateDer::pem_file_iter(&file)
            .map_err(|error| error.to_string())
            .and_then(|mut all| all.next().ok_or_else(|| "no certificate in it".to_owned()))
            .and_then(|leaf| leaf.map_err(|error| error.to_string()));
        let end = leaf.and_then(|leaf| end_of(&file, &leaf));
        (file, end)
    };
    files(folder).unwrap_or_default().into_iter().map(end).collect()
}

fn load(folder: &Path) -> io::Result<Loaded> {
    let mut all = ByName::default();
    let (mut problems, mut ends) = (Vec::new(), Vec::new());
    for file in &files(folder)? {
        // The key is in the file itself, or beside it.
        let beside = file.with_extension("key");
        let key = if beside.exists() { &beside } else { file };
        match certified(file, key) {
            Ok((certified, end)) => {
                ends.push(end.clone());
                let names = end.names;
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
        return Ok(Loaded { config: None, problems, ends });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(all));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Loaded { config: Some(Arc::new(config)), problems, ends })
}

fn certified(file: &Path, key: &Path) -> Result<(Arc<CertifiedKey>, End), String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?.collect();
    let chain = chain.map_err(|error| error.to_string())?;
    let leaf = chain.first().ok_or("no certificate in it")?;
    let end = end_of(file, leaf)?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("its key ({}): {error}", key.display()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| format!("the key is not the certificate's: {error}"))?;
    Ok((Arc::new(certified), end))
}

/// The hosts that a certificate is for, and its time.
fn end_of(file: &Path, leaf: &CertificateDer<'_>) -> Result<End, String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|error| error.to_string())?;
    let extension = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
    let all = extension.map(|extension| extension.value.general_names.as_slice());
    let names = all.unwrap_or_default().iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let at = |time: x509_parser::time::ASN1Time| {
        Wall(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
    };
    let validity = parsed.validity();
    Ok(End {
        file: file.to_owned(),
        names: names.collect(),
        serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        begins: at(validity.not_before),
        ends: at(validity.not_after),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that could not be read becomes readable without another byte in it.
    #[test]
    fn a_mended_mode_is_another_state_of_the_directory() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.key");
        fs::write(&file, "key").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let before = stamp(folder.path());
        // The clock of files is coarse.
        while stamp(folder.path()) == before {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        }
    }

    #[test]
    fn a_certificate_that_should_have_been_renewed_is_a_problem() {
        let day = Duration::from_secs(86_400);
        let begins = Wall(1_000_000_000);
        let of = |days: u32| End {
            file: "one.crt".into(),
            names: Vec::new(),
            serial: String::new(),
            begins,
            ends: begins.after(day * days),
        };
        let said = |days, at: Duration| near(&of(days), begins.after(at)).unwrap_or_default();
        assert_eq!(said(90, day * 60), "");
        assert!(said(90, day * 84).contains("ends in 144 hours"));
        assert!(said(90, day * 90).contains("has ended"));
        // One of six days has its own pace.
        assert_eq!(said(6, day * 5), "");
        assert!(said(6, day * 5 + day / 2).contains("ends in 12 hours"));
        assert!(near(&of(6), Wall(0)).unwrap().contains("not hold yet"));
    }
}
