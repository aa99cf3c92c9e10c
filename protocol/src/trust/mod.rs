//! Trust: from a certificate chain to what a peer may do. Pure.
//!
//! Never: reads a clock, fetches anything, trusts a date where an order is asked for.

pub mod certificate;
pub mod crypto;
pub mod grant;

pub use certificate::{Chain, ChainClass, ChainError, Roots, VerifiedChain, verify_chain};
pub use crypto::{Crypto, PublicKey, Signature, Signer};
pub use grant::{Grant, Role};
