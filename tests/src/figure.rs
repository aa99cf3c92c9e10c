//! Figures: what a test measured on its way, in lines that `.ci/figures` gathers.

use std::time::Duration;

/// Tells one figure. `name` is the same in every run.
pub fn figure(name: &str, took: Duration) {
    println!("figure | {name} | {:.1}", took.as_secs_f64() * 1_000.0);
}

/// Tells a figure that is no time.
pub fn count(name: &str, number: u64) {
    println!("figure | {name} | {number}");
}
