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
/// A join token before it becomes text: root, seed, terms of at most [`TOKEN_BODY_BYTES`] and a
/// signature.
pub const TOKEN_BYTES: usize = 2048;
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
/// Revocations of one operator: more nodes than a person ends before the root is asked. What an
/// operator signed that has ended is held too, within this bound, and counts for no other.
pub const REVOCATIONS_PER_OPERATOR: usize = 1_000;
/// Revocations of all operators that have not ended.
pub const REVOCATIONS_BY_OPERATORS: usize = 8_000;
/// Revocations and voids of roots: room that no operator takes.
pub const REVOCATIONS_BY_ROOTS: usize = 2_000;
/// Revocations and voids held while no operator has ended. Each is one small record; at 10,000
/// they are 5 MB.
pub const REVOCATIONS_MAX: usize = REVOCATIONS_BY_OPERATORS + REVOCATIONS_BY_ROOTS;
/// Hash permutations that choose an agent's neighbours: with n/8 liars the odds that all four
/// next nodes lie are (1/8)^4, 1 in 4,096.
pub const RINGS: usize = 4;
/// Peers an agent accepts control links from: four chosen, about four that chose it, and
/// everybody on the way in or out of a change of members.
pub const CONTROL_PEERS_MAX: usize = 256;

// Policy documents.

/// The text of one mesh-wide document. With 256 ancestors at 40 bytes and its envelope it stays a
/// record.
pub const POLICY_TEXT_BYTES: usize = 48 * 1024;
/// A version and the certificate of the operator that signed it.
pub const POLICY_BUNDLE_BYTES: usize = RECORD_BYTES + CERTIFICATE_BYTES + 64;
/// Mesh-wide documents, deleted ones among them: at 4 KiB each they are 16 MiB on every node.
pub const POLICY_DOCUMENTS: usize = 4096;
/// Versions of one document that did not know of each other.
pub const POLICY_HEADS: usize = 8;
/// Ancestors that a version lists.
pub const POLICY_ANCESTORS: usize = 256;
/// Versions told in one frame: 2,048 at 32 bytes are 64 KiB.
pub const POLICIES_PER_FRAME: usize = 2048;

const _: () = assert!(POLICY_TEXT_BYTES + POLICY_ANCESTORS * 40 + 4096 <= RECORD_BYTES);
const _: () = assert!(POLICY_BUNDLE_BYTES + 1024 <= FRAME_BYTES);
const _: () = assert!(POLICIES_PER_FRAME * 32 + 128 <= FRAME_BYTES);

/// Who called what at one host: at about 120 bytes an edge 500 KiB.
pub const EDGES_MAX: usize = 4096;
/// One of them as it is kept on disk: four names of at most 130 bytes and a few numbers.
pub const EDGE_BYTES: usize = 1024;
/// A question to a peer.
pub const ASK_BYTES: usize = 256;
/// Its answer: 4,096 edges at most 280 bytes each.
pub const ANSWER_BYTES: usize = 1280 * 1024;
/// How long a peer may take to answer, its dial included.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// Peers that are asked at one time.
pub const ASK_AT_ONCE: usize = 32;

// Control frames.

