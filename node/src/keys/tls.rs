//! The rustls configurations: TLS 1.3, Ed25519, X25519, no resumption, no early data.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};
use skein_protocol::trust::admit::Alpn;

use super::{
    credentials::Credentials,
    verify::{Clients, Expect, Reject, Server},
};

/// aws-lc-rs cut down to what two agents need of each other: three suites of TLS 1.3, X25519
/// (a post-quantum share of 1.1 KB would not leave the server's flight its room), Ed25519.
pub(super) fn provider() -> Option<Arc<CryptoProvider>> {
    let full = aws_lc_rs::default_provider();
    let mapping = full.signature_verification_algorithms.mapping;
    let ed25519 = mapping.iter().position(|(scheme, _)| *scheme == SignatureScheme::ED25519)?;
    let mapping = mapping.get(ed25519..)?.get(..1)?;
    let (_, all) = mapping.first()?;
    Some(Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        signature_verification_algorithms: WebPkiSupportedAlgorithms { all, mapping },
        ..full
    }))
}

/// The server's side, for all three protocols. Without a chain every handshake is refused.
pub fn server(credentials: &Arc<Credentials>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(credentials.provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(Clients(Arc::clone(credentials))))
        .with_cert_resolver(Arc::new(Shown(Arc::clone(credentials))));
    config.alpn_protocols = Alpn::ALL.map(|alpn| alpn.name().to_vec()).into();
    // A resumed session never calls the verifier, and rustls sends two tickets unless told so.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's side of one dial. `why` is set when the server is refused.
pub fn client(
    credentials: &Arc<Credentials>,
    alpn: Alpn,
    expect: Expect,
    why: &Arc<OnceLock<Reject>>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = Server { credentials: Arc::clone(credentials), expect, why: Arc::clone(why) };
    let mut config = ClientConfig::builder_with_provider(credentials.provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Offered {
            credentials: Arc::clone(credentials),
            bare: alpn == Alpn::Join,
        }));
    config.alpn_protocols = vec![alpn.name().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

/// What this agent shows as a server: the root too when the client joins.
#[derive(Debug)]
struct Shown(Arc<Credentials>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = self.0.own()?;
        let joining = hello.alpn()?.any(|name| name == Alpn::Join.name());
        Some(Arc::clone(if joining { &own.whole } else { &own.member }))
    }
}

/// What this agent shows as a client: its chain, or when it joins its key alone.
#[derive(Debug)]
struct Offered {
    credentials: Arc<Credentials>,
    bare: bool,
}

impl ResolvesClientCert for Offered {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if self.bare {
            return Some(self.credentials.bare_certificate());
        }
        let own = self.credentials.own()?;
        Some(Arc::clone(&own.member))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
