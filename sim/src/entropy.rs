//! Entropy: the C library's `getrandom`, answered from the seed.
//!
//! chitchat, the hash maps of the standard library and tokio's `select!` all draw from it. With
//! this in its place one seed gives one run. The linker is told to export the symbol
//! (`build.rs`), since some of them look it up by name at run time.
#![allow(unsafe_code, reason = "the C library's symbol is taken over: the one place of the mesh")]

use std::{
    ffi::{c_uint, c_void},
    sync::atomic::{AtomicU64, Ordering},
};

static STATE: AtomicU64 = AtomicU64::new(0);
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Everything random follows from `seed` from now on. What was drawn before followed from 0.
pub(crate) fn seed(seed: u64) {
    STATE.store(seed, Ordering::Relaxed);
}

/// How often somebody drew.
pub(crate) fn asked() -> u64 {
    ASKED.load(Ordering::Relaxed)
}

/// The next number of SplitMix64.
fn next() -> u64 {
    let step = 0x9e37_79b9_7f4a_7c15_u64;
    let mut z = STATE.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `length` bytes at `buffer`, always all of them.
///
/// # Safety
/// As of `getrandom(2)`: `buffer` can be written for `length` bytes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(
    buffer: *mut c_void,
    length: usize,
    _flags: c_uint,
) -> isize {
    ASKED.fetch_add(1, Ordering::Relaxed);
    if length > 0 {
        // SAFETY: the caller vouches for `length` bytes at `buffer`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        for chunk in bytes.chunks_mut(8) {
            let drawn = next().to_le_bytes();
            for (byte, random) in chunk.iter_mut().zip(drawn) {
                *byte = random;
            }
        }
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
