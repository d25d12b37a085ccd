//! Hostile input: one list of everything that reads what others wrote, each as a [`Target`]. The fuzzer (`fuzz/`) and the test that replays
//! its corpus (`tests/hostile_input.rs`) run the same.
//!
//! Of every target holds: it does not panic, it ends, and of an input of `n` bytes it never has more than `per_byte · n + base` bytes in
//! hand. Where there is an encoder, what is read is written and read again as the same.

mod engine;
mod functions;
mod http;
mod provers;
mod records;
mod rollup;
mod texts;
mod zkvm;

use peak_alloc::PeakAlloc;

/// Something that reads what others wrote.
pub struct Target {
    pub name: &'static str,
    /// Whether the input was taken for what it should be. Panics where a property does not hold.
    pub run: fn(&[u8]) -> bool,
    /// Bytes in hand at a time, for each byte of the input.
    pub per_byte: usize,
    /// And whatever the input is.
    pub base: usize,
    /// It sets up a system for every input: fewer are tried.
    pub is_slow: bool,
    /// The records and messages it reads, by [`push0_core::record::Versioned::NAME`].
    pub reads: &'static [&'static str],
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8]) -> bool) -> Self {
        Self { name, run, per_byte: PER_BYTE, base: BASE, is_slow: false, reads: &[] }
    }

    const fn reads(self, reads: &'static [&'static str]) -> Self {
        Self { reads, ..self }
    }

    const fn within(self, per_byte: usize, base: usize) -> Self {
        Self { per_byte, base, ..self }
    }

    const fn slow(self) -> Self {
        Self { is_slow: true, ..self }
    }

    /// Bytes it may have in hand over an input of so many.
    pub fn most(&self, input: usize) -> usize {
        self.per_byte * input + self.base
    }
}

/// JSON's worst case is a list of one-digit numbers: two bytes of text become a value of 32, in a list that doubles as it grows. A record
/// that is read is written and read once more here.
const PER_BYTE: usize = 200;
const BASE: usize = 64 * 1024;

/// All of them, by name.
pub fn targets() -> Vec<Target> {
    let lists = [
        records::targets(),
        texts::targets(),
        provers::targets(),
        rollup::targets(),
        zkvm::targets(),
        http::targets(),
        functions::targets(),
        engine::targets(),
    ];
    let mut all: Vec<Target> = lists.into_iter().flatten().collect();
    all.sort_by_key(|target| target.name);
    all
}

pub fn target(name: &str) -> Option<Target> {
    targets().into_iter().find(|target| target.name == name)
}

/// Runs a target over an input; the error says what does not hold. `allocator`: that of the program, which counts the bytes in hand.
pub fn attempt(target: &Target, input: &[u8], allocator: &PeakAlloc) -> Result<bool, String> {
    let run = std::panic::AssertUnwindSafe(|| (target.run)(input));
    allocator.reset_peak_usage();
    let before = allocator.current_usage();
    let outcome = std::panic::catch_unwind(run);
    let (had, most) = (allocator.peak_usage().saturating_sub(before), target.most(input.len()));
    let accepted = outcome.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("it panicked: {}", said.unwrap_or_default())
    })?;
    if had > most {
        return Err(format!("of {} bytes it had {had} in hand; at most {most} are allowed", input.len()));
    }
    Ok(accepted)
}

/// An input that stands for several files: parted by lines of three dashes.
fn parts(input: &[u8]) -> Vec<&[u8]> {
    let mark = b"\n---\n";
    let (mut parts, mut rest) = (Vec::new(), input);
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        parts.push(&rest[..at]);
        rest = &rest[at + mark.len()..];
    }
    parts.push(rest);
    parts
}

/// Work that never really waits, on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for one thread");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}
