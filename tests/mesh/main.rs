//! Whole-agent tests: one module a promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod address;
mod bad_input;
mod budgets;
mod capture;
mod carry;
mod crash;
mod foreign;
mod full;
mod gateway;
mod harness;
mod hostile;
mod http;
mod kill;
mod lasts;
mod mission;
mod policy;
mod pressure;
mod revoke;
mod smuggle;
mod tidy;
mod time;
mod token;
mod traffic;
mod walk;
mod walls;
mod who;