/// A frame on the control link: a bundle, or a list of heads, and its envelope.
pub const FRAME_BYTES: usize = 128 * 1024;
/// Heads in one frame: 1,024 at 80 bytes are 80 KiB.
pub const HEADS_PER_FRAME: usize = 1024;
/// Bundles asked for in one frame.
pub const PULLS_PER_FRAME: usize = 256;
/// Bundles that a peer whose heads lack them is sent unasked: at 1.5 KiB they are 96 KiB. Of more
/// it is told the heads, and asks one peer for each.
pub const PULL_ANSWERS: usize = 64;
/// Bytes of bundles that were asked for and wait to be checked: the whole of a mesh of 2,700 nodes
/// at 1.5 KiB. What is over comes by the next exchange.
pub const PULL_WAITING: usize = 4 * 1024 * 1024;
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
/// Witnesses of one dead subject after which no further one is checked and passed on: twice what
/// kills, since others may see other watchers. When half of a mesh of 1,000 is cut off, each agent
/// hears of 500 dead, by up to eight watchers each, over eight links.
pub const WITNESSES_ENOUGH: usize = RINGS;
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
/// Records over which a check of this agent broke, and that are remembered for it. When there are
/// more of them, the oldest is checked again.
pub const SET_ASIDE: usize = 64;
/// Verify jobs that may be out at one time.
pub const VERIFY_IN_FLIGHT: usize = 256;
/// Verify jobs of one peer that may be out at one time: the budget of a peer.
pub const VERIFY_PER_PEER: usize = 64;
/// A host that cannot show that it ever held the mesh's policy, and reaches nobody who can, takes
/// calls after this all the same.
pub const PROBATION: Duration = Duration::from_secs(30);
/// Frames of one link that are kept while the keys that its peer says have ended are checked.
pub const EARLY_FRAMES: usize = 256;
/// Probes on behalf of others that are remembered at one time.
pub const PROBES_ASKED: usize = 64;
/// Outputs that may wait for a write to disk.
pub const PERSIST_WAITING: usize = 4096;
/// A disk that could not be written is tried again after this: with two tries for it to open and
/// to take what waited, it writes again well within five seconds of being well.
pub const DISK_AGAIN: Duration = Duration::from_millis(500);
/// A write that is under way for longer is told as a disk that does not answer. A transaction with
/// its fsync takes milliseconds, a second on a disk that is much too busy.
pub const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// What only restricts waits this long for its write: ten times what a transaction with its fsync
/// takes on a disk that is well.
pub const DISK_AT_ONCE: Duration = Duration::from_millis(100);
/// Writes that wait for a disk that fails, one for each thing that is written: a record of each
/// node, each statement, the versions that are held and those that are being written.
pub const OWED_MAX: usize =
    NODES_MAX + REVOCATIONS_MAX + POLICY_DOCUMENTS * POLICY_HEADS + PERSIST_WAITING + 1;
/// Records of one origin that are taken in a burst. An agent signs at most as fast as it may.
pub const RECORD_BURST: u32 = 20;
/// Beyond the burst one record of an origin is taken this often; what comes sooner is left to
/// the next exchange, without blame. An admitted host that signs as fast as it can costs each
/// link four records a second.
pub const RECORD_EVERY: Duration = Duration::from_millis(250);
/// Beyond the burst this host signs a record this often: half as fast as others take it.
pub const RECORD_OWN_EVERY: Duration = Duration::from_millis(500);
/// How soon a host that one watcher doubts signs again; doubled each time up to [`REFUTE_MAX`], so
/// that neither a liar nor a host that cannot be reached keeps the mesh busy.
pub const REFUTE_MIN: Duration = Duration::from_millis(100);
/// See [`REFUTE_MIN`].
pub const REFUTE_MAX: Duration = Duration::from_secs(8);
/// A host that enough watchers doubt to be held for dead signs again at once, so often in a burst,
/// and then at most [`REFUTE_MAX`] later: a path between two zones that flaps brings the other zone's
/// honest word with each mend, and the host shall not be lost to its own by it.
pub const REFUTE_BURST: u32 = 8;
/// A host that was not doubted for so long refutes at once again.
pub const REFUTE_CALM: Duration = Duration::from_secs(60);
/// Starts of one agent within [`RESTARTS_WITHIN`] from which on its endpoints are last choice.
pub const RESTARTS_MAX: u32 = 3;
/// See [`RESTARTS_MAX`]: as long as this without a further start, and all is well again.
pub const RESTARTS_WITHIN: Duration = Duration::from_secs(30);
/// A dial lasts at most this long.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// A neighbour is dialled again at most this often, with jitter. With twice of it a mesh of 1,000
/// that was apart is one again in 2.3 s rather than 1.9 s (5 % of packets lost).
pub const REDIAL_EVERY: Duration = Duration::from_secs(1);

/// Sequences that could not be reserved on disk are asked for again after this.
pub const RESERVE_AGAIN: Duration = Duration::from_secs(2);

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
// Manifests, as read.

/// How deep a document may nest: the deepest kind, a traffic policy's match, needs 12.
pub const MANIFEST_DEPTH: usize = 32;
/// YAML nodes of one file: a node takes about 10 bytes of the 1 MiB that a file may have.
pub const MANIFEST_NODES: usize = 100_000;
/// Anchors and aliases of one file.
pub const MANIFEST_ALIASES: usize = 256;
/// Endpoints of one service's document: what one node record holds.
pub const ENDPOINTS_MAX: usize = INSTANCES_MAX;
/// A text that is only shown: an image, a meta value, a path.
pub const MANIFEST_TEXT_BYTES: usize = 256;
/// Weights are relative; a bound keeps the sum of 4,096 of them in 32 bits.
pub const WEIGHT_MAX: u32 = 65_535;
/// Checks of one document.
pub const CHECKS_MAX: usize = 16;
/// The shortest interval between two runs of a check: 256 instances at this rate are 2,560
/// checks a second, which one core carries.
pub const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest duration a manifest may say: a year.
pub const MANIFEST_DURATION_MAX: Duration = Duration::from_secs(365 * DAY);

