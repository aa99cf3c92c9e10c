//! Exports `getrandom` of `src/entropy.rs` from the binary, so that who looks the symbol up at run
//! time finds it before the C library's.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic");
}
