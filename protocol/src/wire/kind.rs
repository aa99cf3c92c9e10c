//! Stream kinds: the byte with which every stream between agents begins.

/// What a stream carries. An unknown kind is reset with [`UNKNOWN_KIND`], and not blamed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StreamKind {
    /// Control frames: the first stream of a control connection, and the Hello of every one.
    Control = 1,
    /// Nothing: opened to see whether the peer still answers, ended at once.
    Ping = 2,
    /// One TCP connection of an application, behind a stream head.
    Tcp = 3,
    /// One HTTP exchange, behind a stream head.
    Http = 4,
    /// Copied to an issuer: a join or a renewal through an agent that is none.
    Relay = 5,
    /// A question and its answer.
    Ask = 6,
}

/// The code with which a stream of an unknown kind is reset.
pub const UNKNOWN_KIND: u32 = 1;
/// The code with which a stream is reset when its peer has as many of that kind open as it may.
pub const TOO_MANY: u32 = 4;

impl StreamKind {
    /// The kind of that byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Control),
            2 => Some(Self::Ping),
            3 => Some(Self::Tcp),
            4 => Some(Self::Http),
            5 => Some(Self::Relay),
            6 => Some(Self::Ask),
            _ => None,
        }
    }

    /// The byte of that kind.
    pub fn byte(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Ping => 2,
            Self::Tcp => 3,
            Self::Http => 4,
            Self::Relay => 5,
            Self::Ask => 6,
        }
    }
}