const _: () = assert!(MANIFEST_NODES * 10 <= MANIFEST_BYTES);
// Routing and balancing.

/// How fast a measured latency is forgotten: after 10 s, 1/e of it is left.
pub const LATENCY_DECAY: Duration = Duration::from_secs(10);
/// Latencies below this are one: the difference is noise, and must not undo the weights.
pub const LATENCY_FLOOR: Duration = Duration::from_millis(1);
/// The latency that a failure stands for, until a success or [`PENALTY_LASTS`].
pub const LATENCY_PENALTY: Duration = Duration::from_secs(5);
/// How long a failure is held against an endpoint. Were it a sample of the decaying latency, one
/// failure would keep all calls away for 85 s, until 5 s have decayed to [`LATENCY_FLOOR`].
pub const PENALTY_LASTS: Duration = Duration::from_secs(5);
/// Failures in a row that eject an endpoint.
pub const EJECT_CONSECUTIVE: u32 = 5;
/// Parts of the window of the success rate.
pub const EJECT_BUCKETS: usize = 10;
/// The window of the success rate.
pub const EJECT_WINDOW: Duration = Duration::from_secs(10);
/// Calls within the window below which the success rate says nothing.
pub const EJECT_CALLS: u32 = 20;
/// A success rate below this ejects, in hundredths of a percent.
pub const EJECT_SUCCESS: u32 = 5_000;
/// The first ejection's length; it doubles with each that follows.
pub const EJECT_BASE: Duration = Duration::from_secs(1);
/// The longest ejection. An endpoint that stays in for as long starts again from the base.
pub const EJECT_MAX: Duration = Duration::from_secs(60);
/// The share of a service's endpoints that may be out at one time, in hundredths of a percent.
pub const EJECT_SHARE: u32 = 5_000;
/// A probe of an ejected endpoint that was not answered for so long is held for lost.
pub const EJECT_PROBE: Duration = Duration::from_secs(5);
/// How long an endpoint that said `draining` or `no_service` is last choice: a record that says
/// so too takes a flood's time, well below a second.
pub const REST: Duration = Duration::from_secs(1);
/// How much more than its healthy share a locality tier carries before it spills, in percent:
/// up to 28 % of a tier may be gone and all calls stay in it.
pub const OVERPROVISION_PERCENT: u32 = 140;

const _: () = assert!(EJECT_SHARE < 10_000);
// Gossip (chitchat 0.11.2, which carries hints only).

