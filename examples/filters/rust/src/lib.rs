//! A code filter: lets an order through that has the tag `urgent`, or whose body says `URGENT`.
//!
//! ```text
//! rustup target add wasm32-unknown-unknown
//! cargo build --release --target wasm32-unknown-unknown
//! apogee filter attach orders billing target/wasm32-unknown-unknown/release/urgent.wasm
//! ```
//! What is above the line is the filter; what is below it is the same in every filter.
#![no_std]

/// Says whether a message is let through. Properties are pairs, `name \u{1} value \u{2}` repeated.
fn wanted(properties: &[u8], body: &[u8]) -> bool {
    let mut pairs = properties.split(|byte| *byte == 2);
    pairs.any(|pair| pair == b"TAGS\x01urgent") || body.windows(6).any(|part| part == b"URGENT")
}

// ---------------------------------------------------------------------------------------------------------------------

/// Bytes of a page of memory.
const PAGE: usize = 65_536;

/// Returns where the server writes `len` bytes: in new pages. Each message meets a fresh instance, so nothing is given back.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    let before = core::arch::wasm32::memory_grow::<0>(len.div_ceil(PAGE));
    // More than the server lets a message have; such a one is not delivered.
    assert!(before != usize::MAX);
    (before * PAGE) as *mut u8
}

/// Called by the server with what it wrote at the places that `alloc` gave.
#[unsafe(no_mangle)]
pub extern "C" fn filter(properties: *const u8, properties_len: usize, body: *const u8, body_len: usize) -> i32 {
    // SAFETY: the server has written these bytes.
    let (properties, body) = unsafe {
        (core::slice::from_raw_parts(properties, properties_len), core::slice::from_raw_parts(body, body_len))
    };
    wanted(properties, body).into()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
