use super::*;
use crate::http::Role;
use push0_core::chain::{Mode, Rest};

const EXAMPLE: &str = include_str!("../../../examples/push0.toml");
const ROLLUP: &str = include_str!("../../../examples/rollup.toml");
const ROLLUP_RANGE: &str = include_str!("../../../examples/rollup-range.toml");
const ECHO: &str = include_str!("../../../examples/echo.toml");

const CHAIN: &str = "[[chain]]\nid = \"demo\"\npipeline = \"p.toml\"\n";

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("p.toml"), ECHO).unwrap();
        std::fs::write(dir.path().join(FILE), config).unwrap();
        Self(dir)
    }

    fn sources(&self) -> Sources {
        Sources { file: Some(self.0.path().join(FILE)), ..Sources::default() }
    }

    fn read(&self) -> Settings {
        Settings::read(&self.sources()).unwrap()
    }

    fn mistakes(&self) -> Vec<String> {
        Settings::read(&self.sources()).unwrap_err().0
    }
}

#[test]
fn a_chain_and_its_pipeline_are_enough() {
    let dir = Dir::new(CHAIN);
    let settings = dir.read();
    assert_eq!(settings.data, dir.0.path().join("data"));
    assert_eq!(settings.socket(), dir.0.path().join("data/push0.sock"));
    assert_eq!(settings.workers.pools, ["cpu".parse().unwrap()], "the pools of the pipelines, but for the trusted one");
    assert_eq!(settings.workers.lease, Millis(15_000));
    assert_eq!(settings.workers.turn_every, 16);
    let chain = settings.catalog.chains.values().next().unwrap();
    assert!(settings.catalog.pipelines.contains_key(&chain.pipeline));
    assert_eq!(settings.provers.len(), 1);
}

#[test]
fn later_layers_win() {
    let dir = Dir::new(&format!("data = \"d\"\n[workers]\ncount = 3\nlease_ms = 3000\nslots = 2\n{CHAIN}"));
    let mut sources = dir.sources();
    let env =
        [("PUSH0_WORKERS", "5"), ("PUSH0_LEASE_MS", "2000"), ("PUSH0_ONLY_LOCAL", "true"), ("PUSH0_ECHO_LOG", "/x")];
    sources.env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let settings = Settings::read(&sources.clone().flag("workers.count", Some(7))).unwrap();
    assert_eq!((settings.workers.count, settings.workers.lease, settings.workers.slots), (7, Millis(2000), 2));
    assert!(settings.workers.only_local);
    assert_eq!(settings.data, dir.0.path().join("d"), "a path in the file is relative to the file");
    let settings = Settings::read(&sources.flag("data", Some("elsewhere"))).unwrap();
    assert_eq!((settings.data, settings.workers.count), (PathBuf::from("elsewhere"), 5));
}

#[test]
fn every_mistake_is_listed_with_its_place() {
    let dir = Dir::new(
        "dta = \"x\"\ndurability = \"maybe\"\nlisten = 7\n[workers]\ncount = -1\nturn_every = 3\npools = [\"trusted\", \"UP\"]\nspeed = 2\n\
         [functions]\nconcurrency = 0\n\
         [[chain]]\nid = \"Demo\"\npipeline = \"p.toml\"\nwindow = 257\n\
         [[chain]]\nid = \"two\"\npipeline = \"missing.toml\"\nclass = \"soon\"\nfirst_parent = \"12\"\ncolour = 1\n\
         deadline_ms = 0\nlate = \"never\"\n\
         [[token]]\nrole = \"worker\"\nvalue = \"0123456789abcdef\"\n[[token]]\nrole = \"king\"\nvalue = \"short\"\n",
    );
    let mistakes = dir.mistakes();
    let expected = [
        "unknown key `dta`",
        "`durability`: \"maybe\" is not one of process, power",
        "`listen`: must be text",
        "`workers.count`: must be a whole number",
        "pool `trusted`",
        "a pool name",
        "`workers.turn_every`: must be 0, or a whole number from 4 to 1000",
        "unknown key `workers.speed`",
        "`functions.concurrency`: must be a whole number from 1 to 64",
        "`id`: \"Demo\" is not a chain id",
        "`window` must be a whole number from 1 to 256",
        "missing.toml: cannot read the pipeline",
        "`class`: \"soon\" is not one of realtime, standard, bulk",
        "`first_parent`: \"12\" is not a block hash",
        "[[chain]] two: unknown key `colour`",
        "`deadline_ms` must be a whole number from 1 to 2592000000",
        "`late`: \"never\" is not one of continue, demote, abandon",
        "[[token]] 1: `pool` is missing",
        "`role` is operator, trusted or worker",
        "at least 16 characters",
    ];
    for wanted in expected {
        assert!(mistakes.iter().any(|mistake| mistake.contains(wanted)), "{wanted} is not among {mistakes:#?}");
    }
}