/// Ids that one chitchat holds. Its digest has 51 bytes an id (2 + 10 short id, 8 generation,
/// 7 address, 24 counters), and what is left of 65,506 bytes must stay above its block of
/// 16,384, below which its encoder contradicts itself: (65,506 - 2 - 16,384) / 51 = 963.
pub const GOSSIP_IDS_MAX: usize = 800;
/// Generations of one node held at one time, so that a node in a restart loop takes two places.
pub const GOSSIP_GENERATIONS: usize = 2;
/// Ids in one digest: all that a peer's chitchat may hold, and its own. Each end of a link keeps
/// the last digest of either direction, 40 bytes an id: 801 ids are 32 kB, and 256 links of two
/// directions 16 MiB at the very worst.
pub const GOSSIP_DIGEST_MAX: usize = GOSSIP_IDS_MAX + 1;
/// One chitchat message, unpacked from our wire's shorthand: a frame less its envelope.
pub const GOSSIP_MESSAGE_BYTES: usize = FRAME_BYTES - 1024;
/// One chitchat message as our own chitchat writes it, unpacked: 800 ids, each with a digest
/// entry, a node operation and four keys of 143 bytes, are 531 KiB.
pub const GOSSIP_OWN_BYTES: usize = 1024 * 1024;
/// The name of a gossip cluster.
pub const GOSSIP_CLUSTER_BYTES: usize = 128;
/// Keys of one node: `head`, `policy`, `state`, `load`.
pub const GOSSIP_KEYS: usize = 4;
/// One key.
pub const GOSSIP_KEY_BYTES: usize = 16;
/// One value: a head is 20 digits, a point and 64 hexadecimal digits, 85 bytes.
pub const GOSSIP_VALUE_BYTES: usize = 96;
/// A round is this long for each member, within [`GOSSIP_ROUND_MIN`] and [`GOSSIP_ROUND_MAX`], in
/// whole ticks of chitchat. Six digests of a byte a member and 12 bytes of frame each a round are
/// 70 bytes/s at 100 members, and 490 at the 801 ids that chitchat carries at most.
pub const GOSSIP_ROUND_PER_NODE: Duration = Duration::from_millis(100);
/// See [`GOSSIP_ROUND_PER_NODE`]; also chitchat's own tick, which is fixed when it starts. What is
/// urgent is flooded: a round only bounds how old a hint may be.
pub const GOSSIP_ROUND_MIN: Duration = Duration::from_secs(5);
/// See [`GOSSIP_ROUND_PER_NODE`].
pub const GOSSIP_ROUND_MAX: Duration = Duration::from_secs(10);
/// For so long what chitchat asks of its own is let out once a round has begun: one tick of it.
pub const GOSSIP_ROUND_OPEN: Duration = Duration::from_secs(1);
/// chitchat forgets a dead id after this.
pub const GOSSIP_DEAD_GRACE: Duration = Duration::from_secs(120);
/// chitchat holds a member for dead when its heartbeat has stood still for this many mean
/// intervals. Its three answers of a round come within milliseconds, so that mean is a third of a
/// round: 24 of them are eight rounds. At 8 of them, less than three rounds, each of 100 members
/// now and then took another for dead, and dialled it for a probe.
pub const GOSSIP_DEAD_INTERVALS: u64 = 24;
/// The filter forgets an id not admitted for this long: the grace, at most 240 s until chitchat's
/// verdict (24 times a mean interval of 10 s), and some more.
pub const GOSSIP_SEEN_KEEP: Duration = Duration::from_secs(400);
/// Messages of one peer in a burst; the rest is dropped. Three SYNs a round and their answers
/// are nine, of all peers together.
pub const GOSSIP_PEER_BURST: u64 = 64;
/// Messages of one peer a second.
pub const GOSSIP_PEER_RATE: u64 = 16;
/// No heartbeat reaches this: at 64 a second it takes 544 years.
pub const GOSSIP_HEARTBEAT_MAX: u64 = 1 << 40;
/// How far a heartbeat may rise a second: four peers that spend their whole budget.
pub const GOSSIP_HEARTBEAT_RATE: u64 = 64;
/// How far a heartbeat may jump.
pub const GOSSIP_HEARTBEAT_BURST: u64 = 512;
/// No version reaches this: at 8 a second it takes 17 years of one generation.
pub const GOSSIP_VERSION_MAX: u64 = 1 << 32;
/// How far a version may rise a second: twice what four keys written once a second need.
pub const GOSSIP_VERSION_RATE: u64 = 8;
/// How far a version may jump.
pub const GOSSIP_VERSION_BURST: u64 = 64;
/// Our own keys are written at most this often.
pub const GOSSIP_OWN_EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for one peer's link; the oldest goes.
pub const GOSSIP_PEER_QUEUE: usize = 4;
/// Messages between the adapter and chitchat, each way; the newest goes.
pub const GOSSIP_QUEUE: usize = 64;
/// Neighbours spoken to in a round while no live peer is known.
pub const GOSSIP_POKES: usize = 4;
/// Unknown ids reported of one message.
pub const GOSSIP_UNKNOWN_PER_MESSAGE: usize = 16;
/// An unknown id is reported at most this often.
pub const GOSSIP_UNKNOWN_EVERY: Duration = Duration::from_secs(2);
/// Unknown ids whose report is remembered.
pub const GOSSIP_UNKNOWN_KEPT: usize = 256;
/// First pause before chitchat is started again after its end; it doubles.
pub const GOSSIP_RESTART_MIN: Duration = Duration::from_secs(1);
/// Longest pause before chitchat is started again.
pub const GOSSIP_RESTART_MAX: Duration = Duration::from_secs(60);
/// How long a restart waits for our record with the new generation to show itself.
pub const GOSSIP_ANNOUNCE_WAIT: Duration = Duration::from_secs(10);
/// Rounds for which the view of a chitchat that ended stands beside its successor's: a peer
/// counts as live after two heartbeats, which take up to ten rounds to come around.
pub const GOSSIP_KEEP_ROUNDS: u32 = 10;

