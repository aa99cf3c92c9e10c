//! Serf's RPC: MessagePack over one TCP connection, a header and perhaps a body each way.

use std::{io::Cursor, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use rmpv::{Value, decode::Error};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The version of the protocol that this file speaks.
const VERSION: u8 = 1;
/// What one answer may have: 200 members of 300 bytes.
const ANSWER_BYTES: usize = 1024 * 1024;

/// A connection to one Serf agent.
#[derive(Debug)]
pub(crate) struct Rpc {
    stream: TcpStream,
    unread: Vec<u8>,
    asked: u64,
}

impl Rpc {
    /// Connects and shakes hands.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut rpc = Self { stream, unread: Vec::new(), asked: 0 };
        rpc.tell("handshake", &map([("Version", Value::from(VERSION))])).await?;
        Ok(rpc)
    }

    /// A command whose answer has no body.
    pub(crate) async fn tell(&mut self, command: &str, body: &Value) -> Result<()> {
        timeout(ANSWER, self.exchange(command, body)).await.context("Serf does not answer")?
    }

    /// A command whose answer has one.
    pub(crate) async fn ask(&mut self, command: &str, body: &Value) -> Result<Value> {
        self.tell(command, body).await?;
        timeout(ANSWER, self.read()).await.context("Serf does not end its answer")?
    }

    async fn exchange(&mut self, command: &str, body: &Value) -> Result<()> {
        self.asked += 1;
        let header = map([("Command", command.into()), ("Seq", self.asked.into())]);
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &header)?;
        if !body.is_nil() {
            rmpv::encode::write_value(&mut bytes, body)?;
        }
        self.stream.write_all(&bytes).await?;
        let answer = self.read().await?;
        let number = field(&answer, "Seq").and_then(Value::as_u64);
        let error = field(&answer, "Error").and_then(text).unwrap_or("");
        if number != Some(self.asked) || !error.is_empty() {
            bail!("Serf answers `{command}` with {answer}");
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Value> {
        loop {
            let mut cursor = Cursor::new(self.unread.as_slice());
            match rmpv::decode::read_value(&mut cursor) {
                Ok(value) => {
                    let read = usize::try_from(cursor.position())?;
                    self.unread.drain(..read);
                    return Ok(value);
                }
                Err(Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_)) => {}
                Err(error) => return Err(error.into()),
            }
            if self.unread.len() > ANSWER_BYTES
                || self.stream.read_buf(&mut self.unread).await? == 0
            {
                bail!("Serf's answer has no end after {} bytes", self.unread.len());
            }
        }
    }
}

/// A map with text keys.
pub(crate) fn map<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Map(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// The value of a key.
pub(crate) fn field<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let (_, value) = value.as_map()?.iter().find(|(found, _)| text(found) == Some(key))?;
    Some(value)
}

/// A text; Serf's encoder knows no difference between text and bytes.
pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Binary(bytes) => std::str::from_utf8(bytes).ok(),
        other => other.as_str(),
    }
}
