//! Chains whose blocks several provers prove: two of three, of which the third is no good.

use push0_core::chain::{Mode, NamedPipeline, Provers, Rest};
use push0_core::{Millis, PipelineDigest, pipeline};
use push0_runtime::drive::Catalog;
use rand::RngExt as _;

use super::executor::Dice;

pub(super) const QUORUM: u16 = 2;

/// The pipeline of the other scenarios, one with another tree, and one that at times states something else, or that always fails: as the
/// dice say. Of the latter a large run has fewer, since what fails states nothing.
pub(super) fn several(catalog: &mut Catalog, text: &str, dice: &Dice, is_large: bool) -> Result<(), String> {
    let (is_liar, stops) = {
        let mut dice = dice.borrow_mut();
        (
            dice.random_range(0..if is_large { 16 } else { 4 }) > 0,
            dice.random_range(0..if is_large { 8 } else { 2 }) == 1,
        )
    };
    let named = |name: &str| text.replace("name = \"sim\"", &format!("name = \"{name}\""));
    let with_params = |name: &str, stage: &str, params: &str| {
        let stage = format!("name = \"{stage}\"\n");
        named(name).replace(&stage, &format!("{stage}    params = {{ {params} = true }}\n"))
    };
    let texts = [
        text.to_owned(),
        named("narrow").replace("first_arity = 3", "first_arity = 2").replace("first_arity = 4", "first_arity = 3"),
        if is_liar { with_params("liar", "verify", "disputes") } else { with_params("broken", "prove", "fails") },
    ];
    let mut pipelines = Vec::new();
    for text in texts {
        let mut file = pipeline::parse(&text).map_err(|mistakes| mistakes.to_string())?;
        let known: Option<(&PipelineDigest, _)> = catalog.pipelines.iter().next();
        if let Some((_, known)) = known {
            file.policy = push0_core::pipeline::Policy::clone(&known.policy);
        }
        let digest = file.pipeline.digest();
        pipelines.push(NamedPipeline { name: file.pipeline.name.clone(), digest });
        catalog.pipelines.entry(digest).or_insert(file);
    }
    let rest = if stops { Rest::Stop } else { Rest::Finish };
    for config in catalog.chains.values_mut() {
        let (quorum, mode, rest_limit) = (QUORUM, Mode::Every, Millis(60_000));
        config.provers = Some(Provers { pipelines: pipelines.clone(), quorum, mode, rest, rest_limit });
    }
    Ok(())
}
