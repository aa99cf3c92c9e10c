//! Limits: the bound of every loop, queue, map, frame and timer, each with its arithmetic.

use std::time::Duration;

// Names.

/// One DNS label (RFC 1035 2.3.4).
pub const LABEL_BYTES: usize = 63;
/// A node's name: a host name cut short, so that a grant stays under [`GRANT_BYTES`].
pub const NODE_NAME_BYTES: usize = 64;
/// A tag or a version text.
pub const TAG_BYTES: usize = 64;
/// 10 base32 characters are 50 bits: at 10,000 nodes two collide with odds of 1 in 22 million.
pub const SHORT_ID_CHARS: usize = 10;

// Certificates.

/// The DER of a grant. 20 services of 20 bytes, a name and a zone fit.
pub const GRANT_BYTES: usize = 512;
/// Services that one grant may name.
pub const GRANT_SERVICES: usize = 32;
/// Leaf and issuer together: below three times a 1,200 byte first packet less the handshake's
/// other messages, so that the server's flight fits before address validation (RFC 9000 8.1).
pub const CHAIN_BYTES: usize = 1536;
/// One certificate as read from a peer, before it is parsed.
pub const CERTIFICATE_BYTES: usize = 4096;
/// Roots that are trusted at one time: one in force, one to come, and what a rotation leaves.
pub const ROOTS_MAX: usize = 8;
/// Certificates in a chain as peers show it: leaf, issuer, and a root when joining.
pub const CHAIN_CERTIFICATES: usize = 3;

/// A node certificate's life.
pub const LEAF_LIFE: Duration = Duration::from_secs(14 * DAY);
/// An issuer certificate's life.
pub const ISSUER_LIFE: Duration = Duration::from_secs(365 * DAY);
/// Certificates are dated back by this, for joiners whose clock is behind.
pub const BACK_DATE: Duration = Duration::from_secs(3600);
/// The clock skew that expiry judgements forgive.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// For how long after its end a certificate may still renew itself.
pub const EXPIRED_RENEWS: Duration = Duration::from_secs(90 * DAY);
/// A join token's text: three 32 byte values and a body of at most [`TOKEN_BODY_BYTES`], a
/// signature and an issuer certificate, in base64.
pub const TOKEN_BYTES: usize = 4096;
/// The body of a join token.
pub const TOKEN_BODY_BYTES: usize = 1024;

const DAY: u64 = 24 * 3600;

// Records.

/// A record's header and payload and signature.
pub const RECORD_BYTES: usize = 64 * 1024;
/// Instances that one node record holds: 256 at 200 bytes is 50 KiB.
pub const INSTANCES_MAX: usize = 256;
/// Sections of one record.
pub const SECTIONS_MAX: usize = 64;
/// Addresses of one node.
pub const ADDRESSES_MAX: usize = 4;
/// A bundle: a record and the chain that proves it.
pub const BUNDLE_BYTES: usize = RECORD_BYTES + CHAIN_CERTIFICATES * CERTIFICATE_BYTES + 1024;
/// How long a node record is believed without being signed again.
pub const RECORD_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often a node signs its record again though nothing changed.
pub const RECORD_RESIGN: Duration = Duration::from_secs(8 * 3600);
/// How far above a higher sequence of its own a node continues.
pub const SEQUENCE_LEAP: u64 = 1 << 20;
/// Sequences are reserved on disk in blocks, so that not every record waits for a write of it.
pub const SEQUENCE_BLOCK: u64 = 1 << 10;
/// No sequence reaches this; what claims one is refused. Leaps leave room for 2^43 of them.
pub const SEQUENCE_MAX: u64 = 1 << 63;
/// How long a floor outlives the end of its origin's chain.
pub const FLOOR_KEEP: Duration = Duration::from_secs(120 * DAY);

// The mesh.

/// Nodes whose records an agent holds. chitchat's digest has a hard wall near 1,300 ids.
pub const NODES_MAX: usize = 4096;
/// Nodes from which on `status` warns that one gossip cluster is getting large.
pub const NODES_WARN: usize = 400;
/// Revocations and voids held. Each is one small record; at 10,000 they are 5 MB.
pub const REVOCATIONS_MAX: usize = 10_000;
/// Hash permutations that choose an agent's neighbours: with n/8 liars the odds that all four
/// next nodes lie are (1/8)^4, 1 in 4,096.
pub const RINGS: usize = 4;
/// Peers an agent accepts control links from: four chosen, about four that chose it, and
/// everybody on the way in or out of a change of members.
pub const CONTROL_PEERS_MAX: usize = 256;