/// Three pipelines that compute different things: `p.toml`, `q.toml`, `r.toml`.
fn three(chain: &str) -> Dir {
    let dir = Dir::new(&format!("[[chain]]\nid = \"demo\"\n{chain}\n"));
    for (file, segments) in [("q", 5), ("r", 6)] {
        let other = ECHO.replace("segments = 4", &format!("segments = {segments}"));
        let other = other.replace("name = \"echo\"", &format!("name = \"echo-{file}\""));
        std::fs::write(dir.0.path().join(format!("{file}.toml")), other).unwrap();
    }
    dir
}

#[test]
fn several_pipelines_keep_their_order_and_must_all_prove_a_block_unless_said_otherwise() {
    let provers = |chain: &str| {
        let settings = three(chain).read();
        let config = settings.catalog.chains.into_values().next().unwrap();
        assert!(config.pipelines().iter().all(|digest| settings.catalog.pipelines.contains_key(digest)));
        assert_eq!(config.pipelines().first(), Some(&config.pipeline));
        config.provers
    };
    let all = provers("pipelines = [\"q.toml\", \"p.toml\", \"r.toml\"]").unwrap();
    let names: Vec<&str> = all.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!((names, all.quorum), (vec!["echo-q", "echo", "echo-r"], 3));
    assert_eq!((all.mode, all.rest, all.rest_limit), (Mode::Every, Rest::Finish, Millis::from_secs(3600)));
    let two = "pipelines = [\"p.toml\", \"q.toml\"]";
    let said = provers(&format!("{two}\nquorum = 1\nrest = \"stop\"\nrest_limit_s = 5")).unwrap();
    assert_eq!((said.quorum, said.rest, said.rest_limit), (1, Rest::Stop, Millis::from_secs(5)));
    let shared = provers(&format!("{two}\nmode = \"share\"")).unwrap();
    assert_eq!((shared.quorum, shared.mode), (1, Mode::Share));
    assert_eq!(provers("pipelines = [\"p.toml\"]"), None, "one is one");
    assert_eq!(provers("pipeline = \"p.toml\""), None);
}

#[test]
fn every_mistake_about_several_pipelines_is_listed() {
    for (chain, expected) in [
        ("pipeline = \"p.toml\"\npipelines = [\"q.toml\"]", vec!["both given"]),
        ("pipeline = \"p.toml\"\nquorum = 1\nmode = \"share\"", vec!["`quorum` goes with", "`mode` goes with"]),
        ("window = 1", vec!["`pipeline` is missing"]),
        ("pipelines = []", vec!["a list of 1 to 8"]),
        ("pipelines = [7]", vec!["a list of 1 to 8"]),
        (
            "pipelines = [\"p.toml\", \"missing.toml\"]\nquorum = 3\nmode = \"some\"\nrest = \"sleep\"\nrest_limit_s = -1",
            vec![
                "missing.toml: cannot read",
                "`quorum` must be a whole number from 1 to 2",
                "`mode`: \"some\" is not one of every, share",
                "`rest`: \"sleep\" is not one of finish, stop",
                "`rest_limit_s` must be",
            ],
        ),
        (
            "pipelines = [\"p.toml\", \"q.toml\"]\nmode = \"share\"\nquorum = 2",
            vec!["`quorum` must be a whole number from 1 to 1"],
        ),
        ("pipelines = [\"p.toml\", \"q.toml\", \"p.toml\"]", vec!["p.toml computes the same"]),
    ] {
        let mistakes = three(chain).mistakes();
        for wanted in expected {
            assert!(mistakes.iter().any(|mistake| mistake.contains(wanted)), "{wanted} is not among {mistakes:#?}");
        }
    }
    let dir = three("pipelines = [\"p.toml\", \"q.toml\"]");
    let renamed = std::fs::read_to_string(dir.0.path().join("q.toml")).unwrap().replace("echo-q", "echo");
    std::fs::write(dir.0.path().join("q.toml"), renamed).unwrap();
    assert!(dir.mistakes()[0].contains("the name of another one in the list, echo"), "{:#?}", dir.mistakes());
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let dir = Dir::new(CHAIN);
    let mut sources = dir.sources().flag("workers.count", Some("many"));
    sources.env.insert("PUSH0_LEASE_MS".to_owned(), "soon".to_owned());
    let mistakes = Settings::read(&sources).unwrap_err().0;
    assert!(mistakes.iter().any(|mistake| mistake.starts_with("--workers:")), "{mistakes:#?}");
    assert!(mistakes.iter().any(|mistake| mistake.starts_with("PUSH0_LEASE_MS:")), "{mistakes:#?}");
}

