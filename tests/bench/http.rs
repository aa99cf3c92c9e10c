//! A skein agent's API over its socket: one connection that stays open, as Serf's RPC has.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
    header,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{net::UnixStream, task::JoinSet, time::timeout};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What the agent answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    body: Bytes,
}

impl Answer {
    /// What it says, where it must be a success.
    pub(crate) fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        if self.status != 200 {
            bail!("{path}: {} {}", self.status, String::from_utf8_lossy(&self.body));
        }
        Ok(serde_json::from_slice(&self.body)?)
    }
}

/// The way to one agent.
#[derive(Debug)]
pub(crate) struct Http {
    socket: PathBuf,
    sender: Option<SendRequest<Full<Bytes>>>,
    connection: JoinSet<()>,
}

impl Http {
    /// Nothing is opened before something is asked.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, sender: None, connection: JoinSet::new() }
    }

    /// Another way to the same agent.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.socket.clone())
    }

    /// One request. A connection that was idle may be closed under it: a read is then made again.
    pub(crate) async fn ask(&mut self, method: Method, path: &str, body: Value) -> Result<Answer> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body)? };
        let body = Bytes::from(body);
        let kept = self.sender.as_ref().is_some_and(|sender| !sender.is_closed());
        if !kept {
            self.connect().await?;
        }
        let first = self.within(method.clone(), path, body.clone()).await;
        if first.is_ok() || !kept || method != Method::GET {
            return first;
        }
        self.connect().await?;
        self.within(method, path, body).await
    }

    async fn within(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let exchange = timeout(ANSWER, self.exchange(method, path, body)).await;
        let answer = exchange.with_context(|| format!("{path}: no answer")).flatten();
        if answer.is_err() {
            // Its answer may come yet.
            self.sender = None;
        }
        answer
    }

    async fn connect(&mut self) -> Result<()> {
        self.connection.abort_all();
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        self.connection.spawn(async move {
            // Its error shows where something is asked.
            let _ = connection.await;
        });
        self.sender = Some(sender);
        Ok(())
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let sender = self.sender.as_mut().ok_or_else(|| anyhow!("no connection"))?;
        sender.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, body })
    }
}
