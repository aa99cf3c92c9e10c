//! HTTP as skein reads it: strictly, and before anything of it goes on.
//!
//! In:    bytes of a connection, parts of a head.
//! Out:   whether they are what every reader of them would take them for; the one form of a path.
//! Never: repairs. What two readers could read in two ways is refused.

pub mod flood;
pub mod header;
pub mod path;
pub mod sniff;
pub mod strict;

pub use flood::{Flood, Floodgate};
pub use path::{PathFault, canonical};
pub use sniff::{Sniffed, sniff};
pub use strict::{Fault, Strict};
