//! Telemetry: lines for people, one line per connection, and numbers for monitors.
//!
//! Nothing here decides anything, blocks a caller, or grows with what peers send: labels come
//! from the registry's service names and closed enums only.

pub mod access;
pub mod log;
pub mod metrics;
