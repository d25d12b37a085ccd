//! What must hold between the resources of an installation, `infra/topology.json`, the code's metrics and the runbook.
//!
//! Everything but [`written`] looks at a root module that was worked out: the same relation holds however it is written.

mod fleet;
mod functions;
mod metrics;
mod queues;
mod storage;
pub(crate) mod written;

use std::collections::BTreeSet;
use std::rc::Rc;

use push0_core::id::Pool;
use push0_core::topology::Topology;

use crate::computed::computed;
use crate::module::{Finding, Kind};
use crate::plan::Resource;
use crate::tree::Tree;

/// One installation in a root module that was worked out.
pub struct Installation<'a> {
    pub tree: &'a Tree,
    pub topology: Topology,
    pub root: &'a str,
    pub resources: Vec<Rc<Resource>>,
    pub prefix: String,
    /// Those that have work queues.
    pub pools: BTreeSet<Pool>,
}

impl<'a> Installation<'a> {
    /// All of a root module: each has a queue `PREFIX-submissions.fifo`.
    pub fn all(tree: &'a Tree, root: &'a str, resources: &[Rc<Resource>]) -> Result<Vec<Self>, Finding> {
        let remark = |what: String| Finding { file: root.to_owned(), line: 0, what };
        let text = tree.read("infra/topology.json").unwrap_or_default();
        let topology =
            Topology::parse(text).map_err(|wrong| remark(format!("infra/topology.json: {}", wrong.0.join("; "))))?;
        let mut installations = Vec::new();
        for first in resources.iter().filter(|queue| is_queue(queue)) {
            let name = first.text("name").unwrap_or_default();
            let Some(prefix) = name.strip_suffix("-submissions.fifo") else { continue };
            // All of the module that has it, with the modules inside.
            let own = |resource: &&Rc<Resource>| call(&resource.address) == call(&first.address);
            let resources: Vec<Rc<Resource>> = resources.iter().filter(own).cloned().collect();
            let pool = |queue: &Rc<Resource>| {
                queue.text("name")?.strip_prefix(prefix)?.strip_prefix("-work-")?.strip_suffix("-bulk")?.parse().ok()
            };
            let pools = resources.iter().filter(|queue| is_queue(queue)).filter_map(pool).collect();
            let (topology, prefix) = (topology.clone(), prefix.to_owned());
            installations.push(Self { tree, topology, root, resources, prefix, pools });
        }
        match installations.is_empty() {
            true => Err(remark("there is no queue PREFIX-submissions.fifo: nothing is installed".to_owned())),
            false => Ok(installations),
        }
    }

    pub(crate) fn of_type(&self, type_name: &str) -> impl Iterator<Item = &Resource> {
        let resources = self.resources.iter().map(|resource| &**resource);
        resources.filter(move |resource| resource.kind == Kind::Resource && resource.type_name == type_name)
    }

    /// The one whose argument is this text.
    pub(crate) fn find(&self, type_name: &str, argument: &str, text: &str) -> Option<&Resource> {
        self.of_type(type_name).find(|resource| resource.text(argument).as_deref() == Some(text))
    }

    pub(crate) fn by_arn(&self, type_name: &str, arn: &str) -> Option<&Resource> {
        self.of_type(type_name).find(|resource| computed(resource, "arn").as_deref() == Some(arn))
    }

    /// A name in the account.
    pub(crate) fn named(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    pub(crate) fn queue(&self, name: &str) -> Option<&Resource> {
        self.find("aws_sqs_queue", "name", &self.named(name))
    }

    pub(crate) fn function(&self, name: &str) -> Option<&Resource> {
        self.find("aws_lambda_function", "function_name", &self.named(name))
    }

    pub(crate) fn remark(&self, what: impl Into<String>) -> Finding {
        Finding { file: self.root.to_owned(), line: 0, what: what.into() }
    }
}

/// The call of the root module that an address is of; nothing for what stands in the root itself.
fn call(address: &str) -> &str {
    match address.strip_prefix("module.") {
        Some(rest) => &address[..address.len() - rest.len() + rest.find('.').unwrap_or_default()],
        None => "",
    }
}

fn is_queue(resource: &Resource) -> bool {
    resource.kind == Kind::Resource && resource.type_name == "aws_sqs_queue"
}

/// An argument that has to be this number.
fn number(resource: &Resource, argument: &str, wanted: u32, why: &str) -> Option<Finding> {
    let is = resource.number(argument);
    (is != Some(f64::from(wanted))).then(|| {
        let is = is.map_or("not set".to_owned(), |is| is.to_string());
        resource.finding(format!("`{argument}` is {is}, {why} {wanted}"))
    })
}

/// An argument that has to be this text, or this truth.
fn text(resource: &Resource, argument: &str, wanted: &str, why: &str) -> Option<Finding> {
    let is = resource.text(argument);
    (is.as_deref() != Some(wanted)).then(|| {
        let is = is.unwrap_or("not set".to_owned());
        resource.finding(format!("`{argument}` is {is}, {why} {wanted}"))
    })
}

/// All relations of an installation.
pub fn check(installation: &Installation<'_>) -> Vec<Finding> {
    let mut findings = queues::check(installation);
    findings.extend(functions::check(installation));
    findings.extend(storage::check(installation));
    findings.extend(metrics::check(installation));
    findings.extend(fleet::check(installation));
    findings.sort();
    findings.dedup();
    findings
}