// Control frames.

/// A frame on the control link: a bundle, or a list of heads, and its envelope.
pub const FRAME_BYTES: usize = 128 * 1024;
/// Heads in one frame: 1,024 at 80 bytes are 80 KiB.
pub const HEADS_PER_FRAME: usize = 1024;
/// Bundles asked for in one frame.
pub const PULLS_PER_FRAME: usize = 256;
/// Bundles in flight to one peer that has asked for them; the rest waits for the next round.
pub const PULL_ANSWERS: usize = 64;
/// Revocation bundles told in one Hello frame; more follow by pull.
pub const HELLO_REVOCATIONS: usize = 64;
/// Peer addresses in a join answer.
pub const JOIN_PEERS: usize = 16;
/// A join request or answer: issuer certificates and roots.
pub const JOIN_BYTES: usize = 32 * 1024;

const _: () = assert!(BUNDLE_BYTES + 1024 <= FRAME_BYTES);
const _: () = assert!(HEADS_PER_FRAME * 80 + 1024 <= FRAME_BYTES);

// Liveness.

/// Between two probes of one neighbour.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A probe not answered within this is missed.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(900);
/// Missed probes in a row after which a neighbour is suspect.
pub const PROBES_MISSED: u32 = 2;
/// Others asked to probe a suspect.
pub const INDIRECT_PROBES: usize = 3;
/// How long an indirect probe may take before its silence counts.
pub const INDIRECT_TIMEOUT: Duration = Duration::from_millis(600);
/// Witnesses of one subject that are kept: one per ring and direction.
pub const WITNESSES_PER_SUBJECT: usize = 2 * RINGS;
/// How late a tick may come before the agent holds itself for slow and accuses nobody.
pub const LATE_TICK: Duration = Duration::from_millis(500);
/// How long an agent that was late accuses nobody.
pub const LATE_QUARANTINE: Duration = Duration::from_secs(5);
/// How long a suspect keeps its suspicion without a second witness before it is asked again.
pub const SUSPECT_RECHECK: Duration = Duration::from_secs(2);
/// A dead node is forgotten as a member after this; its floor stays.
pub const DEAD_KEEP: Duration = Duration::from_secs(24 * 3600);
/// When more than this percent of the live nodes, and at least [`MASS_NODES`], vanish within
/// [`MASS_WINDOW`], their endpoints stay as last choice.
pub const MASS_PERCENT: usize = 30;
/// See [`MASS_PERCENT`].
pub const MASS_NODES: usize = 3;
/// See [`MASS_PERCENT`].
pub const MASS_WINDOW: Duration = Duration::from_secs(10);
/// How long endpoints of a mass loss stay as last choice.
pub const MASS_KEEP: Duration = Duration::from_secs(60);

// Spread.

/// A difference of roots older than this starts an exchange of heads.
pub const ROOT_PATIENCE: Duration = Duration::from_millis(500);
/// How long an exchange of heads may take before it may be started again.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Verify jobs that may be out at one time.
pub const VERIFY_IN_FLIGHT: usize = 256;
/// Verify jobs of one peer that may be out at one time: the budget of a peer.
pub const VERIFY_PER_PEER: usize = 64;
/// Outputs that may wait for a write to disk.
pub const PERSIST_WAITING: usize = 4096;
/// A dial lasts at most this long.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A neighbour is dialled again at most this often, with jitter.
pub const REDIAL_EVERY: Duration = Duration::from_secs(2);

// Blame.

/// Blame above this closes a peer's links.
pub const BLAME_CUT: u32 = 16;
/// One point of blame is forgiven this often.
pub const BLAME_FORGIVE: Duration = Duration::from_secs(4);
/// How long a peer that was cut off stays out.
pub const BLAME_BAN: Duration = Duration::from_secs(60);

// Manifests.

/// One file.
pub const MANIFEST_BYTES: usize = 1024 * 1024;
/// Documents in one file.
pub const MANIFEST_DOCUMENTS: usize = 1024;
/// Faults reported of one file; the rest is counted.
pub const MANIFEST_FAULTS: usize = 64;
/// Ports of one service.
pub const PORTS_MAX: usize = 64;

// Data streams.

