//! Look: whether a connection speaks HTTP, where that must be known.
//!
//! A declared port is believed. Of another one the first bytes tell, while an endpoint is already
//! sought and may already speak: a service that speaks first is one of bytes, and none of its
//! bytes waits. What a service was found to be is remembered.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use skein_protocol::{
    http::{Sniffed, sniff},
    limits,
    name::ServiceName,
    policy::traffic::Reads,
    view::View,
};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout_at},
};

use super::{
    Socket,
    outbound::{Call, Carried, Failed, Taken},
    socket,
};

/// What a connection is.
pub(super) enum Found {
    /// Bytes; what came of seeking an endpoint, where that was done already.
    Bytes(Option<Box<Result<Taken, Failed>>>),
    /// Requests: the bytes that were read to tell, and whether it is HTTP/2.
    Http { first: Vec<u8>, two: bool },
}

/// What services without a declared protocol were found to speak.
#[derive(Default)]
pub(super) struct Spoken(Mutex<BTreeMap<(ServiceName, u16), Reads>>);

impl Spoken {
    fn of(&self, service: &(ServiceName, u16)) -> Reads {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(service).copied().unwrap_or(Reads::Sniffed)
    }

    fn remember(&self, service: &(ServiceName, u16), what: Reads) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(service) != Some(&what) {
            all.insert(service.clone(), what);
        }
    }

    pub(super) fn retain(&self, view: &View) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(service, _), _| view.services.contains_key(service));
    }
}

impl Call<'_> {
    /// Tells what a connection is.
    pub(super) async fn look(&mut self, stream: &mut Socket, started: Instant) -> Found {
        let proxy = self.proxy();
        let declared = self.reading();
        let reading = match declared {
            Reads::Sniffed => proxy.spoken.of(&self.place()),
            Reads::Bytes | Reads::Requests => declared,
        };
        match reading {
            Reads::Bytes => Found::Bytes(None),
            // Found to be HTTP before: an endpoint is sought only when the first bytes say so, as
            // long as they come at once. Else it is looked at anew.
            Reads::Requests if declared == Reads::Sniffed => {
                match peek_first(stream, started + limits::SNIFF_TIMEOUT).await {
                    Sniffed::Http1 | Sniffed::Http2 => requests(stream, self.idles()).await,
                    Sniffed::Bytes | Sniffed::More => self.sniffed(stream, Instant::now()).await,
                }
            }
            // What is no HTTP is refused as such.
            Reads::Requests => requests(stream, self.idles()).await,
            Reads::Sniffed => self.sniffed(stream, started).await,
        }
    }

    async fn sniffed(&mut self, stream: &mut Socket, started: Instant) -> Found {
        let (proxy, service) = (self.proxy(), self.place());
        let until = started + limits::SNIFF_TIMEOUT;
        let found = {
            let mut seeking = std::pin::pin!(self.connect(None));
            let mut told = std::pin::pin!(peek_first(stream, until));
            let mut sniffed = None;
            let mut taken: Option<Result<Taken, Failed>> = None;
            loop {
                tokio::select! {
                    biased;
                    what = &mut told, if sniffed.is_none() => sniffed = Some(what),
                    got = &mut seeking, if taken.is_none() => taken = Some(got),
                    () = speaks(&mut taken), if sniffed.is_none() => {
                        proxy.spoken.remember(&service, Reads::Bytes);
                        sniffed = Some(Sniffed::Bytes);
                    }
                }
                match (sniffed, taken.is_some()) {
                    (Some(Sniffed::Http1 | Sniffed::Http2), _) => break None,
                    (Some(Sniffed::Bytes | Sniffed::More), true) => break taken,
                    _ => {}
                }
            }
        };
        match found {
            Some(got) => Found::Bytes(Some(Box::new(got))),
            None => {
                proxy.spoken.remember(&service, Reads::Requests);
                requests(stream, self.idles()).await
            }
        }
    }
}

/// Waits until the endpoint has sent something; for ever while there is none.
async fn speaks(taken: &mut Option<Result<Taken, Failed>>) {
    match taken {
        Some(Ok(Taken { carried: Carried::Bytes((_, recv)), .. })) => {
            let mut first = [0; limits::SNIFF_BYTES];
            match recv.read(&mut first).await {
                // An end is no word.
                Ok(0) => std::future::pending().await,
                Ok(count) => {
                    // Nor is the preface of HTTP/2, which either side sends unasked.
                    let settings = is_settings(first.get(..count).unwrap_or_default());
                    let first =
                        bytes::Bytes::copy_from_slice(first.get(..count).unwrap_or_default());
                    let rest = std::mem::replace(recv, Box::new(socket::Nothing));
                    *recv = socket::behind(first, rest);
                    if settings {
                        std::future::pending().await
                    }
                }
                Err(_) => std::future::pending().await,
            }
        }
        _ => std::future::pending().await,
    }
}

/// Whether a server of HTTP/2 begins so: a SETTINGS frame of the whole connection (RFC 9113 3.4).
fn is_settings(bytes: &[u8]) -> bool {
    bytes.get(3..9) == Some(&[4, 0, 0, 0, 0, 0])
}

/// Reads the first bytes until they tell which version they are of.
async fn requests(stream: &mut Socket, idle: Duration) -> Found {
    let mut first = Vec::with_capacity(limits::SNIFF_BYTES);
    let mut until = Instant::now() + idle;
    loop {
        let what = sniff(&first);
        if what != Sniffed::More || first.len() >= limits::SNIFF_BYTES {
            return Found::Http { first, two: what == Sniffed::Http2 };
        }
        if !first.is_empty() {
            until = until.min(Instant::now() + limits::HTTP_HEAD_TIMEOUT);
        }
        let mut piece = [0; limits::SNIFF_BYTES];
        let room = limits::SNIFF_BYTES.saturating_sub(first.len());
        let piece = piece.get_mut(..room).unwrap_or_default();
        match timeout_at(until, stream.read(piece)).await {
            Ok(Ok(count)) if count > 0 => {
                first.extend_from_slice(piece.get(..count).unwrap_or_default());
            }
            _ => return Found::Http { first, two: false },
        }
    }
}

/// What the first bytes are, and the bytes stay where they are.
async fn peek_first(stream: &Socket, until: Instant) -> Sniffed {
    let mut seen = 0;
    loop {
        let mut piece = [0; limits::SNIFF_BYTES];
        let peeked = timeout_at(until, stream.peek(&mut piece, seen)).await;
        let Ok(Ok(count)) = peeked else { return Sniffed::Bytes };
        let what = sniff(piece.get(..count).unwrap_or_default());
        if what != Sniffed::More || count >= limits::SNIFF_BYTES {
            return what;
        }
        if count == seen {
            // An end, or nothing new behind what is there.
            return Sniffed::Bytes;
        }
        seen = count;
    }
}
