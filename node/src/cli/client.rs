//! Asks the local agent over its socket, one request per connection.
//!
//! [`Client`] owns a small runtime, so that commands stay plain functions; [`Caller`] is for those
//! who have one already.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::{Method, Request, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use skein_protocol::limits;
use tokio::{net::UnixStream, runtime::Runtime};

use super::exit::CliError;
use crate::api::{
    dto::ErrorEnvelope,
    socket::{self, GROUP},
};

/// A blocking client of the agent whose directory is given.
#[derive(Debug)]
pub struct Client {
    caller: Caller,
    runtime: Runtime,
}

/// Asks the agent whose directory is given.
#[derive(Clone, Debug)]
pub struct Caller {
    dir: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client. Nothing is opened until it asks.
    pub fn new(dir: &Path) -> Result<Self, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| CliError::failed(format!("cannot start: {e}")))?;
        Ok(Self { caller: Caller::new(dir, limits::API_REQUEST_TIMEOUT), runtime })
    }

    /// The same, giving up after `timeout`.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.caller.timeout = timeout;
        self
    }

    /// Whether an agent runs here, also one that this user may not talk to.
    pub fn runs(&self) -> bool {
        let path = socket::path(&self.caller.dir);
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        }
    }

    /// `GET`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::GET, path, &())
    }

    /// `POST` of a JSON body.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.ask(Method::POST, path, body)
    }

    /// `PUT` of a JSON body.
    pub fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.ask(Method::PUT, path, body)
    }

    /// `DELETE`.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.ask(Method::DELETE, path, &())
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        self.runtime.block_on(self.caller.ask(method, path, body))
    }
}

impl Caller {
    /// A caller that gives up after `timeout`.
    pub fn new(dir: &Path, timeout: Duration) -> Self {
        Self { dir: dir.to_owned(), timeout }
    }

    /// One request, one answer.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = match method {
            Method::GET | Method::DELETE => Vec::new(),
            _ => serde_json::to_vec(body).map_err(|e| CliError::failed(e.to_string()))?,
        };
        let exchange = self.exchange(method, path, body);
        let timed = tokio::time::timeout(self.timeout, exchange).await;
        let (status, bytes) = timed.map_err(|_| {
            let text = format!("the agent did not answer within {:?}", self.timeout);
            CliError::failed(text).fix("look at the agent's log: journalctl -u skein")
        })??;
        if status < 300 {
            return serde_json::from_slice(&bytes).map_err(|e| {
                CliError::failed(format!("the agent's answer is not understood: {e}"))
            });
        }
        match serde_json::from_slice::<ErrorEnvelope>(&bytes) {
            Ok(envelope) => Err(envelope.error.into()),
            Err(_) => Err(CliError::failed(format!("the agent answered status {status}"))),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(u16, Bytes), CliError> {
        let socket = socket::path(&self.dir);
        let stream = UnixStream::connect(&socket).await.map_err(|e| self.not_open(&e))?;
        let lost = |e: &dyn std::fmt::Display| {
            CliError::failed(format!("{}: the agent hung up: {e}", socket.display()))
                .fix("look at the agent's log: journalctl -u skein")
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| CliError::usage(format!("`{path}`: {e}")))?;
        let answer = async move {
            let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), limits::API_ANSWER_BYTES);
            let body = body.collect().await.map_err(|e| lost(&e))?;
            Ok((status, body.to_bytes()))
        };
        let (answer, _) = tokio::join!(answer, async {
            // The connection ends when the sender is dropped or the agent closes it; its error
            // shows in the answer.
            let _ = connection.await;
        });
        answer
    }

    /// Why the socket does not open, and what to do.
    fn not_open(&self, error: &io::Error) -> CliError {
        let socket = socket::path(&self.dir);
        let at = socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let text = format!("{at}: this user may not talk to the agent");
                let fix = match socket::group_id() {
                    Some(_) => format!("sudo usermod -aG {GROUP} $USER, then log in again"),
                    None => "run it as the agent's user, for example with sudo".to_owned(),
                };
                CliError::failed(text).fix(fix)
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let text = format!("no agent is running here ({at}: {error})");
                let fix = format!(
                    "skein agent --dir {0}, or name the right directory with --dir or SKEIN_DIR",
                    self.dir.display()
                );
                CliError::failed(text).fix(fix)
            }
            _ => CliError::failed(format!("{at}: {error}")),
        }
    }
}
