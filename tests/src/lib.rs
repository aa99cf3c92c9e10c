//! Shared pieces of the whole-agent tests.
