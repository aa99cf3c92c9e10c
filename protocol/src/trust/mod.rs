//! Trust: from a certificate chain to what a peer may do. Pure.
//!
//! Never: reads a clock, fetches anything, trusts a date where an order is asked for.
//!
//! [`issue`] makes certificates, [`certificate`] verifies them and takes [`grant`] and
//! [`operator`] scope out of them, [`revocation`] and [`revoked`]
//! end them, [`root`] lets a new root follow on
//! an old one. [`token`] and [`join`] are how a host gets its first certificate, [`admit`] is
//! who may speak what on a connection.

pub mod admit;
pub mod certificate;
pub mod crypto;
mod der;
pub mod grant;
pub mod issue;
pub mod join;
pub mod operator;
pub mod revocation;
pub mod revoked;
pub mod root;
mod signed;
pub mod token;
mod x509;

#[cfg(test)]
mod certificate_tests;
#[cfg(test)]
mod revocation_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod token_tests;

pub use admit::CloseCode;
pub use certificate::{
    Chain, ChainClass, ChainError, Roots, VerifiedChain, VerifiedIssuer, verify_chain,
    verify_issuer,
};
pub use crypto::{Crypto, PublicKey, Signature, Signer};
pub use grant::{Grant, Role};
pub use revoked::{Revocations, Revoked};
pub use root::RootChain;
pub use x509::key_info;