const _: () = assert!(GOSSIP_IDS_MAX * 51 + 2 + 16_384 <= 65_506);
const _: () = assert!(GOSSIP_ROUND_OPEN.as_millis() * 2 <= GOSSIP_ROUND_MIN.as_millis());
// Who is dead must not outlive the filter's memory in chitchat, and half of the grace, for which
// the dead are still told, must outlive the slowest round many times.
const _: () = assert!(
    GOSSIP_DEAD_GRACE.as_secs() + GOSSIP_DEAD_INTERVALS * GOSSIP_ROUND_MAX.as_secs()
        <= GOSSIP_SEEN_KEEP.as_secs()
);
const _: () = assert!(GOSSIP_DEAD_GRACE.as_secs() / 2 >= 6 * GOSSIP_ROUND_MAX.as_secs());
const _: () = assert!(GOSSIP_IDS_MAX >= GOSSIP_GENERATIONS * NODES_WARN);
const _: () = assert!(GOSSIP_IDS_MAX * (51 + 44 + GOSSIP_KEYS * 143) <= GOSSIP_OWN_BYTES);
// The agent's API: socket and HTTP.

/// A request's body: the largest file of documents, and room for its JSON envelope.
pub const API_BODY_BYTES: usize = MANIFEST_BYTES + 64 * 1024;
/// A request's head: 64 headers of 256 bytes. hyper refuses a buffer below 8 KiB.
pub const API_HEAD_BYTES: usize = 16 * 1024;
/// Headers of one request.
pub const API_HEADERS: usize = 64;
/// Connections served at one time on each of the socket and the HTTP port; the next one waits in
/// the kernel's backlog. 64 heads and bodies in flight are at most 64 x 1.1 MiB = 70 MiB.
pub const API_CONNECTIONS: usize = 64;
/// A request's head must be there within this, and an idle connection ends after it.
pub const API_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A request, body and answer, must be done within this: a drain of 30 s and a wait for peers fit.
pub const API_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A connection ends after this, whatever it does: a request and an idle pause fit.
pub const API_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// How long open requests may take to finish once the agent stops.
pub const API_SHUTDOWN: Duration = Duration::from_secs(2);
/// An answer that the command line accepts: 4,096 services of 4 KiB.
pub const API_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// How long `apply --wait` and its like may wait for peers.
pub const API_WAIT_MAX: Duration = Duration::from_secs(60);
/// The text of a ttl check's output.
pub const CHECK_OUTPUT_BYTES: usize = 4096;

const _: () = assert!(API_WAIT_MAX.as_secs() < API_REQUEST_TIMEOUT.as_secs());
const _: () = assert!(API_REQUEST_TIMEOUT.as_secs() < API_CONNECTION_AGE.as_secs());

// Telemetry.

/// Lines of the access log that may wait to be written; the next one is dropped and counted.
/// 4,096 at about 512 bytes are 2 MiB.
pub const ACCESS_LOG_QUEUE: usize = 4096;
/// Lines of the access log per second; what exceeds it is dropped and counted.
pub const ACCESS_LOG_PER_SECOND: u64 = 1000;
/// Service names that stand as a metric's label; the rest counts as `other`. 512 names with 16
/// reasons are 8,192 series.
pub const METRIC_SERVICES: usize = 512;

// The driver.

/// Commands that wait for the driver: each is small or a frame, and a sender waits when it is
/// full, so that a peer that floods slows itself.
pub const DRIVER_QUEUE: usize = 1024;
/// Frames that wait for one link's writer; a peer that lets it fill loses the link.
pub const LINK_QUEUE: usize = 8192;
/// Bytes of them beyond which a peer loses the link: a whole set of revocations, 5 MB, fits.
pub const LINK_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of them beyond which records, versions and heads are dropped: one answer to a pull fits,
/// and the next exchange tells the rest to who has read it.
pub const LINK_QUEUE_BULK: usize = 1280 * 1024;
/// Bytes of records and versions that one peer is answered with at once, and from then on each
/// second: all that 2,700 nodes say, then as fast as a good link carries it.
pub const ANSWERED_BURST: usize = 4 * 1024 * 1024;
/// chitchat messages from peers that wait.
pub const GOSSIP_WAITING: usize = 256;

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
pub const LINK_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
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
/// Handshakes at one time on the control runtime: at 1 ms each they delay a probe, which may take
/// [`PROBE_EVERY`], by a thirtieth of that. Marked ones above this count as data.
pub const HANDSHAKES_CONTROL: usize = 32;
const _: () = assert!(HANDSHAKES_CONTROL < HANDSHAKES_UNVALIDATED);
/// First packets that wait to be looked at.
pub const INCOMING_MAX: usize = 1024;
/// Bytes kept of one of them, and of all.
pub const INCOMING_BUFFER: u64 = 64 * 1024;
/// See [`INCOMING_BUFFER`].
pub const INCOMING_BUFFERS: u64 = 8 * 1024 * 1024;
/// Addresses of one seed's name that are tried.
pub const SEED_ADDRESSES: usize = 64;
/// Addresses that one dial tries: four advertised, four observed.
pub const DIAL_ADDRESSES: usize = 8;
/// The socket's buffers: 80 ms at 100 MB/s.
pub const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

