//! Hosts on a network: the owner and workers, each in a network namespace of its own, joined by a bridge in the owner's. A cable is cut by
//! taking the bridge's end of it down: what the host sends is gone, and nobody is told.
//!
//! Where namespaces are not allowed the hosts share the loopback network, and a host is cut off by freezing its processes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::Signal;

use super::installation::{program, signal, tree_of};

const PORT: u16 = 7330;

pub struct Network {
    /// Namespaces, the owner's first; none: everything on loopback.
    namespaces: Vec<String>,
    /// Tells the networks of one process apart.
    number: u16,
    /// What is logged, where it is not the default.
    pub log: Option<&'static str>,
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {said}")) }
}

impl Network {
    /// A network of an owner and so many worker hosts.
    pub fn new(hosts: usize) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let mut network = Self { namespaces: Vec::new(), number: NEXT.fetch_add(1, Ordering::Relaxed), log: None };
        let number = network.number;
        let name = |host: usize| format!("p0-{}-{number}-{host}", std::process::id());
        let made = (0..=hosts).try_for_each(|host| {
            let name = name(host);
            ip(&format!("netns add {name}"))?;
            network.namespaces.push(name);
            network.connect(host)
        });
        if let Err(problem) = made {
            eprintln!("no network namespaces here ({problem}): the hosts share the loopback network instead");
            network.remove();
        }
        network
    }

    fn connect(&self, host: usize) -> Result<(), String> {
        let (owner, own) = (&self.namespaces[0], &self.namespaces[host]);
        ip(&format!("-n {own} link set lo up"))?;
        if host == 0 {
            ip(&format!("-n {owner} link add br0 type bridge"))?;
            ip(&format!("-n {owner} addr add {}/24 dev br0", self.address(0)))?;
            return ip(&format!("-n {owner} link set br0 up"));
        }
        ip(&format!("-n {owner} link add port{host} type veth peer name eth0 netns {own}"))?;
        ip(&format!("-n {owner} link set port{host} master br0"))?;
        ip(&format!("-n {owner} link set port{host} up"))?;
        ip(&format!("-n {own} addr add {}/24 dev eth0", self.address(host)))?;
        ip(&format!("-n {own} link set eth0 up"))
    }

    fn address(&self, host: usize) -> Ipv4Addr {
        let last = host as u8 + 1;
        if self.namespaces.is_empty() { Ipv4Addr::new(127, 0, 0, last) } else { Ipv4Addr::new(10, 73, 30, last) }
    }

    /// Where the owner listens.
    pub fn owner(&self) -> String {
        let port =
            if self.namespaces.is_empty() { 20_000 + std::process::id() as u16 % 10_000 + self.number } else { PORT };
        format!("{}:{port}", self.address(0))
    }

    /// A command of push0 on this host; 0 is the owner.
    pub fn command(&self, host: usize) -> Command {
        let push0 = program("push0");
        let mut command = match self.namespaces.get(host) {
            None => Command::new(push0),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(push0);
                command
            }
        };
        if let Some(log) = self.log {
            command.env("PUSH0_LOG", log);
        }
        command
    }

    pub fn cut(&self, host: &Host) {
        self.set(host, "down", Signal::SIGSTOP);
    }

    pub fn mend(&self, host: &Host) {
        self.set(host, "up", Signal::SIGCONT);
    }

    fn set(&self, host: &Host, state: &str, otherwise: Signal) {
        let Some(owner) = self.namespaces.first() else {
            return tree_of(host.worker.id()).into_iter().for_each(|pid| signal(pid, otherwise));
        };
        ip(&format!("-n {owner} link set port{} {state}", host.number)).expect("the link was made");
    }

    fn remove(&mut self) {
        for namespace in self.namespaces.drain(..) {
            let _ = ip(&format!("netns del {namespace}"));
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A host with one worker, which knows an address and has a token, and no configuration.
pub struct Host {
    number: usize,
    worker: Child,
    directory: PathBuf,
}

impl Host {
    pub fn start(network: &Network, number: usize, token: &Path, lease_ms: u64) -> Self {
        let directory = token.with_extension("host");
        std::fs::create_dir_all(&directory).expect("the directory is writable");
        let log = std::fs::File::options().create(true).append(true).open(directory.join("log")).expect("a log");
        let worker = network
            .command(number)
            .args(["worker", "--pool", "cpu", "--connect", &format!("http://{}", network.owner()), "--token-file"])
            .arg(token)
            .arg("--scratch")
            .arg(directory.join("scratch"))
            .current_dir(&directory)
            .env("PUSH0_LEASE_MS", lease_ms.to_string())
            .env("PUSH0_ECHO_LOG", directory.join("invocations"))
            .env("PUSH0_ECHO_STATE", directory.join("echo-state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("push0 starts");
        Self { number, worker, directory }
    }

    /// The tasks proven here, in the order they were begun.
    pub fn invocations(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.join("invocations")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its provers go with it.
        let _ = self.worker.kill();
        let _ = self.worker.wait();
    }
}
