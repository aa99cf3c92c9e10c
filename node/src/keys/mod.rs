//! Keys: this host's key and certificates, on disk and in TLS handshakes.
//!
//! [`pair`] is Ed25519 itself, [`file`] how keys and certificates lie on disk, [`verify`] what
//! a peer's certificates prove, [`credentials`] what this agent shows and trusts, swapped while
//! it runs, and [`tls`] the rustls configurations made of them.
//!
//! Never: installs a global crypto provider, resumes a session, speaks anything but TLS 1.3
//! with Ed25519.

pub mod credentials;
pub mod file;
pub mod pair;
pub mod pem;
pub mod tls;
pub mod verify;

#[cfg(test)]
pub(crate) mod testing;

pub use credentials::{Credentials, Trust};
pub use pair::{Ed25519, KeyPair};
pub use verify::{Expect, Identity, Reject};