const _: () = assert!(KEEP_ALIVE.as_millis() * 3 <= IDLE_TIMEOUT.as_millis());
const _: () = assert!(STREAM_WINDOW <= CONTROL_WINDOW && CONTROL_WINDOW <= DATA_WINDOW);

// The proxy.

/// How long a peer may take over a stream's head, from the kind byte to its last byte.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connecting to the application behind the serving agent may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection on which nothing moves for so long is reset (at the latest after twice as long).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Streams that one peer may have open to us; one more is refused with `overload`. A peer that
/// fills them holds 1,024 times two first buffers, 8 MiB.
pub const STREAMS_PER_PEER: usize = 1024;
/// Data links of one peer that it dialled: the one in use and one that it dials anew. A further one
/// replaces the oldest.
pub const DATA_LINKS_PER_PEER: usize = 2;
/// Streams of one peer that have not said yet what they are, each for a few seconds.
pub const STREAMS_OPENING: usize = 256;
/// The same of all peers.
pub const STREAMS_OPENING_MAX: usize = 2048;
/// Questions of one peer that are answered at one time: each answer may wait to be read, and 4 of
/// 1.25 MiB are 5 MiB.
pub const ASKS_PER_PEER: usize = 4;
/// The same of all peers, 80 MiB.
pub const ASKS_MAX: usize = 64;
/// Streams of all peers; one more is refused with `overload`. 8,192 idle ones are 64 MiB.
pub const STREAMS_MAX: usize = 8192;
/// Connections of this host's applications; one more is accepted and reset, and logged.
pub const CONNECTIONS_MAX: usize = 8192;
/// Files that an agent has open besides: listeners, checks, its database, API connections.
pub const OPEN_FILES_OWN: usize = 256;
/// The first buffer of a direction: an idle connection holds two, 8 KiB.
pub const BUFFER_START: usize = 4 * 1024;
/// The buffer after [`BUFFER_MIDDLE_AFTER`] bytes.
pub const BUFFER_MIDDLE: usize = 16 * 1024;
/// See [`BUFFER_MIDDLE`].
pub const BUFFER_MIDDLE_AFTER: u64 = 128 * 1024;
/// The buffer after [`BUFFER_LARGE_AFTER`] bytes: a bulk transfer.
pub const BUFFER_LARGE: usize = 256 * 1024;
/// See [`BUFFER_LARGE`].
pub const BUFFER_LARGE_AFTER: u64 = 10 * 1024 * 1024;
/// A direction that is idle for so long goes back to its first buffer.
pub const BUFFER_SHRINK_AFTER: Duration = Duration::from_secs(1);
/// Keep-alive on sockets of applications: after 60 s, then every 10 s, six times.
pub const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// See [`KEEPALIVE_TIME`].
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// See [`KEEPALIVE_TIME`].
pub const KEEPALIVE_RETRIES: u32 = 6;
/// Listeners of this host, virtual addresses too. Each holds a file descriptor and a task.
pub const LISTENERS_MAX: usize = 2048;
/// A listener that could not be bound is tried again this often.
pub const BIND_RETRY: Duration = Duration::from_secs(2);
/// How long accepting pauses when the host has no file descriptor left.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Services that have a virtual address on this host. A /16 has 65,024 that may be used, so a
/// free one is found after two tries on average even in the smallest range.
pub const VIRTUAL_ADDRESSES_MAX: usize = 16 * 1024;

const _: () = assert!(VIRTUAL_ADDRESSES_MAX * 2 <= 65_024);

/// Finding the unit of a local caller may take so long. To ask the kernel takes a tenth of a
/// millisecond; a walk over [`CGROUPS_MAX`] cgroups or [`DESCRIPTORS_MAX`] descriptors, where one
/// is needed, a tenth of a second.
pub const IDENTIFY_TIMEOUT: Duration = Duration::from_millis(500);
/// Cgroups whose unit is remembered; a host with 1,000 units has about 2,000. 16,384 at 40 bytes
/// are 640 KiB.
pub const CGROUPS_MAX: usize = 16 * 1024;
/// Processes of one user that are looked at for the one that holds a socket.
pub const PROCESSES_MAX: usize = 4096;
/// Their descriptors that are read for it, of all together, at 1 us each.
pub const DESCRIPTORS_MAX: usize = 64 * 1024;
/// Searches for the holder of a socket at one time; who waits longer than [`IDENTIFY_TIMEOUT`]
/// is not known.
pub const SEARCHES_MAX: usize = 2;
/// What is read of /proc/PID/cgroup: 16 hierarchies of a path each.
pub const CGROUP_TEXT_BYTES: u64 = 64 * 1024;
/// A run of `nft` may take so long; it takes 5 ms.
pub const NFT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read of its answer: a pipe's worth, 300 chains.
pub const NFT_OUTPUT_BYTES: u64 = 64 * 1024;
/// How long an agent waits for another one that is changing the table.
pub const NFT_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked whether the redirect still stands: a firewall that is loaded anew
/// flushes it. At 5 ms of CPU each it costs 0.02 % of a core.
pub const CAPTURE_LOOK: Duration = Duration::from_secs(30);
const _: () = assert!(STREAMS_PER_PEER < STREAMS_MAX);
// Joining.

