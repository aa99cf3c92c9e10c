//! Paths of the API: each takes its request apart and asks [`AgentApi`].
//!
//! | path | |
//! | --- | --- |
//! | `GET /healthz`, `GET /metrics` | for monitors |
//! | `GET /v1/status`, `members`, `services`, `services/NAME`, `links`, `certs`, `listeners` | what the agent knows |
//! | `GET /v1/documents[?kind=]`, `GET /v1/describe?kind=&namespace=&name=` | documents held |
//! | `POST /v1/apply`, `delete`, `validate`, `diff` | documents |
//! | `POST /v1/prepare`, `GET /v1/policy`, `backup`, `edges`, `POST /v1/why`, `routes` | what is signed, who holds it, who calls whom |
//! | `POST /v1/revoke/plan`, `revoke`, `issuer`, `roots` | the end of a key; this host's issuer was made or renewed; a further root |
//! | `POST /v1/bind/NAME`, `PUT /v1/checks` | a virtual address; a ttl check |
//! | `POST /v1/drain`, `maintenance`, `leave` | this host's life |
//! | `POST`, `GET /v1/tokens`, `DELETE /v1/tokens/ID`, `POST /v1/admit` | admission |
//! | `GET`, `PUT /v1/log-level` | the log |

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use skein_protocol::limits;

use super::{
    AgentApi, ApiError, ApiErrorKind, Reply,
    dto::{
        AdmitRequest, CheckUpdate, DeleteRequest, DocumentName, Documents, DrainRequest, ErrorBody,
        ErrorEnvelope, LeaveRequest, LogLevel, MaintenanceRequest, PrepareRequest,
        RevokePlanRequest, RevokeRequest, RootsRequest, RoutesRequest, TokenRequest, WhyRequest,
    },
};

type Api = State<Arc<dyn AgentApi>>;

/// All paths.
pub fn router(api: Arc<dyn AgentApi>) -> Router {
    Router::new()
        .merge(reads())
        .merge(writes())
        .fallback(async || ApiError::not_found("no such path; see `skein help`").into_response())
        .method_not_allowed_fallback(async || {
            let text = "this path takes another method";
            respond_error(StatusCode::METHOD_NOT_ALLOWED, ApiError::not_found(text))
        })
        .layer(DefaultBodyLimit::max(limits::API_BODY_BYTES))
        .with_state(api)
}

fn reads() -> Router<Arc<dyn AgentApi>> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(async |api: Api| json(api.status()).await))
        .route("/v1/members", get(async |api: Api| json(api.members()).await))
        .route("/v1/services", get(async |api: Api| json(api.services()).await))
        .route(
            "/v1/services/{*name}",
            get(async |api: Api, Path(name): Path<String>| json(api.service(name)).await),
        )
        .route("/v1/links", get(async |api: Api| json(api.links()).await))
        .route("/v1/certs", get(async |api: Api| json(api.certs()).await))
        .route("/v1/policy", get(async |api: Api| json(api.policy()).await))
        .route("/v1/backup", get(async |api: Api| json(api.backup()).await))
        .route("/v1/edges", get(async |api: Api| json(api.edges()).await))
        .route("/v1/listeners", get(async |api: Api| json(api.listeners()).await))
        .route(
            "/v1/documents",
            get(async |api: Api, Query(q): Query<OfKind>| json(api.documents(q.kind)).await),
        )
        .route(
            "/v1/describe",
            get(async |api: Api, Query(q): Query<DocumentName>| json(api.describe(q)).await),
        )
}

