//! Replaces the operating system's randomness by bytes that follow from the seed. Hash tables (std), ids (uuid) and
//! every other caller of libc's `getrandom` get the same bytes in every run of a seed.

use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Sets the seed. Must be called before anything draws randomness.
pub(crate) fn sow(seed: u64) {
    STATE.store(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d, Ordering::SeqCst);
}

fn byte() -> u8 {
    let state = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes()[0]
}

/// Replaces libc's function of this name, getrandom(2), in this process.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes, as for libc's function.
#[expect(unsafe_code, reason = "the only way to give std and all crates randomness that repeats")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for place in 0..length {
        // SAFETY: the caller guarantees `length` writable bytes, and `place` is below `length`.
        unsafe { buffer.add(place).write(byte()) };
    }
    length as isize
}