/// A join or a renewal lasts at most this long: two round trips, two writes to disk, with room.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that join or renew at one time: each costs a few signatures and up to
/// [`JOIN_TIMEOUT`], and none of it on the engine's thread.
pub const JOINS_AT_ONCE: usize = 32;
/// Of those from one network, /24 or /56: half.
pub const JOINS_PER_PREFIX: usize = 16;
/// How many of one network come at once before they are paced: a rack of new hosts.
pub const JOIN_BURST: u32 = 64;
/// Joins and renewals that one agent copies to an issuer at one time, or an issuer is sent by
/// copying agents: they use streams of links that carry calls.
pub const RELAYS_AT_ONCE: usize = 8;
/// Of those that an issuer is sent, by one agent.
pub const RELAYS_PER_PEER: usize = 4;
/// Connections of one member that have not sent their Hello: one of each role, twice.
pub const GREETING_PER_PEER: usize = 4;
/// The same of all members: each of a full agent's links at once.
pub const GREETING_AT_ONCE: usize = 512;
/// Streams that one joining connection may use: a request, and the same through an issuer.
pub const JOIN_STREAMS: usize = 4;
/// Bytes copied each way between a joiner and an issuer: a message and its handshake.
pub const RELAY_BYTES: u64 = 64 * 1024;
/// Tokens whose uses one issuing host counts: 1,024 at 20 bytes are 20 KiB of its record.
pub const TOKENS_COUNTED: usize = 1024;

/// Targets of one traffic policy: versions of a service that live side by side.
pub const TARGETS_MAX: usize = 16;

/// A compiled regular expression of a match: about a thousand states, enough for any path.
pub const REGEX_BYTES: usize = 64 << 10;

/// A method's name: the longest registered one has 17 bytes.
pub const METHOD_BYTES: usize = 32;

/// A header's name in a document.
pub const HEADER_NAME_BYTES: usize = 128;

/// A host with its port: 253 bytes of name, a colon, five digits.
pub const AUTHORITY_BYTES: usize = 259;

/// Headers that frame a message or belong to one hop: no document changes them.
pub const FRAMING_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Tries of one call after its first.
pub const RETRY_ATTEMPTS_MAX: u32 = 10;

/// Failures in a row before an endpoint is an outlier, at most.
pub const EJECT_FAILURES_MAX: u32 = 1_000;

/// The wait before a first retry, at most: a connection within a region takes less.
pub const RETRY_BACKOFF: Duration = Duration::from_millis(25);
/// The wait before any retry, at most.
pub const RETRY_BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Sources or header values that one rate limit counts apart: 24 bytes each, 100 KiB a limit.
pub const RATE_SOURCES: usize = 4096;

// HTTP.

