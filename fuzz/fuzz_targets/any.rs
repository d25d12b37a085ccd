//! Any of the targets in `tests/hostile`: the variable `PUSH0_HOSTILE_TARGET` names it. `scripts/fuzz` runs it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use push0_tests::hostile::{Target, attempt, target};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("PUSH0_HOSTILE_TARGET").expect("PUSH0_HOSTILE_TARGET names a target");
    target(&name).unwrap_or_else(|| panic!("there is no target {name}"))
});

fuzz_target!(
    init: {
        // The fuzzer's own hook ends the process at any panic, also at one that is caught where it should be.
        drop(std::panic::take_hook());
        std::panic::set_hook(Box::new(|_| {}));
        // What is made on first use is no input's.
        for warm in [&b""[..], b"x", b"{\"v\":1}"] {
            let _ = attempt(&TARGET, warm, &ALLOCATOR);
        }
    },
    |input: &[u8]| {
        if let Err(first) = attempt(&TARGET, input, &ALLOCATOR) {
            // What was made on first use, again, is not made twice.
            if let Err(what) = attempt(&TARGET, input, &ALLOCATOR) {
                eprintln!("{}: {what} (first: {first})", TARGET.name);
                std::process::abort();
            }
        }
    }
);