fn writes() -> Router<Arc<dyn AgentApi>> {
    Router::new()
        .route(
            "/v1/apply",
            post(async |api: Api, b: JsonBody<Documents>| json(api.apply(b.0)).await),
        )
        .route(
            "/v1/delete",
            post(async |api: Api, b: JsonBody<DeleteRequest>| json(api.delete(b.0)).await),
        )
        .route(
            "/v1/validate",
            post(async |api: Api, b: JsonBody<Documents>| json(api.validate(b.0)).await),
        )
        .route("/v1/diff", post(async |api: Api, b: JsonBody<Documents>| json(api.diff(b.0)).await))
        .route(
            "/v1/prepare",
            post(async |api: Api, b: JsonBody<PrepareRequest>| json(api.prepare(b.0)).await),
        )
        .route(
            "/v1/revoke/plan",
            post(async |api: Api, b: JsonBody<RevokePlanRequest>| json(api.revoke_plan(b.0)).await),
        )
        .route(
            "/v1/revoke",
            post(async |api: Api, b: JsonBody<RevokeRequest>| json(api.revoke(b.0)).await),
        )
        .route(
            "/v1/roots",
            post(async |api: Api, b: JsonBody<RootsRequest>| json(api.roots(b.0)).await),
        )
        .route("/v1/issuer", post(async |api: Api| json(api.reload_issuer()).await))
        .route(
            "/v1/routes",
            post(async |api: Api, b: JsonBody<RoutesRequest>| json(api.routes(b.0)).await),
        )
        .route("/v1/why", post(async |api: Api, b: JsonBody<WhyRequest>| json(api.why(b.0)).await))
        .route(
            "/v1/bind/{*name}",
            post(async |api: Api, Path(name): Path<String>| json(api.bind(name)).await),
        )
        .route(
            "/v1/checks",
            put(async |api: Api, b: JsonBody<CheckUpdate>| json(api.check_update(b.0)).await),
        )
        .route(
            "/v1/drain",
            post(async |api: Api, b: JsonBody<DrainRequest>| json(api.drain(b.0)).await),
        )
        .route(
            "/v1/maintenance",
            post(async |api: Api, b: JsonBody<MaintenanceRequest>| {
                json(api.maintenance(b.0)).await
            }),
        )
        .route(
            "/v1/leave",
            post(async |api: Api, b: JsonBody<LeaveRequest>| json(api.leave(b.0)).await),
        )
        .route(
            "/v1/tokens",
            post(async |api: Api, b: JsonBody<TokenRequest>| json(api.token_create(b.0)).await)
                .get(async |api: Api| json(api.token_list()).await),
        )
        .route(
            "/v1/tokens/{id}",
            delete(async |api: Api, Path(id): Path<String>| json(api.token_revoke(id)).await),
        )
        .route(
            "/v1/admit",
            post(async |api: Api, b: JsonBody<AdmitRequest>| json(api.admit(b.0)).await),
        )
        .route(
            "/v1/log-level",
            put(async |api: Api, b: JsonBody<LogLevel>| json(api.set_log_level(b.0)).await)
                .get(async |api: Api| json(api.log_level()).await),
        )
}

#[derive(Deserialize)]
struct OfKind {
    kind: Option<String>,
}

/// 200 while the agent answers for itself, degraded or not; 503 when it does not.
async fn healthz(api: Api) -> Response {
    match api.status().await {
        Ok(status) => (StatusCode::OK, format!("{}\n", status.node.state)).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn metrics(api: Api) -> Response {
    match api.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn json<T: Serialize>(reply: Reply<'_, T>) -> Response {
    match reply.await {
        Ok(value) => Json(value).into_response(),
        Err(error) => error.into_response(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status());
        respond_error(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), self)
    }
}

fn respond_error(status: StatusCode, error: ApiError) -> Response {
    let body = ErrorBody {
        kind: error.kind.word().to_owned(),
        text: error.text,
        fix: error.fix,
        faults: error.faults,
    };
    (status, Json(ErrorEnvelope { error: body })).into_response()
}

/// A body that says itself that it is above the limit.
pub(super) fn too_long() -> Response {
    let text = format!("the request's body is longer than {} bytes", limits::API_BODY_BYTES);
    let error = ApiError::new(ApiErrorKind::Invalid, text);
    respond_error(StatusCode::PAYLOAD_TOO_LARGE, error)
}

/// A JSON body. What is wrong with it is answered as every other refusal is.
struct JsonBody<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request<Body>, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => {
                let error = ApiError::new(ApiErrorKind::Invalid, rejection.body_text());
                Err(respond_error(rejection.status(), error))
            }
        }
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