/// A request's or a response's head as text.
pub const HTTP_HEAD_BYTES: usize = 16 * 1024;
/// Headers of one.
pub const HTTP_HEADERS: usize = 100;
/// The line before a chunk: its size and an extension.
pub const HTTP_CHUNK_LINE_BYTES: usize = 256;
/// A head between agents: [`HTTP_HEAD_BYTES`], and for each header two lengths of 8 bytes.
pub const EXCHANGE_HEAD_BYTES: usize = 32 * 1024;
/// Headers of a head between agents: the client's, and those that agents add.
pub const EXCHANGE_HEADERS: usize = HTTP_HEADERS + 16;
/// A piece of a body between agents.
pub const EXCHANGE_DATA_BYTES: usize = 64 * 1024;
/// Streams that a client of HTTP/2 may have open on one connection (RFC 9113 6.5.2).
pub const H2_STREAMS: u32 = 100;
/// Over this time frames without use are counted.
pub const H2_WINDOW: Duration = Duration::from_secs(10);
/// Streams that a client may reset within [`H2_WINDOW`].
pub const H2_RESETS: u32 = 200;
/// Pings, settings, priorities and empty frames within [`H2_WINDOW`], over one for each frame of
/// headers or data: gRPC measures its path by pings among its data.
pub const H2_IDLE_FRAMES: u32 = 1_000;
/// Pieces of one header block behind its first.
pub const H2_CONTINUATIONS: u32 = 8;
/// What a client may send on one stream of HTTP/2 before it is read.
pub const H2_STREAM_WINDOW: u32 = 256 * 1024;
/// On a whole connection of HTTP/2.
pub const H2_WINDOW_BYTES: u32 = 1024 * 1024;
/// On a whole connection to a process, which all callers share: as much as there can be (RFC 9113
/// 6.9.1), so that each is bounded by its own streams and none holds up the others.
pub const H2_SHARED_WINDOW: u32 = 0x7fff_ffff;
/// A head must be whole within this from its first byte.
pub const HTTP_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection of HTTP without a request, and a body on which nothing moves, end after this.
pub const HTTP_IDLE: Duration = Duration::from_secs(300);
/// A client outside of the mesh that has connected sends its first byte within this.
pub const HTTP_FIRST_OUTSIDE: Duration = Duration::from_secs(60);
/// Connections of one address outside of the mesh (of IPv6, one /64) at a gateway.
pub const CLIENT_CONNECTIONS: usize = 256;
/// Requests of one such address that are under way: two of them hold a host's share.
pub const CLIENT_REQUESTS: usize = 256;
/// Those of them that have switched to another protocol, and live for long.
pub const CLIENT_SWITCHED: usize = 128;
/// Of an address's connections those whose HTTP/2 window is [`H2_WINDOW_BYTES`]: at most 16 MiB, and
/// 15 MiB for the others with [`H2_WINDOW_LEAST`]. All that may come from outside hold 384 MiB when
/// no address has more than one narrow connection for each wide one.
pub const CLIENT_WIDE: usize = 16;
/// The least window of a connection (RFC 9113 6.9.2: the initial one).
pub const H2_WINDOW_LEAST: u32 = 65_535;
/// Calls from outside that a gateway has open at one host of the mesh: half of what that one takes
/// of it, the other half is for the programs of the gateway's host.
pub const OUTSIDE_PER_HOST: usize = STREAMS_PER_PEER / 2;
const _: () = assert!(CLIENT_REQUESTS * 2 <= OUTSIDE_PER_HOST);
/// How long a body from outside may be waited for in all, besides a second for each
/// [`BODY_LEAST_RATE`] bytes of it.
pub const BODY_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes in a second that a client outside sends of a body.
pub const BODY_LEAST_RATE: u64 = 512;
/// Host names and ports that a gateway's document gives to namespaces.
pub const GATEWAY_HOSTS: usize = 256;
/// Connections of clients outside of the mesh, of [`CONNECTIONS_MAX`]: the rest is for programs on
/// this host.
pub const CONNECTIONS_OUTSIDE: usize = CONNECTIONS_MAX / 4 * 3;
/// First bytes that are looked at to tell HTTP from bytes, and for how long.
pub const SNIFF_BYTES: usize = 1024;
/// See [`SNIFF_BYTES`].
pub const SNIFF_TIMEOUT: Duration = Duration::from_millis(200);
/// Of a request's body so much is kept to be sent again.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// Idle connections to one process that are kept: at 20 KiB of buffers each 640 KiB.
pub const PROCESS_IDLE_MAX: usize = 32;
/// For how long one is kept: Node.js closes its side after 5 s, most others later.
pub const PROCESS_IDLE: Duration = Duration::from_secs(4);
/// How long requests may take that came while a drain waited for others.
pub const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// Behind the first 16 bytes of a PROXY header: addresses, and what cloud balancers add.
pub const PROXY_HEADER_BYTES: usize = 2048;
/// Pieces of a body that may wait for a mirror; one that is slower is given up.
pub const MIRROR_QUEUE: usize = 16;
/// Copies on their way at one time; one more is not made.
pub const MIRRORS_MAX: usize = 256;
/// A copy may take so long.
pub const MIRROR_TIME: Duration = Duration::from_secs(30);
/// Of a path so many characters are logged.
pub const LOGGED_PATH: usize = 256;
/// A service that wants to be left alone for longer before a retry is not tried again.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);
/// Answers whose time is remembered for a hedge.
pub const HEDGE_SAMPLES: usize = 128;

const _: () = assert!(HTTP_HEAD_BYTES + EXCHANGE_HEADERS * 16 + 4096 <= EXCHANGE_HEAD_BYTES);