#[test]
fn a_pipelines_mistakes_are_listed_with_its_file() {
    let dir = Dir::new(CHAIN);
    std::fs::write(dir.0.path().join("p.toml"), "name = \"x\"\n[[stage]]\nname = \"split\"\nkind = \"cut\"\n").unwrap();
    let mistakes = dir.mistakes();
    assert!(mistakes.len() > 2 && mistakes.iter().all(|mistake| mistake.contains("p.toml")), "{mistakes:#?}");
}

#[test]
fn tcp_without_a_token_is_a_mistake() {
    let dir = Dir::new(&format!("listen = \"127.0.0.1:0\"\n{CHAIN}"));
    assert!(dir.mistakes()[0].contains("[[token]]"));
    let token = "[[token]]\nrole = \"worker\"\npool = \"gpu\"\nvalue = \"0123456789abcdef\"\n";
    let dir = Dir::new(&format!("listen = \"127.0.0.1:0\"\n{CHAIN}{token}"));
    let role = Role::Worker { pool: "gpu".parse().unwrap() };
    assert_eq!(dir.read().tokens, [Token::new("0123456789abcdef", "gpu-1".parse().unwrap(), role)]);
}

#[test]
fn tokens_have_names_of_their_own_and_those_of_files_are_called_after_them() {
    let token = |name: &str, value: &str| {
        format!("[[token]]\nrole = \"worker\"\npool = \"gpu\"\nname = \"{name}\"\nvalue = \"{value}\"\n")
    };
    let file = "[[token]]\nrole = \"trusted\"\nfile = \"vault.token\"\n";
    let dir = Dir::new(&format!("{CHAIN}{}{file}", token("rack1", "0123456789abcdef")));
    std::fs::write(dir.0.path().join("vault.token"), "fedcba9876543210\n").unwrap();
    let settings = dir.read();
    let names: Vec<&str> = settings.tokens.iter().map(|token| token.name.as_str()).collect();
    assert_eq!(names, ["rack1", "vault"]);
    assert_eq!(settings.token_files, [dir.0.path().join("vault.token"), dir.0.path().join(FILE)]);

    let twice = format!("{}{}", token("rack1", "0123456789abcdef"), token("rack1", "0123456789abcdeg"));
    for (bad, expected) in [
        (twice, "used twice"),
        (token("local-gpu-1", "0123456789abcdef"), "is a local worker's"),
        (token("Rack", "0123456789abcdef"), "a token's name"),
        (token("rack1", "short"), "at least 16"),
    ] {
        let mistakes = Dir::new(&format!("{CHAIN}{bad}")).mistakes();
        assert!(mistakes.iter().any(|mistake| mistake.contains(expected)), "{expected}: {mistakes:#?}");
    }
}