/// A stream's head.
pub const STREAM_HEAD_BYTES: usize = 4096;
/// A reason in a stream's reply.
pub const REASON_BYTES: usize = 256;
/// Agents that a call may pass.
pub const HOPS_MAX: u8 = 4;
/// How long the caller waits for the reply byte of one endpoint before it tries another.
pub const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// Endpoints tried for one connection.
pub const TRIES_MAX: usize = 4;

// Trust: revocation, tokens, joining.

/// Works that stay valid of one revoked key: 1,024 leaves at 32 bytes are 32 KiB, half a frame.
/// An issuer with more nodes than that is better revoked after they have renewed elsewhere.
pub const REVOCATION_WORKS: usize = 1024;
/// Hosts that one join token may admit.
pub const TOKEN_USES_MAX: u32 = 10_000;
/// Further issuers that one join token may make.
pub const TOKEN_ISSUERS_MAX: u32 = 16;
/// How long a join token may be good for at most: a month for a slow roll-out.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(30 * DAY);
/// Policy heads in a join answer: 256 at 100 bytes are 25 KiB, within [`JOIN_BYTES`].
pub const JOIN_POLICY_HEADS: usize = 256;
/// The text of a refusal to admit a host.
pub const REFUSAL_BYTES: usize = 1024;

const _: () = assert!(REVOCATION_WORKS * 32 + CERTIFICATE_BYTES + 1024 <= FRAME_BYTES / 2);

// Links. Where two sources differ, the smaller.

/// What a peer may send on one stream before it is read: at 10 ms of round trip 100 MB/s.
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// On a whole control connection: eight frames of 128 KiB. 256 peers hold 256 MiB at the very
/// worst, and only peers that hold a certificate get there.
pub const CONTROL_WINDOW: u32 = 1024 * 1024;
/// On a whole data connection: sixteen streams at their window.
pub const DATA_WINDOW: u32 = 16 * 1024 * 1024;
/// Streams of a control connection: the frames, gossip and a few probes on the way.
pub const CONTROL_STREAMS: u32 = 64;
/// Streams of a data connection. What more callers want waits [`OPEN_TIMEOUT`].
pub const DATA_STREAMS: u32 = 4096;
/// How long the opening of a stream waits for the peer to allow one.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection on which nothing came for so long is gone. Three keep-alives.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an idle connection is kept up.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The round trip assumed before one is measured: a lost first packet costs 150 ms, not 1 s.
pub const INITIAL_RTT: Duration = Duration::from_millis(50);
/// The smallest datagram that every path of QUIC must carry (RFC 9000 14).
pub const MTU_MIN: u16 = 1200;
/// The largest that is tried: Ethernet less IPv6 and UDP headers.
pub const MTU_MAX: u16 = 1452;
/// Handshake bytes that are kept out of order: ten times a flight.
pub const CRYPTO_BUFFER: usize = 16 * 1024;
/// A handshake lasts at most this long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes at one time: at 1 ms of CPU each a quarter of a second of work.
pub const HANDSHAKES_MAX: usize = 256;
/// From so many on, an address must prove itself first (Retry, RFC 9000 8.1.2).
pub const HANDSHAKES_UNVALIDATED: usize = 64;
/// First packets that wait to be looked at.
pub const INCOMING_MAX: usize = 1024;
/// Bytes kept of one of them, and of all.
pub const INCOMING_BUFFER: u64 = 64 * 1024;
/// See [`INCOMING_BUFFER`].
pub const INCOMING_BUFFERS: u64 = 8 * 1024 * 1024;
/// Addresses that one dial tries: four advertised, four observed.
pub const DIAL_ADDRESSES: usize = 8;
/// The socket's buffers: 80 ms at 100 MB/s.
pub const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

const _: () = assert!(KEEP_ALIVE.as_millis() * 3 <= IDLE_TIMEOUT.as_millis());
const _: () = assert!(STREAM_WINDOW <= CONTROL_WINDOW && CONTROL_WINDOW <= DATA_WINDOW);

// Joining.

/// A join or a renewal lasts at most this long: two round trips, two writes to disk, with room.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that one joining connection may use: a request, and the same through an issuer.
pub const JOIN_STREAMS: usize = 4;
/// Bytes copied each way between a joiner and an issuer: a message and its handshake.
pub const RELAY_BYTES: u64 = 64 * 1024;
/// Tokens whose uses one issuing host counts: 1,024 at 20 bytes are 20 KiB of its record.
pub const TOKENS_COUNTED: usize = 1024;
