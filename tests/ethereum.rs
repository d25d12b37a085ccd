//! Real transfers of four consecutive Ethereum blocks, replayed on the demonstration rollup and proven.
//!
//! The blocks are not part of the repository. They are read from `PUSH0_ETHEREUM_DATA`, or from `shared/data/ethereum` beside the
//! checkout; where there are none the test says so and passes.

use std::path::PathBuf;
use std::process::Command;

use push0_tests::chaos::installation::{program, wait_until};

const NUMBERS: [u64; 4] = [18_090_205, 18_090_206, 18_090_207, 18_090_208];

fn data() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/ethereum");
    let directory = std::env::var_os("PUSH0_ETHEREUM_DATA").map_or(beside, PathBuf::from);
    NUMBERS.iter().all(|number| directory.join(format!("{number}.json")).exists()).then_some(directory)
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the program is built");
    let (said, out) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{command:?}: {}\n{out}{said}", output.status);
    out.into_owned()
}

#[test]
fn four_real_blocks_are_proven_as_a_chain_and_finalized_in_order() {
    let Some(data) = data() else {
        println!(
            "skipped: no Ethereum blocks; set PUSH0_ETHEREUM_DATA to a directory that holds 18090205.json to 18090208.json"
        );
        return;
    };
    let directory = tempfile::Builder::new().prefix("p0").tempdir().unwrap();
    let at = directory.path();
    let inputs = NUMBERS.iter().map(|number| data.join(format!("{number}.json")));
    let rollup = || Command::new(program("push0-rollup"));
    let imported = run(rollup().arg("import").args(inputs).args(["--chain", "eth", "--out"]).arg(at.join("blocks")));
    println!("{imported}");

    let push0 = |args: &[&str]| {
        let mut command = Command::new(program("push0"));
        command.current_dir(at).args(args);
        command
    };
    run(&mut push0(&["init", "--pipeline", "rollup"]));
    let config = std::fs::read_to_string(at.join("push0.toml")).unwrap();
    let config = config.replace("id = \"demo\"", "id = \"eth\"").replace("first = 1\n", "first = 18090205\n");
    std::fs::write(at.join("push0.toml"), config).unwrap();
    // Larger segments than the demo's: the price of lifting and joining is a segment's, however much is in it.
    let pipeline = std::fs::read_to_string(at.join("rollup.toml")).unwrap();
    let larger = pipeline.replace("transfers_per_segment = 8", "transfers_per_segment = 32");
    assert_ne!(pipeline, larger);
    std::fs::write(at.join("rollup.toml"), larger).unwrap();
    let log = std::fs::File::create(at.join("up.log")).unwrap();
    let mut up = push0(&["up"]).stderr(log).spawn().unwrap();
    wait_until("push0 is up", || {
        assert!(up.try_wait().unwrap().is_none(), "up ended: {}", std::fs::read_to_string(at.join("up.log")).unwrap());
        push0(&["status"]).output().is_ok_and(|output| output.status.success())
    });

    let block = |number: u64| at.join(format!("blocks/{number}.json")).display().to_string();
    for number in [18_090_207, 18_090_205, 18_090_208, 18_090_206] {
        run(&mut push0(&["submit", &block(number)]));
    }
    // No limit but the runner's: proving takes as long as the machine takes.
    let done = loop {
        let stream = run(&mut push0(&["finalized", "eth"]));
        if stream.lines().count() == NUMBERS.len() {
            break stream;
        }
        assert!(up.try_wait().unwrap().is_none(), "up ended: {}", std::fs::read_to_string(at.join("up.log")).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(500));
    };
    let numbers: Vec<u64> = done
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, NUMBERS);
    let verified = run(&mut push0(&["verify", "eth"]));
    println!("{verified}");
    up.kill().unwrap();
    up.wait().unwrap();
}
