//! Routing: which endpoint a call goes to, and what its outcome means for the next.
//!
//! ```text
//! view + Ask{service, port, subset, tried} -> filter -> rank -> tier -> balance -> Choice
//! Outcome -> latency, ejection, rest -> the next choice
//! ```
//!
//! In:    a [`view::ServiceView`](crate::view::ServiceView), `Now`, a seeded rng, outcomes.
//! Out:   a [`Choice`], or a [`NoRoute`] that says why not and what to do.
//! Never: picks what the view rules out, picks one endpoint twice for one call, leaves out more
//!        than half of a service for failures, leaves out the last.

pub mod balance;
pub mod choose;
pub mod eject;
pub mod ewma;
pub mod limit;
pub mod locality;
pub mod reason;
pub mod rendezvous;
pub mod retry;
pub mod subset;
pub mod tuning;

pub use balance::{Algorithm, Balancer, EndpointState, Outcome};
pub use choose::{Ask, Choice, PortRef, Tried};
pub use locality::Tier;
pub use reason::{CloseReason, NoRoute};
pub use subset::{ImagePattern, Subset, ZonePattern};
pub use tuning::{Eject, Spill, Tuning};
