//! The chains of a run, and what their blocks are proven with.

use push0_core::chain::{Batching, ChainConfig};
use push0_core::record::Late;
use push0_core::{ChainId, Class, Millis, pipeline};
use push0_runtime::drive::Catalog;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::executor::Dice;

pub(super) const CHAINS: [&str; 2] = ["alpha", "beta"];

/// Derived from the first of them, in runs that have it.
pub(super) const BATCHES: &str = "alpha-batch";

pub(super) const PIPELINE: &str = r#"
    name = "sim"
    [[stage]]
    name = "split"
    kind = "split"
    [[stage]]
    name = "prove"
    kind = "map"
    [[stage]]
    name = "lift"
    kind = "map"
    [[stage]]
    name = "join"
    kind = "join"
    arity = 2
    first_arity = 3
    [[stage]]
    name = "wrap"
    kind = "single"
    [[stage]]
    name = "verify"
    kind = "verify"
    [prover.scripted]
    form = "session"
    command = ["scripted"]
    [policy.default]
    larger_pool = "large"
    attempts = 8
    backoff_ms = 200
    time_limit_s = 120
"#;

/// The same with wider joins, and a stage less, for many segments.
pub(super) fn wide() -> String {
    let lift = "[[stage]]\n    name = \"lift\"\n    kind = \"map\"\n    ";
    PIPELINE.replace(lift, "").replace("first_arity = 3", "first_arity = 4").replace("arity = 2", "arity = 4")
}

pub(super) fn catalog(dice: &Dice, text: &str) -> Result<Catalog, String> {
    let mut file = pipeline::parse(text).map_err(|mistakes| mistakes.to_string())?;
    // In every other run the trusted pool checks what is accused.
    let can_check = dice.borrow_mut().random_range(0..2) == 1;
    for (stage, policy) in file.pipeline.stages.iter().zip(&mut file.policy.stages) {
        policy.check = can_check && !stage.kind.is_trusted();
    }
    let digest = file.pipeline.digest();
    let mut catalog = Catalog::default();
    for chain in CHAINS {
        let chain: ChainId = chain.parse().map_err(|error: push0_core::InvalidId| error.to_string())?;
        let mut dice = dice.borrow_mut();
        let window = dice.random_range(1..5);
        let class = Class::ALL[dice.random_range(0..3)];
        let config = ChainConfig { window, class, bad_proof_limit: 50, ..ChainConfig::new(chain.clone(), digest) };
        catalog.chains.insert(chain, config);
    }
    catalog.pipelines.insert(digest, file);
    Ok(catalog)
}

/// From hopelessly short to longer than most blocks take. Of dice of their own: whatever else happens is as without them.
pub(super) fn set_deadlines(seed: u64, catalog: &mut Catalog) {
    let mut dice = ChaCha8Rng::seed_from_u64(seed ^ 0x0dea_d11e);
    for chain in catalog.chains.values_mut() {
        let longest = [3_000, 20_000, 200_000][dice.random_range(0..3)];
        chain.deadline = Some(Millis(dice.random_range(500..longest)));
        chain.late = Late::ALL[dice.random_range(0..3)];
    }
}

/// Adds the batch chain. Its blocks are proven with the same pipeline.
pub(super) fn derive(catalog: &mut Catalog, size: u32) -> Result<(), String> {
    let id = |name: &str| name.parse().map_err(|error: push0_core::InvalidId| error.to_string());
    let (of, chain): (ChainId, ChainId) = (id(CHAINS[0])?, id(BATCHES)?);
    let source = catalog.chains.get_mut(&of).ok_or("the source is there")?;
    let batching = Batching { of, size, wait: Some(Millis(60_000)) };
    source.derived.insert(chain.clone(), batching.clone());
    let config =
        ChainConfig { batch: Some(batching), chain: chain.clone(), derived: Default::default(), ..source.clone() };
    catalog.chains.insert(chain, config);
    Ok(())
}
