//! One control link: the first stream of its connection, as frames with a length in front.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use skein_protocol::{
    clock::{Tick, millis},
    engine::{Blame, LinkId},
    limits,
    name::NodeKey,
    trust::CloseCode,
    wire::{
        frame::{self, Frame, Hello},
        kind::{self, StreamKind},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::queue::Inbox;
use super::{Command, DriverHandle};
use crate::{
    gossip::{self, Incoming, Outgoing, link_ends},
    link::mux::{Mux, RecvHalf, SendHalf, StreamPair},
};

/// The first stream of a connection, its kind byte read or written.
pub struct ControlLink {
    send: Box<dyn SendHalf>,
    receive: Box<dyn RecvHalf>,
}

impl std::fmt::Debug for ControlLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControlLink")
    }
}

/// Once its length has come, a frame must be whole within this.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// The first Hello must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

impl ControlLink {
    /// Opens the first stream of a connection that this agent dialled.
    pub async fn open(mux: &dyn Mux) -> io::Result<Self> {
        let (mut send, receive) = mux.open().await.map_err(io::Error::other)?;
        send.write_all(&[StreamKind::Control.byte()]).await?;
        Ok(Self { send, receive })
    }

    /// Takes the first stream of a connection that the peer dialled.
    pub async fn accept(mux: &dyn Mux) -> io::Result<Self> {
        let (mut send, mut receive) = mux.accept().await.map_err(io::Error::other)?;
        let byte = receive.read_u8().await?;
        if StreamKind::from_byte(byte) != Some(StreamKind::Control) {
            send.reset(kind::UNKNOWN_KIND);
            receive.stop(kind::UNKNOWN_KIND);
            return Err(io::Error::other("the first stream is no control stream"));
        }
        Ok(Self { send, receive })
    }

    /// Writes one frame.
    pub async fn write(&mut self, frame: &Frame) -> io::Result<()> {
        let bytes = frame.encode().map_err(io::Error::other)?;
        write_frame(&mut *self.send, &bytes).await
    }

    /// Reads the first frame, which must be a Hello.
    pub async fn hello(&mut self) -> io::Result<Hello> {
        let bytes = read_frame(&mut *self.receive).await?;
        match Frame::decode(&bytes).map_err(io::Error::other)? {
            Frame::Hello(hello) => Ok(*hello),
            _ => Err(io::Error::other("the first frame is no Hello")),
        }
    }
}

/// What a peer that dialled says first: its stream, and its Hello with the connection's role.
pub async fn first_hello(mux: &dyn Mux) -> io::Result<(ControlLink, Hello)> {
    let first = async {
        let mut control = ControlLink::accept(mux).await?;
        let hello = control.hello().await?;
        Ok((control, hello))
    };
    timeout(HELLO_TIMEOUT, first).await.map_err(|_| io::Error::other("no Hello in time"))?
}

/// What a link's task works with.
pub(super) struct Run {
    pub(super) number: LinkId,
    pub(super) peer: Option<NodeKey>,
    pub(super) mux: Arc<dyn Mux>,
    pub(super) commands: DriverHandle,
    pub(super) gossip: mpsc::Sender<(NodeKey, Bytes)>,
}

impl Run {
    /// Carries frames until the link ends, then says so.
    pub(super) async fn run(self, begun: Option<ControlLink>, queue: Inbox) {
        let opened = match begun {
            Some(control) => Ok(control),
            None => timeout(HELLO_TIMEOUT, ControlLink::open(&*self.mux))
                .await
                .unwrap_or_else(|_| Err(io::Error::other("no stream in time"))),
        };
        let ended = match opened {
            Ok(control) => self.carry(control, queue).await,
            Err(error) => error,
        };
        tracing::debug!(link = self.number.0, %ended, "control link ended");
        let code = self.mux.closed_by_peer();
        self.mux.close(CloseCode::Done.number(), CloseCode::Done.text());
        self.commands.tell(Command::Ended(self.number, code)).await;
    }

