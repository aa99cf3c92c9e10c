//! Who: as what a local caller's connection counts, and whether it may come in at all.
//!
//! The kernel is asked only where a document says something of processes, once for each
//! connection, before anything of it is carried. What it does not prove is not believed.

use std::{net::SocketAddr, sync::Arc};

use skein_protocol::{caller::Caller, wire::stream::Source};

use super::{ListenerSpec, Proxy, Socket};
use crate::link::mux::BoxFuture;

/// A connection of a local caller, as this agent's end of it shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// TCP.
    Tcp {
        /// The caller's address.
        caller: SocketAddr,
        /// What the caller dialled.
        called: SocketAddr,
    },
    /// TCP that a redirect of the kernel stands in the way of: neither end shows here as the
    /// caller has it.
    Redirected {
        /// The caller's address, its port perhaps mapped.
        seen: SocketAddr,
        /// Where the kernel sent it.
        own: SocketAddr,
    },
    /// A unix socket.
    Unix {
        /// The user at the other end.
        uid: u32,
        /// The process at the other end; `None`: of another namespace.
        process: Option<i32>,
        /// The number of this end's socket.
        socket: u64,
    },
}

/// Tells who local callers are.
pub trait Identify: Send + Sync {
    /// The process at the other end, its unit only if `unit` says so. The error is for people.
    fn identify(&self, arrival: Arrival, unit: bool) -> BoxFuture<'_, Result<Caller, String>>;
}

/// Knows nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Identify for Nobody {
    fn identify(&self, _: Arrival, _: bool) -> BoxFuture<'_, Result<Caller, String>> {
        Box::pin(async { Err("nobody is known here".to_owned()) })
    }
}

/// As what a connection counts.
pub(super) struct Standing {
    pub(super) source: Source,
    /// Why it counts as no more than that; may be empty.
    pub(super) note: String,
}

impl Proxy {
    /// As what a connection counts that came in by a listener. The error says why it may not, and
    /// what to do.
    pub(super) async fn standing(
        &self,
        socket: &Socket,
        arrival: impl FnOnce(&Socket) -> Option<Arrival>,
        spec: &ListenerSpec,
    ) -> Result<Standing, String> {
        let (allow, said) = (spec.terms.allow.as_ref(), spec.terms.source.clone());
        let local = Arc::clone(&self.parts.local.borrow());
        let workloads = &local.workloads;
        let proves = said == Source::Node && !workloads.is_empty();
        if allow.is_none() && !proves {
            return Ok(Standing { source: said, note: String::new() });
        }
        let unit = allow.is_some_and(|allow| allow.ask_unit()) || (proves && workloads.ask_unit());
        let caller = match arrival(socket) {
            Some(arrival) => self.parts.identify.identify(arrival, unit).await,
            None => Err("its address is not known".to_owned()),
        };
        let caller = caller.as_ref().map_err(String::as_str);
        if let Some(allow) = allow {
            let document = spec.terms.document.as_deref().unwrap_or(&spec.name);
            allow.admit(caller, document)?;
        }
        if !proves {
            return Ok(Standing { source: said, note: String::new() });
        }
        Ok(match workloads.service(caller, &local.me.grant) {
            Ok(service) => Standing { source: Source::Service(service), note: String::new() },
            Err(note) => Standing { source: Source::Node, note },
        })
    }
}
