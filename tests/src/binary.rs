//! The binary under test.

use std::path::PathBuf;

/// The `skein` that was built with this test: `SKEIN_BIN`, or `target/<profile>/skein`, two
/// folders up from the test's own executable. nextest's setup script builds it before the first
/// whole-agent test (`.config/nextest.toml`); with plain `cargo test` say `cargo build` first.
pub fn skein() -> PathBuf {
    if let Some(path) = std::env::var_os("SKEIN_BIN") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("the path of this test");
    let path = test
        .parent()
        .and_then(|deps| deps.parent())
        .expect("target/<profile>/deps/<test>")
        .join("skein");
    assert!(
        path.is_file(),
        "no binary at {}: build it with `cargo build --workspace`, or name one in SKEIN_BIN",
        path.display()
    );
    path
}
