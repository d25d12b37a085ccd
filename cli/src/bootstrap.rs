//! `push0 bootstrap`: creates in an AWS account, or in an emulator of one, what `infra/topology.json` lists.
//!
//! It may run as often as one likes: what is there and as it should be is left alone, what differs is told and mended where that loses
//! nothing. Roles and everything about access between them are the operator's; an emulator needs none.

#[cfg(feature = "aws")]
mod buckets;
#[cfg(feature = "aws")]
mod functions;
#[cfg(feature = "aws")]
mod ledger;
#[cfg(feature = "aws")]
mod mappings;
#[cfg(feature = "aws")]
mod package;
#[cfg(feature = "aws")]
pub(crate) mod place;
#[cfg(feature = "aws")]
mod queues;
#[cfg(feature = "aws")]
mod site;
#[cfg(feature = "aws")]
mod tables;
#[cfg(feature = "aws")]
mod timer;
#[cfg(feature = "aws")]
mod zip;

use crate::args;
use crate::output::Output;
use crate::settings::{Settings, Sources};

#[cfg(not(feature = "aws"))]
pub async fn run(_: &args::Bootstrap, _: &Sources, _: &Settings, _: Output) -> anyhow::Result<()> {
    Err(crate::error::Trouble::without_aws("`push0 bootstrap`").into())
}

#[cfg(feature = "aws")]
pub async fn run(args: &args::Bootstrap, sources: &Sources, settings: &Settings, output: Output) -> anyhow::Result<()> {
    use crate::error::Trouble;
    use push0_core::ErrorCode;
    use push0_core::topology::Topology;

    let topology = Topology::built_in().with_visibility(args.visibility_s);
    if args.visibility_s.is_some() && settings.aws.endpoint.is_none() {
        return Err(Trouble::usage("--visibility-s is for tests: it needs an emulator's endpoint")
            .next("name one with --endpoint URL, or leave the flag out")
            .coded(ErrorCode::BadUsage)
            .into());
    }
    let packages = match &args.functions {
        Some(directory) => package::packages(directory, &topology, sources, settings)?,
        None => Vec::new(),
    };
    let pools = settings.catalog.pools();
    let mut site = site::Site::new(settings.aws.clone(), args.dry_run).await?;
    let done = async {
        queues::ensure(&mut site, &topology, &pools).await?;
        for table in &topology.tables {
            tables::ensure(&mut site, table).await?;
        }
        for bucket in &topology.buckets {
            buckets::ensure(&mut site, bucket).await?;
        }
        let inside = args.endpoint_inside.as_deref().or(settings.aws.endpoint.as_deref());
        for package in &packages {
            functions::ensure(&mut site, package, args.role.as_deref(), inside).await?;
            mappings::ensure(&mut site, &topology, package.function, &pools).await?;
            timer::ensure(&mut site, package.function).await?;
        }
        Ok::<(), Trouble>(())
    };
    let done = done.await;
    // What was done before a failure was done.
    site.ledger.show(&site.place, done.is_ok(), output);
    done?;
    Ok(site.ledger.verdict()?)
}
