//! Whether a prover ended because memory did not suffice, where it could not say so itself.
//!
//! - The kernel killed it: it ended by SIGKILL, which is not what this worker sent (what the worker kills is never asked about), or a shell
//!   that ran it says so by exit code 137; and the kernel has counted a kill for want of memory in the worker's own control group since the
//!   task began (`oom_kill` of `memory.events`, control groups version 2; the kernel documentation's "Memory Interface Files"). Where that
//!   cannot be read, a kill is a crash like another.
//! - It failed to get memory, as under the limit that the worker sets ([`push0_core::pipeline::ProverCommand::memory_limit_mib`]), and ended
//!   with what its runtime says then in its last lines.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::OnceLock;

use nix::sys::signal::Signal;

/// What a shell ends with when its child ended by SIGKILL: 128 and the signal.
const KILLED_CHILD: i32 = 137;

/// What runtimes print when an allocation fails: Rust's, C++'s, Python's, the C library's, the JVM's, Go's, CUDA's.
const SAYINGS: [&str; 9] = [
    "memory allocation of ",
    "std::bad_alloc",
    "MemoryError",
    "Cannot allocate memory",
    "java.lang.OutOfMemoryError",
    "fatal error: runtime: out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "cudaErrorMemoryAllocation",
    "CUDA out of memory",
];

/// Only the last lines are the cause of the end.
const LINES: usize = 6;

/// How many processes of the worker's control group the kernel had killed for want of memory at some time; none: it does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kills(Option<u64>);

impl Kills {
    pub(super) fn now() -> Self {
        static EVENTS: OnceLock<Option<PathBuf>> = OnceLock::new();
        let events = EVENTS.get_or_init(|| events_of(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup")));
        Self(events.as_deref().and_then(count))
    }
}

/// Where the kernel counts for the control group that `membership` names.
fn events_of(membership: &Path, root: &Path) -> Option<PathBuf> {
    let membership = std::fs::read_to_string(membership).ok()?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = root.join(own.trim_start_matches('/')).join("memory.events");
    // In a container the path may be the host's, and the root the container's own.
    [own, root.join("memory.events")].into_iter().find(|events| events.is_file())
}

fn count(events: &Path) -> Option<u64> {
    let events = std::fs::read_to_string(events).ok()?;
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Whether a prover that ended so, with these last words, ran out of memory. `before`: when its task began, `now`: when it had ended.
pub(super) fn ran_out(status: Option<ExitStatus>, last_words: &str, before: Kills, now: Kills) -> bool {
    // One that had to be killed because it did not end was not out of anything.
    let Some(status) = status.filter(|status| !status.success()) else { return false };
    let is_kill = status.signal() == Some(Signal::SIGKILL as i32) || status.code() == Some(KILLED_CHILD);
    let was_counted = matches!((before, now), (Kills(Some(before)), Kills(Some(now))) if now > before);
    let says_so = |line: &str| SAYINGS.iter().any(|saying| line.contains(saying));
    (is_kill && was_counted) || last_words.lines().rev().take(LINES).any(says_so)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_the_own_control_group_is_found_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        std::fs::create_dir_all(dir.path().join("system.slice/push0.service")).unwrap();
        write("membership", "1:cpu:/old\n0::/system.slice/push0.service\n");
        let found = || events_of(&dir.path().join("membership"), dir.path());
        assert_eq!(found(), None, "the root group counts nothing");
        write("memory.events", "low 0\noom_kill 1\n");
        assert_eq!(found().and_then(|events| count(&events)), Some(1), "as in a container");
        write("system.slice/push0.service/memory.events", "low 0\noom 7\noom_kill 4\noom_group_kill 0\n");
        assert_eq!(found().and_then(|events| count(&events)), Some(4));
        write("membership", "1:cpu:/old\n");
        assert_eq!(found(), None, "version 1");
    }

    #[test]
    fn a_kill_counts_only_with_the_kernels_word_and_a_word_only_at_the_end() {
        let (signal, code) = (ExitStatus::from_raw, |code: i32| ExitStatus::from_raw(code << 8));
        let (none, four, five) = (Kills(None), Kills(Some(4)), Kills(Some(5)));
        let rust = "memory allocation of 1073741824 bytes failed";
        let long_ago = format!("{rust}, trying a smaller batch\n{}", "proving\n".repeat(LINES));
        let cases = [
            (signal(9), "", four, five, true),
            (signal(9), "", four, four, false),
            (signal(9), "", none, none, false),
            (signal(11), "", four, five, false),
            (code(137), "Killed", four, five, true),
            (code(137), "Killed", four, four, false),
            (code(1), "", four, five, false),
            (signal(6), rust, none, none, true),
            (
                signal(6),
                "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
                none,
                none,
                true,
            ),
            (code(1), "Traceback (most recent call last):\n  File \"p\", line 1\nMemoryError", none, none, true),
            (code(1), &long_ago, none, none, false),
            (code(0), rust, none, none, false),
        ];
        for (status, words, before, now, wanted) in cases {
            assert_eq!(ran_out(Some(status), words, before, now), wanted, "{status:?} {words} {before:?} {now:?}");
        }
        assert!(!ran_out(None, rust, four, five), "it was killed by the worker");
    }
}