#[test]
fn a_worker_needs_no_chain() {
    let sources = Sources { file: None, is_worker: true, ..Sources::default() };
    let settings = Settings::read(&sources).unwrap();
    assert!(settings.file.is_none() && settings.provers.is_empty());
    let dir = Dir::new("[workers]\nslots = 3\n");
    let sources = Sources { file: Some(dir.0.path().join(FILE)), is_worker: true, ..Sources::default() };
    assert_eq!(Settings::read(&sources).unwrap().workers.slots, 3);
}

#[test]
fn two_meanings_of_a_prover_or_a_chain_are_refused() {
    let dir = Dir::new(&format!("{CHAIN}{CHAIN}[[chain]]\nid = \"b\"\npipeline = \"q.toml\"\n"));
    let other = ECHO.replace("[\"push0-echo\"]", "[\"./mine\"]").replace("200", "100");
    std::fs::write(dir.0.path().join("q.toml"), other).unwrap();
    let mistakes = dir.mistakes();
    assert!(mistakes.iter().any(|mistake| mistake.contains("used twice")), "{mistakes:#?}");
    assert!(mistakes.iter().any(|mistake| mistake.contains("another one in")), "{mistakes:#?}");
}

#[test]
fn names_in_an_account_begin_with_a_plain_prefix() {
    let dir = Dir::new(&format!("[aws]\nprefix = \"ops-1\"\n{CHAIN}"));
    let settings = dir.read();
    assert_eq!(settings.aws.name("submissions.fifo"), "ops-1-submissions.fifo");
    for bad in ["", "-a", "a-", "A", "a_b", "123456789012345678901"] {
        let dir = Dir::new(&format!("[aws]\nprefix = {bad:?}\n{CHAIN}"));
        assert!(dir.mistakes()[0].contains("aws.prefix"), "{bad}");
    }
}

#[test]
fn a_worker_s_group_waits_at_hooks_called_after_the_installation() {
    let plain = Dir::new(&format!("[aws]\nprefix = \"ops-1\"\n{CHAIN}")).read().ec2;
    assert_eq!((plain.mode, plain.group, plain.leaves_on_rebalance), (Ec2Mode::Auto, None, true));
    assert_eq!((plain.launch_hook.as_str(), plain.termination_hook.as_str()), ("ops-1-launch", "ops-1-termination"));
    let text = "[ec2]\nmode = \"on\"\ngroup = \"gpu\"\nlaunch_hook = \"in\"\ndrain_s = 60\nrebalance = \"ignore\"\n";
    let said = Dir::new(&format!("{text}{CHAIN}")).read().ec2;
    assert_eq!((said.mode, said.group.as_deref(), said.leaves_on_rebalance), (Ec2Mode::On, Some("gpu"), false));
    assert_eq!((said.launch_hook.as_str(), said.drain), ("in", Millis::from_secs(60)));
    let mistakes = Dir::new(&format!("[ec2]\nmode = \"perhaps\"\nrebalance = \"stay\"\n{CHAIN}")).mistakes();
    assert!(mistakes[0].contains("auto, on, off") && mistakes[1].contains("drain, ignore"), "{mistakes:#?}");
}

#[test]
fn a_named_file_must_exist() {
    let sources = Sources { file: Some("/nowhere/push0.toml".into()), ..Sources::default() };
    assert!(Settings::read(&sources).unwrap_err().0[0].contains("/nowhere/push0.toml"));
}

#[test]
fn the_examples_are_what_this_build_reads() {
    let dir = tempfile::tempdir().unwrap();
    for (name, pipeline) in [("rollup.toml", ROLLUP), ("echo.toml", ECHO)] {
        std::fs::write(dir.path().join(name), pipeline).unwrap();
        let config = EXAMPLE.replace("rollup.toml", name);
        std::fs::write(dir.path().join(FILE), config).unwrap();
        let settings = Settings::read(&Sources { file: Some(dir.path().join(FILE)), ..Sources::default() }).unwrap();
        assert_eq!(settings.catalog.chains.len(), 1);
    }
}