    async fn carry(&self, control: ControlLink, queue: Inbox) -> io::Error {
        let ControlLink { send, receive } = control;
        let (outgoing, incoming) = link_ends();
        tokio::select! {
            biased;
            error = self.mux.closed() => io::Error::other(error),
            error = self.read(receive, incoming) => error,
            error = write_all(send, queue, outgoing) => error,
            error = self.refuse_streams() => error,
        }
    }

    async fn read(&self, mut receive: Box<dyn RecvHalf>, mut incoming: Incoming) -> io::Error {
        let start = Instant::now();
        loop {
            let bytes = match read_frame(&mut *receive).await {
                Ok(bytes) => bytes,
                Err(error) => return error,
            };
            let told = match (self.peer, bytes.split_first()) {
                (Some(peer), Some((&frame::GOSSIP, message))) => {
                    let now = Tick(millis(start.elapsed()));
                    self.gossip(peer, incoming.decode(now, message)).await
                }
                _ => self.commands.tell(Command::Frame(self.number, bytes)).await,
            };
            if !told {
                return io::Error::other("the agent ends");
            }
        }
    }

    /// Hands on what gossip on this link means. False: the agent ends.
    async fn gossip(&self, peer: NodeKey, read: Result<Option<Bytes>, gossip::Blame>) -> bool {
        match read {
            Ok(Some(message)) => {
                // Hints: a full queue loses them.
                let _ = self.gossip.try_send((peer, message));
                true
            }
            Ok(None) => true,
            Err(reason) => {
                tracing::warn!(peer = %peer.short(), %reason, "gossip refused");
                self.commands.tell(Command::Blame(peer, Blame::Other("gossip"))).await
            }
        }
    }

    /// A control connection has one stream. Others are of a newer agent.
    async fn refuse_streams(&self) -> io::Error {
        loop {
            let pair: Result<StreamPair, _> = self.mux.accept().await;
            match pair {
                Ok((mut send, mut receive)) => {
                    send.reset(kind::UNKNOWN_KIND);
                    receive.stop(kind::UNKNOWN_KIND);
                }
                Err(error) => return io::Error::other(error),
            }
        }
    }
}

/// Writes what is queued. Gossip is put in shorthand here, since that builds on what was really
/// sent before it, and the queues ahead may have dropped something.
async fn write_all(
    mut send: Box<dyn SendHalf>,
    mut queue: Inbox,
    mut outgoing: Outgoing,
) -> io::Error {
    while let Some(queued) = queue.next().await {
        let frame = match queued.split_first() {
            Some((&frame::GOSSIP, message)) => match outgoing.encode(message) {
                Ok(mut short) => {
                    short.insert(0, frame::GOSSIP);
                    short.into()
                }
                Err(reason) => {
                    tracing::error!(%reason, "own gossip message refused");
                    continue;
                }
            },
            _ => queued,
        };
        if let Err(error) = write_frame(&mut *send, &frame).await {
            return error;
        }
    }
    io::Error::other("closed by this agent")
}

/// One write for a frame and its length: of two, the first leaves in a packet of its own whenever
/// the connection is driven by another thread.
async fn write_frame(send: &mut dyn SendHalf, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let frame = [&length.to_le_bytes(), bytes].concat();
    send.write_all(&frame).await?;
    send.flush().await
}

/// Reads one frame. Its length is checked before anything is allocated for it.
async fn read_frame(receive: &mut dyn RecvHalf) -> io::Result<Vec<u8>> {
    let length = usize::try_from(receive.read_u32_le().await?).map_err(io::Error::other)?;
    if length == 0 || length > limits::FRAME_BYTES {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut bytes = Vec::new();
    let body = async {
        // Grows with what really comes, so that a length alone costs nothing.
        let mut limited = receive.take(length as u64);
        limited.read_to_end(&mut bytes).await
    };
    let read = timeout(FRAME_TIMEOUT, body)
        .await
        .map_err(|_| io::Error::other("a frame did not come whole in time"))??;
    if read == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
