//! The exec shim: what a prover's process does first, before it becomes the prover.
//!
//! `push0 shim -- --parent=PID [--memory-mib=N] [--no-network] -- PROGRAM ARGS…` takes the network away where that is wanted, asks the kernel to kill this process when the thread that started it
//! dies, makes sure that this has not happened already, sets resource limits, and executes the program in its own place: same process
//! id, same group. Neither the parent-death signal nor the limits need a line of code in the prover.
//!
//! The signal is lost for programs that gain privileges when executed (set-user-id, file capabilities), and is not inherited by what
//! the prover forks; limits are. Everything that goes wrong here ends with exit code 75 and a line on stderr: another worker may do.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::getppid;
use push0_core::pipeline::ProverCommand;
use push0_prover::wire::EXIT_RETRYABLE;

/// Open files a prover may have.
const MAX_FILES: u64 = 4096;

/// The whole of the process: never returns. `args` are those behind the shim's own name; a leading `--` is skipped. Call it first in
/// `main`, before any thread or runtime is started.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let why = match Shim::parse(args) {
        Ok(shim) => shim.become_prover(),
        Err(why) => why,
    };
    eprintln!("push0 shim: {why}");
    std::process::exit(EXIT_RETRYABLE)
}

/// The arguments `shim_main` reads, in front of the program.
pub(crate) fn arguments(prover: &ProverCommand) -> Vec<String> {
    let mut arguments = vec![format!("--parent={}", std::process::id())];
    arguments.extend(prover.memory_limit_mib.map(|mib| format!("--memory-mib={mib}")));
    arguments.extend((!prover.network).then(|| "--no-network".to_owned()));
    arguments.push("--".to_owned());
    arguments
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Shim {
    parent: i32,
    memory_mib: Option<u64>,
    no_network: bool,
    command: Vec<OsString>,
}

impl Shim {
    fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut shim = Self::default();
        let mut args = args.into_iter().peekable();
        args.next_if(|arg| arg == "--");
        for arg in args.by_ref() {
            let text = arg.to_string_lossy();
            match text.split_once('=') {
                Some(("--parent", pid)) => {
                    shim.parent = pid.parse().map_err(|_| format!("{pid:?} is no process id"))?
                }
                Some(("--memory-mib", mib)) => {
                    shim.memory_mib = Some(mib.parse().map_err(|_| format!("{mib:?} is no number of MiB"))?);
                }
                None if text == "--no-network" => shim.no_network = true,
                None if text == "--" => break,
                _ => {
                    return Err(format!("unknown argument {text:?}; the worker calls this, people do not"));
                }
            }
        }
        shim.command = args.collect();
        if shim.parent <= 0 || shim.command.is_empty() {
            return Err("wanted: --parent=PID [--memory-mib=N] [--no-network] -- PROGRAM ARGS…".to_owned());
        }
        Ok(shim)
    }

    /// Returns only to say why it could not.
    fn become_prover(&self) -> String {
        // Entering a namespace of users takes the parent-death signal away, so that comes second.
        if let Err(why) = self.leave_network().and_then(|()| self.tie_to_parent()).and_then(|()| self.limit()) {
            return why;
        }
        let error = Command::new(&self.command[0]).args(&self.command[1..]).exec();
        format!("cannot execute {}: {error}", self.command[0].to_string_lossy())
    }

    /// A network namespace of its own has nothing in it. Who is not root needs a user namespace for that, in which the user stays who it is.
    #[cfg(target_os = "linux")]
    fn leave_network(&self) -> Result<(), String> {
        use nix::sched::{CloneFlags, unshare};
        use nix::unistd::{getegid, geteuid};
        if !self.no_network {
            return Ok(());
        }
        let (user, group) = (geteuid(), getegid());
        if user.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| {
            format!(
                "cannot take the network away (`network = false`): {error}; allow user namespaces on this host (sysctl user.max_user_namespaces, \
                 kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or run the worker as root"
            )
        };
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|error| failed(&error))?;
        let write = |file: &str, text: String| std::fs::write(file, text).map_err(|error| failed(&error));
        write("/proc/self/setgroups", "deny".to_owned())?;
        write("/proc/self/uid_map", format!("{user} {user} 1"))?;
        write("/proc/self/gid_map", format!("{group} {group} 1"))
    }

    #[cfg(not(target_os = "linux"))]
    fn leave_network(&self) -> Result<(), String> {
        match self.no_network {
            true => Err("cannot take the network away (`network = false`): that needs Linux".to_owned()),
            false => Ok(()),
        }
    }

    fn tie_to_parent(&self) -> Result<(), String> {
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
            .map_err(|error| format!("cannot set the parent-death signal: {error}"))?;
        // Asked after the signal is set: a parent that dies from here on takes this process along.
        if getppid().as_raw() != self.parent {
            return Err("the worker died before the prover was started".to_owned());
        }
        Ok(())
    }

    fn limit(&self) -> Result<(), String> {
        let failed = |what: &'static str| move |error: nix::errno::Errno| format!("cannot limit {what}: {error}");
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("core dumps"))?;
        let (_, most_files) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed("open files"))?;
        let files = most_files.min(MAX_FILES);
        setrlimit(Resource::RLIMIT_NOFILE, files, most_files).map_err(failed("open files"))?;
        if let Some(mib) = self.memory_mib {
            let (_, most) = getrlimit(Resource::RLIMIT_AS).map_err(failed("memory"))?;
            let bytes = mib.saturating_mul(1 << 20).min(most);
            setrlimit(Resource::RLIMIT_AS, bytes, bytes).map_err(failed("memory"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Shim, String> {
        Shim::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn arguments_are_read_up_to_the_program_and_no_further() {
        let wanted = Shim {
            parent: 7,
            memory_mib: Some(512),
            no_network: true,
            command: ["prover", "--parent=9", "--", "x"].map(OsString::from).to_vec(),
        };
        for leading in [&["--"][..], &[]] {
            let rest = ["--parent=7", "--memory-mib=512", "--no-network", "--", "prover", "--parent=9", "--", "x"];
            assert_eq!(parse(&[leading, &rest].concat()).unwrap(), wanted);
        }
    }

    #[test]
    fn what_the_worker_would_not_say_is_refused() {
        for bad in [&["--parent=7", "--"][..], &["--", "prover"], &["--parent=x", "--", "p"], &["prover"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