/// Every file below a directory with this ending.
fn files_below(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn every_example_is_a_configuration_or_a_pipeline_that_this_build_reads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let examples =
        ["examples", "infra/terraform/examples"].map(|examples| files_below(&root.join(examples), "toml")).concat();
    let (mut configurations, mut pipelines) = (Vec::new(), Vec::new());
    for file in examples.clone() {
        if file.file_name().is_some_and(|name| name == FILE) {
            let read = Settings::read(&Sources { file: Some(file.clone()), ..Sources::default() });
            let settings = read.unwrap_or_else(|mistakes| panic!("{}: {mistakes:?}", file.display()));
            configurations.push(settings);
        } else {
            let parsed = push0_core::pipeline::parse(&std::fs::read_to_string(&file).unwrap());
            pipelines.push(parsed.unwrap_or_else(|mistakes| panic!("{}: {mistakes:?}", file.display())));
        }
    }
    assert!(configurations.len() >= 7 && pipelines.len() >= 13, "{} and {}", configurations.len(), pipelines.len());
    let larger = pipelines.iter().find(|file| file.pipeline.name.as_str() == "larger-pool").unwrap();
    let prove = larger.policy.stage(1);
    assert_eq!(prove.larger_pool, Some("gpu-large".parse().unwrap()), "docs/failures.md goes through it");
    // Each pipeline would do for a chain of its own.
    let dir = tempfile::tempdir().unwrap();
    for file in examples.iter().filter(|file| file.file_name().is_some_and(|name| name != FILE)) {
        std::fs::write(dir.path().join("p.toml"), std::fs::read_to_string(file).unwrap()).unwrap();
        std::fs::write(dir.path().join(FILE), CHAIN).unwrap();
        let read = Settings::read(&Sources { file: Some(dir.path().join(FILE)), ..Sources::default() });
        assert!(read.is_ok(), "{}: {:?}", file.display(), read.err());
    }
}

/// The prover is built apart (docs/risc0.md), but the program that it runs in the zkVM is here.
#[test]
fn the_risc_zero_examples_pin_the_guest_in_the_repository_and_verify_what_was_split() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guest = std::fs::read(root.join("provers/risc0/guest/guest.elf")).unwrap();
    let digest = push0_core::Sha256::of(&guest);
    let examples: Vec<_> = files_below(&root.join("examples/risc0"), "toml")
        .into_iter()
        .filter(|file| file.file_name().is_some_and(|name| name != FILE))
        .collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        let file = push0_core::pipeline::parse(&std::fs::read_to_string(&example).unwrap()).unwrap();
        let pinned = file.pipeline.programs.values().next().unwrap();
        assert_eq!(pinned["guest-elf"], digest, "{}", example.display());
        assert!(pinned.contains_key("image-id"));
        let checks: Vec<_> = file.pipeline.stages.iter().filter_map(|stage| stage.params.get("checks")).collect();
        assert!(checks.len() == 2 && checks[0] == checks[1], "split and verify check the same: {checks:?}");
    }
}

/// The keys come with the prover's sources; the examples must name the ones there are.
#[test]
fn the_rollup_examples_pin_the_keys_in_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let keys = root.join("provers/rollup/keys");
    let mut examples = vec![("examples/rollup.toml".to_owned(), ROLLUP.to_owned(), 3)];
    examples.push(("examples/rollup-range.toml".to_owned(), ROLLUP_RANGE.to_owned(), 2));
    for file in files_below(&root.join("infra/terraform/examples"), "toml") {
        if file.ends_with("rollup.toml") {
            examples.push((file.display().to_string(), std::fs::read_to_string(&file).unwrap(), 3));
        }
    }
    assert_eq!(examples.len(), 6);
    for (example, text, pins) in examples {
        let file = push0_core::pipeline::parse(&text).unwrap();
        let pinned = file.pipeline.programs.values().next().unwrap();
        assert_eq!(pinned.len(), pins);
        for (name, digest) in pinned {
            let bytes = std::fs::read(keys.join(format!("{name}.key"))).unwrap();
            assert_eq!(*digest, push0_core::Sha256::of(&bytes), "{name}: put the new digest into {example}");
        }
    }
}

const BATCH: &str =
    "[[chain]]\nid = \"demo-batch\"\nof = \"demo\"\nbatch = 8\nbatch_wait_ms = 500\npipeline = \"p.toml\"\n";

