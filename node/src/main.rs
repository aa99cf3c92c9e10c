//! The binary.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    skein_node::cli::main(&skein_node::cli::local::ThisHost)
}
