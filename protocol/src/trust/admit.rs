//! Who may speak what on a connection: protocols, classes of peers, and codes of closing.

use super::{certificate::ChainClass, revoked::Revoked};

/// What a connection is for, as TLS negotiates it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Alpn {
    /// Between members.
    Mesh,
    /// A member's certificate anew.
    Renew,
    /// A host's first certificate.
    Join,
}

impl Alpn {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Mesh, Self::Renew, Self::Join];

    /// Its name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Mesh => b"skein/1",
            Self::Renew => b"skein-renew/1",
            Self::Join => b"skein-join/1",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|alpn| alpn.name() == name)
    }
}

/// What a peer's certificates prove.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PeerClass {
    /// A chain that is valid now.
    Live,
    /// A chain that ended at most 90 days ago.
    Expired,
    /// A self-signed certificate: a key and nothing else.
    Bare,
}

impl From<ChainClass> for PeerClass {
    fn from(class: ChainClass) -> Self {
        match class {
            ChainClass::Live => Self::Live,
            ChainClass::Expired => Self::Expired,
        }
    }
}

/// Why a connection was closed. The numbers are on the wire and never change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CloseCode {
    /// In order.
    Done,
    /// The peer's certificate has ended: it may renew.
    Expired,
    /// The peer shows no certificate of this mesh: it may join.
    NotAdmitted,
    /// The peer's key was revoked.
    Revoked,
    /// The peer's issuer or root was revoked, or is suspended.
    IssuerRevoked,
    /// A protocol that this side does not speak.
    WrongProtocol,
    /// A frame that breaks the protocol.
    Blame,
    /// A better connection to the same peer is there.
    Duplicate,
    /// The agent ends.
    Shutdown,
    /// As many connections as there may be.
    Full,
    /// Silence for too long before the first frame.
    Timeout,
    /// The peer is another than the one dialled, or this agent itself.
    WrongPeer,
}

impl CloseCode {
    /// Every one.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::Expired,
        Self::NotAdmitted,
        Self::Revoked,
        Self::IssuerRevoked,
        Self::WrongProtocol,
        Self::Blame,
        Self::Duplicate,
        Self::Shutdown,
        Self::Full,
        Self::Timeout,
        Self::WrongPeer,
    ];

    /// Its number.
    pub fn number(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::Expired => 1,
            Self::NotAdmitted => 2,
            Self::Revoked => 3,
            Self::IssuerRevoked => 4,
            Self::WrongProtocol => 5,
            Self::Blame => 6,
            Self::Duplicate => 7,
            Self::Shutdown => 8,
            Self::Full => 9,
            Self::Timeout => 10,
            Self::WrongPeer => 11,
        }
    }

    /// The one of that number.
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|code| u64::from(code.number()) == number)
    }

    /// The label by which it is counted.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Expired => "expired",
            Self::NotAdmitted => "not_admitted",
            Self::Revoked => "revoked",
            Self::IssuerRevoked => "issuer_revoked",
            Self::WrongProtocol => "wrong_protocol",
            Self::Blame => "blame",
            Self::Duplicate => "duplicate",
            Self::Shutdown => "shutdown",
            Self::Full => "full",
            Self::Timeout => "timeout",
            Self::WrongPeer => "wrong_peer",
        }
    }

    /// What it tells the person who reads the log of the peer.
    pub fn text(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Expired => "your certificate has ended: the agent renews it, or run `skein join`",
            Self::NotAdmitted => "no certificate of this mesh: run `skein join`",
            Self::Revoked => "this key was revoked: join with a new one",
            Self::IssuerRevoked => "the issuer of your certificate was revoked: join again",
            Self::WrongProtocol => "this protocol is not spoken here: compare the versions",
            Self::Blame => "a frame broke the protocol: compare the versions",
            Self::Duplicate => "another connection between the same agents took over",
            Self::Shutdown => "the agent stops",
            Self::Full => "too many connections: try another agent",
            Self::Timeout => "nothing came in time",
            Self::WrongPeer => "another agent than the one that was dialled",
        }
    }
}

impl From<Revoked> for CloseCode {
    fn from(revoked: Revoked) -> Self {
        match revoked {
            Revoked::Node => Self::Revoked,
            Revoked::Issuer | Revoked::Root | Revoked::Suspended => Self::IssuerRevoked,
        }
    }
}

/// Whether a peer of that class may speak that protocol. Asked before any frame is read.
pub fn admit(alpn: Alpn, class: PeerClass) -> Result<(), CloseCode> {
    match (alpn, class) {
        (Alpn::Mesh, PeerClass::Live)
        | (Alpn::Renew, PeerClass::Live | PeerClass::Expired)
        | (Alpn::Join, PeerClass::Bare | PeerClass::Live) => Ok(()),
        (Alpn::Mesh | Alpn::Join, PeerClass::Expired) => Err(CloseCode::Expired),
        (Alpn::Mesh | Alpn::Renew, PeerClass::Bare) => Err(CloseCode::NotAdmitted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_admits_its_classes_and_no_other() {
        use PeerClass::{Bare, Expired, Live};
        let admitted = |alpn| [Live, Expired, Bare].map(|class| admit(alpn, class).is_ok());
        assert_eq!(admitted(Alpn::Mesh), [true, false, false]);
        assert_eq!(admitted(Alpn::Renew), [true, true, false]);
        assert_eq!(admitted(Alpn::Join), [true, false, true]);
    }

    #[test]
    fn numbers_of_closing_are_frozen_and_distinct() {
        for (number, code) in (0u32..).zip(CloseCode::ALL) {
            assert_eq!(code.number(), number);
            assert_eq!(CloseCode::from_number(u64::from(number)), Some(code));
        }
    }
}
