//! Checks of `infra/terraform` that need neither an account nor the provider: README.md says what they can and cannot find.
//!
//! [`World`] reads all modules; [`names`] holds every name and argument against the provider's schema; [`Plan`] works a root module out, as far as
//! that goes without asking AWS; [`relations`] and [`iam`] look at what came out. Everything is in memory, so that the seeded faults of
//! `faults.toml` change no file.

use std::collections::BTreeMap;
use std::rc::Rc;

mod computed;
mod eval;
mod functions;
mod iam;
mod metric_math;
mod module;
mod plan;
mod policy;
mod recorded;
mod references;
mod relations;
mod schema;
mod shape;
mod tree;
mod types;
mod value;

pub use computed::{ACCOUNT, REGION};
pub use iam::{Judgement, Lists, check as iam};
pub use metric_math::evaluate;
pub use module::{Finding, Kind, Module};
pub use plan::{Plan, Resource, World};
pub use policy::{Decision, Statement, decide, parse as parse_policy};
pub use recorded::Recording;
pub use relations::{Installation, check as relations};
pub use schema::Schema;
pub use tree::Tree;
pub use value::Value;

/// Where the root module lies.
pub const TERRAFORM: &str = "infra/terraform";
/// Folders with root modules that are worked out: the examples.
pub const EXAMPLES: &str = "infra/terraform/examples";
/// And two installations of which one has everything switched on.
pub const INSTALLATION: &str = "infra/check/installation";

/// All findings of all checks; worked out are the root modules in these folders.
pub fn everything(tree: Tree, schema: &Rc<Schema>, installations: &[&str]) -> Vec<Finding> {
    let world = World::read(tree, Rc::clone(schema), "infra");
    let mut findings = names(&world);
    findings.extend(written(&world));
    // What is not declared would be found again in each installation.
    if findings.is_empty() {
        let roots = world.modules.iter().filter(|(dir, _)| installations.iter().any(|top| dir.starts_with(top)));
        let found: Vec<Finding> = roots.flat_map(|(dir, root)| installed(&world, dir, root)).collect();
        findings.extend(found);
    }
    findings.sort();
    findings.dedup();
    findings
}

fn installed(world: &World, dir: &str, root: &Module) -> Vec<Finding> {
    let plan = Plan::of_root(world, root, BTreeMap::new());
    let (resources, mut findings) = plan.everything();
    match Installation::all(&world.tree, dir, &resources) {
        Err(nothing) => findings.push(nothing),
        Ok(installations) => {
            for installation in &installations {
                findings.extend(relations(installation));
                findings.extend(iam(installation));
            }
        }
    }
    findings
}

/// What the roles' policies say in all installations of the root modules in a folder, which [`everything`] finds nothing wrong with.
pub fn judgements(tree: Tree, schema: &Rc<Schema>, folder: &str) -> Result<Vec<Judgement>, String> {
    let world = World::read(tree, Rc::clone(schema), "infra");
    let mut judgements = Vec::new();
    for (dir, root) in world.modules.iter().filter(|(dir, _)| dir.starts_with(folder)) {
        let (resources, _) = Plan::of_root(&world, root, BTreeMap::new()).everything();
        for installation in Installation::all(&world.tree, dir, &resources).map_err(|nothing| nothing.to_string())? {
            judgements.extend(iam::judgements(&installation)?);
        }
    }
    Ok(judgements)
}

/// Names, arguments and blocks of all modules, against the schema and each other.
pub fn names(world: &World) -> Vec<Finding> {
    let mut findings = world.findings.clone();
    for module in world.modules.values() {
        let called = |call: &str| world.called(module, call);
        findings.extend(shape::check(&world.schema, module, &called));
        findings.extend(references::check(&world.schema, module, &called));
    }
    findings.sort();
    findings.dedup();
    findings
}

/// What is to be seen in the text: reasons, variables, outputs, versions.
pub fn written(world: &World) -> Vec<Finding> {
    relations::written::check(world, TERRAFORM)
}

#[cfg(test)]
mod tests;
