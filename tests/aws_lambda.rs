//! From a witness uploaded by a plain S3 client to finalized blocks in order, with the functions run by the emulator's Lambda from their
//! real bootstraps, and real proofs by worker processes. No process of push0 but workers is running.

use std::path::{Path, PathBuf};
use std::process::Command;

use push0_tests::chaos::Cloud;
use push0_tests::chaos::installation::{program, wait_until};
use serde_json::Value;

/// Blocks of a chain, made by the rollup's own tool.
struct Blocks {
    chain: &'static str,
    directory: PathBuf,
    genesis: String,
}

impl Blocks {
    fn random(chain: &'static str, count: u32, transfers: u32, directory: &Path) -> Self {
        let out = directory.to_str().expect("temporary paths are text");
        let (blocks, transfers) = (count.to_string(), transfers.to_string());
        let made = Command::new(program("push0-rollup"))
            .args(["--json", "random", "--chain", chain, "--blocks", &blocks, "--transfers", &transfers, "--out", out])
            .output()
            .expect("push0-rollup runs");
        let said: Value = serde_json::from_slice(&made.stdout).expect("push0-rollup answers JSON");
        let genesis = said["genesis_hash"].as_str().expect("a genesis has a hash").to_owned();
        Self { chain, directory: directory.to_owned(), genesis }
    }

    fn submission(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number}.json"))
    }

    /// Hash and witness file.
    fn of(&self, number: u64) -> (String, PathBuf) {
        let text = std::fs::read_to_string(self.submission(number)).expect("the tool wrote it");
        let submission: Value = serde_json::from_str(&text).expect("a submission is JSON");
        let field = |name: &str| submission[name].as_str().expect("a submission has it").to_owned();
        (field("hash"), self.directory.join(field("witness")))
    }

    async fn upload(&self, cloud: &Cloud, number: u64) {
        let (hash, witness) = self.of(number);
        cloud.upload(self.chain, number, &hash, &witness).await;
    }
}

/// The rollup's pipeline, with the program that lies beside this test.
fn pipeline() -> String {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/rollup.toml"));
    let prover = program("push0-rollup");
    let command = format!("[{:?}, \"prover\"]", prover.to_str().expect("paths of a build are text"));
    example.expect("the example is there").replace("[\"push0-rollup\", \"prover\"]", &command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_become_finalized_blocks_through_real_lambda_functions() {
    let made = tempfile::tempdir().expect("a temporary directory");
    let alpha = Blocks::random("alpha", 3, 8, &made.path().join("alpha"));
    let beta = Blocks::random("beta", 2, 16, &made.path().join("beta"));
    let chain = |blocks: &Blocks| {
        let Blocks { chain, genesis, .. } = blocks;
        format!("[[chain]]\nid = \"{chain}\"\nfirst_parent = \"{genesis}\"\npipeline = \"rollup.toml\"\n")
    };
    let config = format!("[aws]\nprefix = \"{{prefix}}\"\n{}{}", chain(&alpha), chain(&beta));
    let mut cloud = Cloud::new(&[("push0.toml", &config), ("rollup.toml", &pipeline())]);
    let functions = cloud.functions();
    cloud.cli_ok(&["bootstrap", "--functions", functions.to_str().expect("temporary paths are text")]);
    cloud.start_worker("trusted", "trusted-1");
    cloud.start_worker("cpu", "cpu-1");

    // Out of order; one block in every way there is: uploaded, announced, and both once more.
    alpha.upload(&cloud, 3).await;
    alpha.upload(&cloud, 2).await;
    let announced = alpha.submission(2);
    let announced = announced.to_str().expect("temporary paths are text");
    cloud.cli_ok(&["submit", "--no-wait", announced]);
    beta.upload(&cloud, 2).await;
    alpha.upload(&cloud, 2).await;
    cloud.cli_ok(&["submit", "--no-wait", announced]);
    alpha.upload(&cloud, 1).await;
    beta.upload(&cloud, 1).await;

    let rows = tokio::task::block_in_place(|| cloud.tail(5));
    for blocks in [&alpha, &beta] {
        let of_chain: Vec<&Value> = rows.iter().filter(|row| row["chain"] == blocks.chain).collect();
        for (position, row) in of_chain.iter().enumerate() {
            let number = position as u64 + 1;
            assert_eq!((row["seq"].as_u64(), row["number"].as_u64()), (Some(number), Some(number)), "{row}");
            assert_eq!(row["hash"].as_str(), Some(blocks.of(number).0.as_str()));
            assert_eq!(row["finality"]["kind"], "proof", "{row}");
        }
    }
    assert_eq!(rows.iter().filter(|row| row["chain"] == "alpha").count(), 3);
    for blocks in [&alpha, &beta] {
        let verified = cloud.cli_ok(&["verify", blocks.chain]);
        let of_chain = rows.iter().filter(|row| row["chain"] == blocks.chain).count();
        let wanted = format!("{of_chain} proofs verified, 0 skipped, 0 bad, 0 not checked");
        assert!(of_chain > 0 && verified.contains(&wanted), "{verified}");
    }

    // Every function did its part in the emulator's Lambda, the reaper on its schedule.
    for (name, how) in [("dispatcher", " processed "), ("collector", " processed "), ("reaper", ": dispatched")] {
        let invoked = format!("Lambda {}-{name}{how}", cloud.prefix);
        let started = format!("environment spawned for {}-{name} ", cloud.prefix);
        wait_until(&format!("the emulator has invoked {name}"), || {
            let log = cloud.emulator_log();
            [&invoked, &started].iter().all(|wanted| log.iter().any(|line| line.contains(*wanted)))
        });
    }
    // Block 2 was told of four times and proven once.
    let again = cloud.cli_ok(&["block", "alpha", "2", "--json"]);
    let again: Value = serde_json::from_str(&again).expect("a block is JSON");
    assert_eq!(again["block"]["epoch"], 1, "{again}");
    assert!(again["block"]["contenders"].as_array().is_none_or(Vec::is_empty), "{again}");
}
