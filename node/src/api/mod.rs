//! The agent's API: what the command line and scripts may ask of a running agent.
//!
//! [`AgentApi`] is the whole of it, implemented by the agent; [`server`] offers it on
//! `<dir>/agent.sock` and on the HTTP port. Who may read and write is decided in [`guard`] alone,
//! before a handler runs: the agent's side is never asked about callers.

pub mod dto;
pub mod guard;
pub mod routes;
pub mod server;
pub mod socket;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::{future::Future, pin::Pin};

use skein_protocol::words;

use dto::{
    AdmitRequest, Admitted, ApplyReport, BackupReport, BindReport, Certificate, CheckUpdate,
    DeleteRequest, DiffReport, Document, DocumentDetail, DocumentName, Documents, DrainReport,
    DrainRequest, EdgesReport, Fault, LeaveReport, LeaveRequest, Link, Listener, LogLevel,
    MaintenanceReport, MaintenanceRequest, Member, PolicyReport, PrepareRequest, Prepared,
    RevokePlan, RevokePlanRequest, RevokeReport, RevokeRequest, RootsReport, RootsRequest,
    RoutesReport, RoutesRequest, ServiceDetail, ServiceSummary, Status, TokenCreated, TokenInfo,
    TokenRequest, TokenRevoked, ValidateReport, WhyReport, WhyRequest,
};

/// What an [`AgentApi`] method gives back.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// What kind of refusal it is: one per decision that a caller can make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApiErrorKind {
    /// The request itself is wrong: bad documents, a name that is none.
    Invalid,
    /// Nothing of that name is known.
    NotFound,
    /// It is owned by something else, for example by a file.
    Conflict,
    /// The caller may not.
    Denied,
    /// Not now: starting, draining, no issuer here, the disk is full.
    Unavailable,
    /// A bug of ours.
    Internal,
}

impl ApiErrorKind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Invalid,
        Self::NotFound,
        Self::Conflict,
        Self::Denied,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The word in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 422,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Denied => 403,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
}

/// A refusal that says what, where, why, and what to do next.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct ApiError {
    /// What kind.
    pub kind: ApiErrorKind,
    /// What, where, why.
    pub text: String,
    /// The next command; may be empty.
    pub fix: String,
    /// Faults in documents, all of them.
    pub faults: Vec<Fault>,
}

impl ApiError {
    /// A refusal of a kind.
    pub fn new(kind: ApiErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), fix: String::new(), faults: Vec::new() }
    }

    /// The same, with the next command.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// Documents with faults. None of them was taken.
    pub fn faults(faults: Vec<Fault>) -> Self {
        let count = faults.iter().filter(|f| f.severity != "warning").count();
        let count = words::count(count, "fault", "faults");
        let text = format!("{count} in the documents; nothing was changed");
        Self { faults, ..Self::new(ApiErrorKind::Invalid, text) }
    }

    /// Nothing of that name is known.
    pub fn not_found(text: impl Into<String>) -> Self {
        Self::new(ApiErrorKind::NotFound, text)
    }

    /// Not now.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::new(ApiErrorKind::Unavailable, text)
    }
}

