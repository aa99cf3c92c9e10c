//! Converse: a request to one endpoint, and the begin of its answer.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use skein_protocol::{
    http::header::ATTEMPT,
    manifest::traffic::{Retry as RetryRule, RetryOn},
    route::CloseReason,
    wire::exchange::{self, Failed, Failure, FrameKind, RequestHead, ResponseHead},
};
use tokio::{
    runtime::Handle,
    sync::{Mutex as AsyncMutex, mpsc},
    time::timeout,
};

use super::{
    frames::{self, Reader},
    head,
    upload::{self, Piece, Sending, Stuck, Up, Upload, Upward},
};
use crate::{link::mux::StreamPair, proxy::copy};

/// A request's body.
pub(super) enum Body {
    /// There is none.
    None,
    /// It comes from the client, and may be sent again as far as it is kept.
    Client(Arc<AsyncMutex<Upload>>),
    /// It is a copy, which is sent once.
    Copy(Mutex<Option<mpsc::Receiver<Piece>>>),
}

/// A request on its way out.
pub(in crate::proxy) struct Outgoing {
    pub(super) head: RequestHead,
    pub(super) body: Body,
    /// Which try this is of an agent before this one.
    pub(super) attempt: u8,
    /// Where a body goes on that is longer than the wait for its answer.
    pub(super) runtime: Handle,
}

/// The begin of an answer.
pub(in crate::proxy) struct Answer {
    pub(super) head: ResponseHead,
    pub(super) reader: Reader,
    pub(super) up: Up,
}

/// Why an endpoint that took a request gave no answer.
#[derive(Debug)]
pub(in crate::proxy) enum Fallen {
    /// The client itself ended it.
    Client(String),
    /// The endpoint did not answer.
    Endpoint {
        /// The word for the log.
        reason: CloseReason,
        /// For people.
        detail: String,
        /// As what it counts for a retry.
        after: RetryOn,
    },
}

impl Fallen {
    fn link(error: &io::Error) -> Self {
        Self::Endpoint {
            reason: copy::broken(error, CloseReason::EndpointReset),
            detail: format!("before an answer: {error}"),
            after: RetryOn::Reset,
        }
    }
}

impl Outgoing {
    /// Whether repeating it does no more than doing it once.
    pub(in crate::proxy) fn is_idempotent(&self) -> bool {
        !self.head.waits
    }

    /// Whether a second one may be sent while the first is out.
    pub(in crate::proxy) fn may_hedge(&self) -> bool {
        self.is_idempotent() && matches!(self.body, Body::None) && !self.head.upgrade
    }

    /// Whether another endpoint can have it, after one may have seen it. Not while its body is
    /// still on its way to one that has answered already.
    pub(in crate::proxy) fn again(&self) -> bool {
        match &self.body {
            Body::None => true,
            Body::Client(upload) => upload.try_lock().is_ok_and(|upload| upload.again()),
            Body::Copy(_) => false,
        }
    }

    /// Whether answers are worth another try at all: not of what is a try already.
    pub(in crate::proxy) fn is_first(&self) -> bool {
        self.attempt == 0
    }

    /// The frame that goes behind the stream head, for the try of that number from 0 on.
    pub(in crate::proxy) fn frame(&self, tried: u32) -> Result<Vec<u8>, exchange::FrameError> {
        let attempt = u32::from(self.attempt).saturating_add(tried);
        if attempt == 0 {
            return exchange::encode(FrameKind::Request, &self.head);
        }
        let mut again = self.head.clone();
        head::set(&mut again.headers, ATTEMPT, attempt.min(255).to_string());
        exchange::encode(FrameKind::Request, &again)
    }

    /// Behind the `ok` of an endpoint: the rest of the request, and its answer within `patience`.
    pub(in crate::proxy) async fn converse(
        &self,
        (send, recv): StreamPair,
        patience: Option<Duration>,
    ) -> Result<Answer, Fallen> {
        let (mut up, mut reader) = (Upward::new(send), Reader::new(recv));
        if self.head.waits {
            let told = async { frames::write_empty(up.half()?, FrameKind::Go).await };
            told.await.map_err(|error| Fallen::link(&error))?;
        }
        let answer = async {
            let sending = match &self.body {
                Body::None => {
                    let head = first(&mut reader).await?;
                    return Ok((head, Up::Whole(up)));
                }
                Body::Client(upload) => {
                    let upload = Arc::clone(upload).lock_owned().await;
                    let sending: Sending = Box::pin(async move {
                        let done = upload::send(upload, &mut up).await;
                        (up, done)
                    });
                    sending
                }
                Body::Copy(pieces) => {
                    let pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner).take();
                    Box::pin(async move {
                        let done = match pieces {
                            Some(pieces) => upload::send_copy(pieces, &mut up).await,
                            None => Err(io::Error::other("the copy is gone")),
                        };
                        (up, done.map_err(|_| Stuck::Endpoint))
                    })
                }
            };
            both(sending, &mut reader, &self.runtime).await
        };
        let answered = match patience {
            None => answer.await,
            Some(patience) => timeout(patience, answer).await.unwrap_or_else(|_| {
                Err(Fallen::Endpoint {
                    reason: CloseReason::Timeout,
                    detail: format!("no answer within {} ms", patience.as_millis()),
                    after: RetryOn::Timeout,
                })
            }),
        };
        let (head, up) = answered?;
        Ok(Answer { head, reader, up })
    }
}

