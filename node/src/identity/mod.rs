//! Identity: how a host becomes a member and stays one.
//!
//! [`init`] makes a mesh, [`issuer`] admits nodes where an issuer's key is, [`desk`] decides
//! about requests that come over the wire and [`serve`] carries them, [`client`] is the other
//! side: joining and renewing. [`files`] says what lies where.
//!
//! Never: sends a secret, writes half a file, counts a token's use after it was honoured.

pub mod backup;
pub mod client;
pub mod desk;
pub mod files;
pub mod init;
pub mod issuer;
pub mod operator;
pub mod serve;

#[cfg(test)]
mod tests;

pub use backup::{Backup, BackupError};
pub use client::{JoinError, Joined, RenewError, join, renew, renew_at, renew_own};
pub use desk::{Member, Situation};
pub use files::Files;
pub use init::{Init, InitError, InitOptions, init};
pub use issuer::{IssuerError, IssuingHost, TokenScope};
pub use operator::{OperatorError, RootKey};
pub use serve::{Desk, NO_ISSUER, Relay, Told, serve, serve_relayed};