/// What a running agent answers. Every method is bounded in time by the server
/// ([`skein_protocol::limits::API_REQUEST_TIMEOUT`]); a method dropped half way must leave no
/// half-done write.
pub trait AgentApi: Send + Sync + 'static {
    /// How this agent and its mesh are.
    fn status(&self) -> Reply<'_, Status>;
    /// Every node known, sorted by name.
    fn members(&self) -> Reply<'_, Vec<Member>>;
    /// Every service known, sorted by namespace and name.
    fn services(&self) -> Reply<'_, Vec<ServiceSummary>>;
    /// One service. `name` is `namespace/name`, or a short name in the host's namespace.
    fn service(&self, name: String) -> Reply<'_, ServiceDetail>;
    /// Binds a service's virtual address on this host, if it is not yet.
    fn bind(&self, name: String) -> Reply<'_, BindReport>;
    /// Connections to other agents, sorted by peer and role.
    fn links(&self) -> Reply<'_, Vec<Link>>;
    /// Certificates in use and trusted.
    fn certs(&self) -> Reply<'_, Vec<Certificate>>;
    /// Where this host listens, virtual addresses too.
    fn listeners(&self) -> Reply<'_, Vec<Listener>>;

    /// Documents held, all or of one kind, sorted by kind, namespace, name.
    fn documents(&self, kind: Option<String>) -> Reply<'_, Vec<Document>>;
    /// One document and what became of it.
    fn describe(&self, document: DocumentName) -> Reply<'_, DocumentDetail>;
    /// Takes documents, all or none. Faults are [`ApiError::faults`].
    fn apply(&self, documents: Documents) -> Reply<'_, ApplyReport>;
    /// Deletes documents, all or none.
    fn delete(&self, request: DeleteRequest) -> Reply<'_, ApplyReport>;
    /// Checks documents against this host, changes nothing. Faults are in the report.
    fn validate(&self, documents: Documents) -> Reply<'_, ValidateReport>;
    /// Compares documents with what is held. Faults are [`ApiError::faults`].
    fn diff(&self, documents: Documents) -> Reply<'_, DiffReport>;
    /// What an operator is to sign, and what it would cut.
    fn prepare(&self, request: PrepareRequest) -> Reply<'_, Prepared>;
    /// Which nodes hold which policy, as each says now.
    fn policy(&self) -> Reply<'_, PolicyReport>;
    /// Who calls whom, mesh-wide.
    fn edges(&self) -> Reply<'_, EdgesReport>;
    /// Trusts a further root, and says who does.
    fn roots(&self, request: RootsRequest) -> Reply<'_, RootsReport>;
    /// The issuer's files of this host have changed.
    fn reload_issuer(&self) -> Reply<'_, ()>;
    /// What the end of a key would do.
    fn revoke_plan(&self, asked: RevokePlanRequest) -> Reply<'_, RevokePlan>;
    /// Takes a signed statement that a key has ended.
    fn revoke(&self, request: RevokeRequest) -> Reply<'_, RevokeReport>;
    /// What a backup holds of the mesh.
    fn backup(&self) -> Reply<'_, BackupReport>;
    /// How a call would go, step by step.
    fn why(&self, asked: WhyRequest) -> Reply<'_, WhyReport>;
    /// What traffic rules make of calls to a service.
    fn routes(&self, asked: RoutesRequest) -> Reply<'_, RoutesReport>;
    /// The state of an instance with a ttl check.
    fn check_update(&self, update: CheckUpdate) -> Reply<'_, ()>;

    /// No new calls here, live ones finish.
    fn drain(&self, request: DrainRequest) -> Reply<'_, DrainReport>;
    /// Sets instances aside, or takes them back.
    fn maintenance(&self, request: MaintenanceRequest) -> Reply<'_, MaintenanceReport>;
    /// Drains, tells the others, answers, and then ends the agent.
    fn leave(&self, request: LeaveRequest) -> Reply<'_, LeaveReport>;

    /// Makes a join token, where an issuer key is.
    fn token_create(&self, request: TokenRequest) -> Reply<'_, TokenCreated>;
    /// Tokens of all issuers, as their records tell.
    fn token_list(&self) -> Reply<'_, Vec<TokenInfo>>;
    /// Ends a token that this host's issuer made.
    fn token_revoke(&self, id: String) -> Reply<'_, TokenRevoked>;
    /// Certifies a key without a token, where an issuer key is.
    fn admit(&self, request: AdmitRequest) -> Reply<'_, Admitted>;

    /// The filter of the log.
    fn log_level(&self) -> Reply<'_, LogLevel>;
    /// Sets the filter of the log until the agent ends.
    fn set_log_level(&self, level: LogLevel) -> Reply<'_, LogLevel>;
    /// Metrics in the text format of OpenMetrics.
    fn metrics(&self) -> Reply<'_, String>;
}