/// Sends a body while the answer is waited for; what is not sent by then goes on by itself.
async fn both(
    mut sending: Sending,
    reader: &mut Reader,
    runtime: &Handle,
) -> Result<(ResponseHead, Up), Fallen> {
    tokio::select! {
        biased;
        (up, sent) = &mut sending => {
            if let Err(Stuck::Client(error)) = sent {
                return Err(Fallen::Client(error));
            }
            // An endpoint that reads no more may have answered all the same.
            Ok((first(reader).await?, Up::Whole(up)))
        }
        head = first(reader) => Ok((head?, upload::go_on(sending, runtime))),
    }
}

/// The head of the answer.
async fn first(reader: &mut Reader) -> Result<ResponseHead, Fallen> {
    let (kind, content) = reader.frame().await.map_err(|error| Fallen::link(&error))?;
    let wrong = |error: &dyn std::fmt::Display| Fallen::Endpoint {
        reason: CloseReason::LinkLost,
        detail: format!("the peer's answer: {error}"),
        after: RetryOn::Reset,
    };
    match kind {
        FrameKind::Response => exchange::response(&content).map_err(|error| wrong(&error)),
        FrameKind::Failed => {
            let Failed { failure, detail } =
                exchange::failed(&content).map_err(|error| wrong(&error))?;
            let reason = match failure {
                Failure::Reset => CloseReason::EndpointReset,
                Failure::Garbage => CloseReason::BadAnswer,
            };
            Err(Fallen::Endpoint { reason, detail, after: RetryOn::Reset })
        }
        _ => Err(wrong(&"not a response")),
    }
}

/// What an answer says of its endpoint, and of another try.
pub(in crate::proxy) enum Says {
    /// All is well, or it is the client's own fault.
    Well,
    /// The endpoint has too much to do.
    Throttled,
    /// It failed.
    Failed,
}

impl Answer {
    fn grpc_status(&self) -> Option<u8> {
        head::text(&self.head.headers, "grpc-status")?.parse().ok()
    }

    /// What it says of the endpoint.
    pub(in crate::proxy) fn says(&self) -> Says {
        match (self.head.status, self.grpc_status()) {
            (429, _) | (_, Some(8)) => Says::Throttled,
            (501 | 505, _) => Says::Well,
            (500.., _) | (_, Some(14)) => Says::Failed,
            _ => Says::Well,
        }
    }

    /// Whether a rule wants another try for it.
    pub(in crate::proxy) fn is_worth_another(&self, rule: &RetryRule, idempotent: bool) -> bool {
        let status = self.head.status;
        let gateway = matches!(status, 502..=504);
        rule.on.iter().any(|on| match on {
            RetryOn::Gateway => gateway,
            RetryOn::Idempotent => gateway && idempotent,
            RetryOn::ServerError => (500..=599).contains(&status),
            RetryOn::Status(wanted) => *wanted == status,
            RetryOn::Unavailable => self.grpc_status() == Some(14),
            RetryOn::Connect
            | RetryOn::Refused
            | RetryOn::Draining
            | RetryOn::Reset
            | RetryOn::Timeout => false,
        })
    }

    /// How long the service wants to be left alone before another try; `Err`: for good.
    pub(in crate::proxy) fn pushback(&self) -> Result<Duration, ()> {
        if let Some(text) = head::text(&self.head.headers, "grpc-retry-pushback-ms") {
            return text.parse().map(Duration::from_millis).map_err(|_| ());
        }
        match head::text(&self.head.headers, "retry-after") {
            // A date is longer than any wait here, in all likelihood.
            Some(text) => text.parse().map(Duration::from_secs).map_err(|_| ()),
            None => Ok(Duration::ZERO),
        }
    }
}
