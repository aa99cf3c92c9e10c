//! HTTP: requests of applications on this host, each to an endpoint of its own.
//!
//! ```text
//! application -> guarded -> hyper -> front -> exchange -> frames ... frames -> serve -> processes -> service
//! ```
//!
//! In:    connections that speak HTTP to services whose rules are about requests.
//! Out:   one exchange on one stream for each request, one line of the log for each.
//! Never: passes on what two readers could read in two ways, a header of one hop, or a client's
//!        word about who it is. Holds more of a body than its windows and what may be sent again.
//!
//! Absent: HTTP/3, `CONNECT`, switching to anything but WebSocket, 1xx other than 100 and 101.

mod converse;
mod exchange;
mod frames;
mod front;
mod guarded;
mod head;
mod processes;
mod serve;
mod upload;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

pub(super) use converse::{Answer, Fallen, Outgoing, Says};
pub(super) use processes::ProcessPool;

/// A body on its way, and why it broke.
type Body = UnsyncBoxBody<Bytes, std::io::Error>;