#[test]
fn a_batch_chain_is_known_to_its_source_and_begins_where_that_does() {
    let parent = "07".repeat(32);
    let second = BATCH.replace("\"demo-batch\"", "\"again\"").replace("\"demo\"", "\"demo-batch\"");
    let dir = Dir::new(&format!("{CHAIN}first = 5\nfirst_parent = \"{parent}\"\n{BATCH}{second}"));
    let chains = dir.read().catalog.chains;
    let chain = |id: &str| &chains[&id.parse().unwrap()];
    let batching = chain("demo-batch").batch.clone().unwrap();
    assert_eq!((batching.of.as_str(), batching.size, batching.wait), ("demo", 8, Some(Millis(500))));
    assert_eq!(chain("demo").derived, [("demo-batch".parse().unwrap(), batching)].into());
    assert!(
        chain("demo-batch").derived.contains_key(&"again".parse().unwrap()),
        "a batch chain may itself be a source"
    );
    for batch in ["demo-batch", "again"] {
        assert_eq!((chain(batch).first, chain(batch).first_parent), (1, chain("demo").first_parent));
    }
}

#[test]
fn every_mistake_of_a_batch_chain_is_named() {
    let mistakes = |chains: &str| Dir::new(&format!("{CHAIN}{chains}")).mistakes().join("\n");
    for (batch, wanted) in [
        (BATCH.replace("\"demo\"", "\"other\""), "there is no chain other"),
        (BATCH.replace("\"demo\"", "\"demo-batch\""), "does not lead to a chain that blocks are submitted to"),
        (BATCH.replace("batch = 8\n", ""), "go together"),
        (BATCH.replace("of = \"demo\"\n", ""), "go together"),
        (BATCH.replace("batch = 8\n", "").replace("of = \"demo\"\n", ""), "`batch_wait_ms` is for batch chains"),
        (BATCH.replace("= 8", "= 0"), "`batch` must be a whole number from 1 to 1000"),
        (BATCH.replace("= 8", "= 1001"), "`batch` must be a whole number from 1 to 1000"),
        (BATCH.replace("= 500", "= 0"), "`batch_wait_ms` must be"),
        (format!("{BATCH}first = 3\n"), "`first` of a batch chain follows from its source"),
        (format!("{BATCH}first_parent = \"{}\"\n", "07".repeat(32)), "`first_parent` of a batch chain"),
    ] {
        let found = mistakes(&batch);
        assert!(found.contains(wanted), "{batch}\n{found}");
    }
}

#[test]
fn files_and_counts_hold_at_their_bound_and_are_refused_beyond_it() {
    let padded = |bytes: usize| Dir::new(&format!("{CHAIN}#{}", " ".repeat(bytes - CHAIN.len() - 1)));
    padded(MAX_FILE).read();
    let mistakes = padded(MAX_FILE + 1).mistakes();
    assert!(mistakes[0].contains("more than 1048576 bytes"), "{mistakes:?}");
    let endless = Dir::new(&CHAIN.replace("p.toml", "/dev/zero")).mistakes();
    assert!(endless[0].contains("cannot read the pipeline") && endless[0].contains("more than 1048576"), "{endless:?}");

    let chains = |count: usize| -> String {
        (0..count).map(|number| CHAIN.replace("demo", &format!("demo-{number}"))).collect()
    };
    assert_eq!(Dir::new(&chains(1_000)).read().catalog.chains.len(), 1_000);
    let mistakes = Dir::new(&chains(1_001)).mistakes();
    assert!(mistakes[0].contains("at most 1000 are possible: run several installations"), "{mistakes:?}");

    let tokens = |count: usize| -> String {
        let token = |number| {
            format!("[[token]]\nname = \"t{number}\"\nrole = \"operator\"\nvalue = \"secret-of-token-{number}\"\n")
        };
        (0..count).map(token).collect()
    };
    assert_eq!(Dir::new(&format!("{CHAIN}{}", tokens(1_000))).read().tokens.len(), 1_000);
    let mistakes = Dir::new(&format!("{CHAIN}{}", tokens(1_001))).mistakes();
    assert!(mistakes[0].contains("at most 1000 are possible"), "{mistakes:?}");
}
