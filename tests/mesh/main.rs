//! Whole-agent tests.
