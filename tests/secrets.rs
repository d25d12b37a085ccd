//! That no log, file or row repeats a token, a credential, a sealing key or a witness, even where everything is logged.

use std::fs;
use std::path::{Path, PathBuf};

use push0_tests::chaos::installation::wait_until;
use push0_tests::chaos::{Host, Installation, Judge, Network, Options};

/// What stands in a witness and nowhere else.
const IN_THE_WITNESS: &str = "for-the-prover-alone";

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Which of these files have one of these texts in them.
fn repeated<'f>(files: &'f [PathBuf], texts: &[(&str, Vec<u8>)]) -> Vec<(String, &'f Path)> {
    let mut found = Vec::new();
    for file in files {
        let content = fs::read(file).unwrap_or_default();
        let repeats = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
        found.extend(
            texts.iter().filter(|(_, text)| repeats(text)).map(|(name, _)| ((*name).to_owned(), file.as_path())),
        );
    }
    found
}

fn is_log(path: &&PathBuf) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("log"))
}

#[test]
fn tokens_keys_and_witnesses_are_repeated_nowhere() {
    let mut owner = Installation::new(&Options { workers: 1, ..Options::default() });
    let table = owner.cli_ok(&["token", "new", "--role", "worker", "--pool", "cpu", "--name", "rack1"]);
    let config = owner.path("push0.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}{table}")).unwrap();
    let (right, wrong) = (owner.path("rack1.token"), owner.path("wrong.token"));
    fs::write(&wrong, "a-token-that-nobody-knows").unwrap();

    let mut network = Network::new(1);
    network.log = Some("trace");
    let mut up = network.command(0);
    up.args(["up", "--listen", &network.owner()]);
    owner.start_as(up);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = owner.client();
    wait_until("push0 is up", || runtime.block_on(client.health()).is_ok());
    let host = Host::start(&network, 1, &right, 1_000);
    let refused = Host::start(&network, 1, &wrong, 1_000);
    wait_until("the other is refused", || refused.log().contains("P0-302"));

    let (file, hash) = owner.block(1, 12, IN_THE_WITNESS);
    owner.submit(&[file]);
    let mut judge = Judge::default();
    wait_until("the block is final, and the host has worked", || {
        runtime.block_on(judge.consume(&client));
        !judge.stream.is_empty()
    });
    assert_eq!(judge.stream[0]["hash"].as_str(), Some(hash.as_str()));
    wait_until("the host has said something", || host.log().contains("TRACE"));
    drop((host, refused));
    owner.kill_up();

    let secret = fs::read_to_string(&right).unwrap().trim().to_owned();
    let key = fs::read(owner.path("data/receipts.key")).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let tokens = [
        ("a token", secret.into_bytes()),
        ("a wrong token", b"a-token-that-nobody-knows".to_vec()),
        ("the sealing key", key),
        ("the sealing key in hex", hex.into_bytes()),
    ];
    let may_have_it = ["rack1.token", "wrong.token", "receipts.key"];
    let all = files(owner.directory.path());
    let is_free = |path: &&PathBuf| may_have_it.iter().all(|name| !path.ends_with(name));
    let others: Vec<PathBuf> = all.iter().filter(is_free).cloned().collect();
    let logs: Vec<PathBuf> = all.iter().filter(is_log).cloned().collect();
    assert!(logs.len() >= 3 && others.len() > 20, "{} logs of {} files", logs.len(), others.len());
    assert_eq!(repeated(&others, &tokens), []);
    assert_eq!(repeated(&logs, &[("a witness", IN_THE_WITNESS.as_bytes().to_vec())]), []);
    // That would have been found.
    assert_eq!(repeated(&all, &tokens[..1]).len(), 1);
}

#[cfg(feature = "aws")]
#[test]
fn credentials_of_an_account_are_repeated_nowhere() {
    use push0_tests::chaos::Cloud;
    use push0_tests::chaos::cloud::{SECRET_KEY, SESSION_TOKEN};
    use push0_tests::chaos::installation::echo_pipeline;

    let config = "[aws]\nprefix = \"{prefix}\"\n[[chain]]\nid = \"demo\"\npipeline = \"echo.toml\"\n";
    let mut cloud = Cloud::new(&[("push0.toml", config), ("echo.toml", &echo_pipeline("", 3))]);
    cloud.log = Some("trace");
    cloud.cli_ok(&["bootstrap"]);
    cloud.start("serve", &["serve", "--aws"]);
    cloud.start_worker("trusted", "trusted-1");
    cloud.start_worker("cpu", "cpu-1");
    let (file, witness, hash) = cloud.echo_block(1, 3);
    cloud.cli_ok(&["submit", "--no-wait", file.to_str().unwrap()]);
    assert_eq!(cloud.tail(1)[0]["hash"].as_str(), Some(hash.as_str()));

    let all = files(cloud.directory.path());
    let logs: Vec<PathBuf> = all.iter().filter(is_log).cloned().collect();
    assert_eq!(logs.len(), 3);
    assert!(logs.iter().all(|log| fs::read_to_string(log).unwrap().contains("TRACE")), "everything is logged");
    let secrets = [("the secret key", SECRET_KEY), ("the session token", SESSION_TOKEN)];
    assert_eq!(repeated(&logs, &[("a witness", fs::read(witness).unwrap())]), []);
    assert_eq!(repeated(&all, &secrets.map(|(name, text)| (name, text.as_bytes().to_vec()))), []);
}
