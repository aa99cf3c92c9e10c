//! The house's own rules, as far as a machine can see them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the workspace").to_owned()
}

/// All Rust sources of these folders, by path from the workspace's root.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("under the root").display();
                found.push((name.to_string(), std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    assert!(found.len() > 5, "the sources are where they are looked for");
    found
}

#[test]
fn the_pure_core_depends_on_no_runtime_socket_or_entropy() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "--offline", "--locked", "-p", "skein-protocol", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    assert!(tree.contains("skein-protocol"));
    for impure in ["tokio", "quinn", "socket2", "mio", "getrandom"] {
        let found = tree.lines().find(|line| line.split(' ').next() == Some(impure));
        assert_eq!(found, None, "in `cargo tree -p skein-protocol -e normal`");
    }
}

#[test]
fn one_file_names_bincode_and_one_folder_names_chitchat() {
    for (file, text) in sources(&["protocol/src", "node/src", "sim/src"]) {
        let code = || text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let names = |what: &str| code().any(|line| line.contains(what));
        if names("bincode::") {
            assert_eq!(file, "protocol/src/wire/codec.rs");
        }
        if names("::chitchat::{") || names("use chitchat") {
            let home = file.starts_with("node/src/gossip/") || file.starts_with("sim/src/chitchat");
            assert!(home, "{file} names chitchat");
        }
    }
}

#[test]
fn every_file_begins_with_its_contract() {
    let ours = ["protocol/src", "node/src", "sim/src", "tests/src", "tests/mesh", "tests/bench"];
    for (file, text) in sources(&ours) {
        assert!(text.starts_with("//!"), "{file} does not say what it is for");
    }
}
