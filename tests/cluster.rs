//! A cluster: an owner and two worker hosts, each on a network of its own. One host is cut off in the middle of proving and comes back; the
//! owner is killed and started again under its workers.

use std::path::PathBuf;
use std::time::Duration;

use push0_runtime::http::Client;
use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Host, Installation, Judge, Network, Options};

const SEGMENTS: u32 = 6;
const LEASE_MS: u64 = 1_000;

struct Cluster {
    // Dropped in this order: the hosts' workers, the owner, the network.
    one: Host,
    two: Host,
    owner: Installation,
    network: Network,
    judge: Judge,
    runtime: tokio::runtime::Runtime,
    hashes: Vec<String>,
}

impl Cluster {
    fn start() -> Self {
        let params = "duration_ms = 400".to_owned();
        let options = Options { workers: 0, lease_ms: LEASE_MS, params, ..Options::default() };
        let mut owner = Installation::new(&options);
        let tokens = ["rack1", "rack2"].map(|name| owner.token(name));
        let network = Network::new(tokens.len());
        start(&mut owner, &network);
        let host = |number: usize| Host::start(&network, number, &tokens[number - 1], LEASE_MS);
        let (one, two) = (host(1), host(2));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let judge = Judge::default();
        let cluster = Self { one, two, owner, network, judge, runtime, hashes: Vec::new() };
        cluster.wait_for_owner();
        cluster
    }

    fn wait_for_owner(&self) {
        let client = self.client();
        wait_until("push0 is up", || self.runtime.block_on(client.health()).is_ok());
    }

    /// Of the operator, by the owner's socket.
    fn client(&self) -> Client {
        self.owner.client()
    }

    fn submit(&mut self, blocks: u64) {
        let first = self.hashes.len() as u64 + 1;
        let (files, hashes): (Vec<PathBuf>, Vec<String>) =
            (first..first + blocks).map(|number| self.owner.block(number, SEGMENTS, "")).unzip();
        self.hashes.extend(hashes);
        self.owner.submit(&files);
    }

    /// Until every block submitted is final, and as it should be.
    fn finish(&mut self) {
        let client = self.client();
        let mut turns = 0;
        while self.judge.stream.len() < self.hashes.len() {
            self.runtime.block_on(self.judge.consume(&client));
            std::thread::sleep(Duration::from_millis(50));
            turns += 1;
            let (finalized, logs) = (self.judge.stream.len(), [self.owner.log(), self.one.log(), self.two.log()]);
            assert!(turns < 6_000, "{finalized} of {} finalized\n{}", self.hashes.len(), logs.join("\n"));
        }
        self.runtime.block_on(self.judge.look_for_overwriting(&client));
        self.runtime.block_on(self.judge.judge(&client, &self.hashes, SEGMENTS));
    }
}

fn start(owner: &mut Installation, network: &Network) {
    let mut up = network.command(0);
    up.args(["up", "--listen", &network.owner()]);
    owner.start_as(up);
}

/// Waits until the host begins another task; its id.
fn next_task(host: &Host) -> String {
    let before = host.invocations().len();
    wait_until("the host begins a task", || host.invocations().len() > before);
    host.invocations().pop().expect("there is one more")
}

#[test]
fn a_host_that_is_cut_off_loses_its_tasks_to_others_and_works_again_when_it_is_back() {
    let mut cluster = Cluster::start();
    cluster.submit(2);
    wait_until("both hosts prove", || !cluster.one.invocations().is_empty() && !cluster.two.invocations().is_empty());

    // The prover has most of its 400 ms before it, and the worker has the next task in hand, too.
    let in_hand = next_task(&cluster.one);
    cluster.network.cut(&cluster.one);
    let when_cut = cluster.one.invocations().len();
    cluster.finish();
    let elsewhere = cluster.two.invocations();
    assert!(elsewhere.contains(&in_hand), "{in_hand} was in hand at the cut, and proven by the other:\n{elsewhere:#?}");
    assert!(cluster.one.invocations().len() <= when_cut + 1, "nothing new reaches a host that is cut off");

    cluster.network.mend(&cluster.one);
    // Either its lease thread learns first that the lease is over, or its late upload and report go through and change nothing.
    wait_until("the host is back", || {
        let log = cluster.one.log();
        log.contains("lease lost, task dropped") || log.contains("backend answers again")
    });
    let when_back = cluster.one.invocations().len();
    cluster.submit(2);
    cluster.finish();
    assert!(cluster.one.invocations().len() > when_back, "it works again");

    let client = cluster.client();
    cluster.runtime.block_on(cluster.judge.digests_hold(&client));
}

#[test]
fn the_owner_is_killed_under_its_hosts_and_they_come_back_by_themselves() {
    let mut cluster = Cluster::start();
    cluster.submit(2);
    next_task(&cluster.one);
    next_task(&cluster.two);
    cluster.owner.kill_up();
    start(&mut cluster.owner, &cluster.network);
    cluster.wait_for_owner();
    cluster.finish();
    for host in [&cluster.one, &cluster.two] {
        let lost = host.log().lines().filter(|line| line.contains("no push0 answers")).count();
        assert!(lost <= 1, "one line for one outage:\n{}", host.log());
    }
}
