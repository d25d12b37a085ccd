//! Texts that people and S3 write: keys, names, files of configuration.

use std::collections::BTreeSet;
use std::str::FromStr;

use push0_core::message::upload::{Upload, notified, split_version, url_decoded, versioned_key};
use push0_core::pipeline::{self, Pipeline};
use push0_core::plan::Plan;
use push0_core::record::RowKey;
use push0_core::topology::Topology;
use push0_core::{BlockHash, ChainId, ErrorCode, Node, PipelineDigest, Pool, RunId, Sha256, TaskId};
use push0_runtime::settings::{Settings, Sources};

use super::Target;

pub(super) fn targets() -> Vec<Target> {
    vec![
        Target::new("ids", ids),
        Target::new("pipeline", pipeline).within(600, 1 << 20),
        Target::new("s3_event", s3_event),
        Target::new("settings", settings).within(600, 1 << 20),
        Target::new("topology", topology).within(400, 1 << 20),
        Target::new("upload_key", upload_key),
    ]
}

/// What is read is written in one way only, and read again as the same.
fn one_spelling<T: FromStr + ToString + PartialEq + std::fmt::Debug>(text: &str) -> bool
where
    T::Err: std::fmt::Display + std::fmt::Debug,
{
    match text.parse::<T>() {
        Ok(id) => {
            assert_eq!(id.to_string().parse::<T>().ok().as_ref(), Some(&id));
            true
        }
        Err(error) => {
            // It is shown to people and stored with what it is about.
            assert!(error.to_string().len() <= 1024, "a message of {} bytes", error.to_string().len());
            false
        }
    }
}

fn ids(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let read = [
        one_spelling::<ChainId>(text),
        one_spelling::<RunId>(text),
        one_spelling::<Node>(text),
        one_spelling::<TaskId>(text),
        one_spelling::<Sha256>(text),
        one_spelling::<BlockHash>(text),
        one_spelling::<PipelineDigest>(text),
        one_spelling::<ErrorCode>(text),
    ];
    let node = RowKey::parse_node(text);
    let _ = (ErrorCode::find(text), ErrorCode::split(text), push0_core::block::failed_node(text));
    push0_core::record::clip_middle(text, 64);
    read.contains(&true) || node.is_some()
}

fn s3_event(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    match notified(text) {
        Ok(uploads) => uploads.iter().all(|upload| match upload {
            Ok(upload) => upload.key.starts_with("witnesses/"),
            Err(bad) => bad.to_string().len() > 4096,
        }),
        Err(bad) => {
            assert!(bad.to_string().len() < 4096, "{} bytes", bad.to_string().len());
            false
        }
    }
}

fn upload_key(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    url_decoded(text);
    if let Some(key) = versioned_key("witnesses/demo/7", text) {
        assert_eq!(split_version(&key), Ok(("witnesses/demo/7", Some(text.to_owned()))));
    }
    let named = split_version(text).is_ok_and(|(_, version)| version.is_some());
    let upload = Upload::under(text);
    if let Some(Ok(upload)) = &upload {
        assert!(text.starts_with(&Upload::prefix(&upload.chain, upload.number)), "{text} is block {}", upload.number);
    }
    named || upload.is_some_and(|upload| upload.is_ok())
}

fn pipeline(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(file) = pipeline::parse(text) else { return false };
    assert_eq!(file.pipeline.mistakes(), [] as [String; 0]);
    assert_eq!(file.pipeline.stages.len(), file.policy.stages.len());
    let written = serde_json::to_string(&file.pipeline).expect("a pipeline is plain data");
    let read: Pipeline = serde_json::from_str(&written).expect("what was written is read");
    assert_eq!((&read, read.digest()), (&file.pipeline, file.pipeline.digest()), "{written}");
    for segments in [1, 2, 17, 100_000] {
        let Ok(plan) = Plan::new(&file.pipeline, segments) else { continue };
        plan.covers(plan.verify());
    }
    true
}

fn topology(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(topology) = Topology::parse(text) else { return false };
    let pools: BTreeSet<Pool> = [Pool::trusted()].into();
    topology.expanded_queues(&pools);
    topology.functions.iter().for_each(|function| drop(topology.expanded_sources(function, &pools)));
    let written = serde_json::to_string(&topology).expect("a topology is plain data");
    assert_eq!(Topology::parse(&written).as_ref(), Ok(&topology));
    true
}

/// `push0.toml`, with the example's pipelines beside it. Only names of files beside it are looked at: whoever writes this file may name
/// any other.
fn settings(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let Ok(directory) = tempfile::tempdir() else { return false };
    let file = directory.path().join("push0.toml");
    let beside = [("rollup.toml", include_str!("../../examples/rollup.toml"))];
    let written = beside.iter().all(|(name, text)| std::fs::write(directory.path().join(name), text).is_ok());
    if !written || std::fs::write(&file, text).is_err() || text.contains("/dev/") || text.contains("/proc/") {
        return false;
    }
    let sources = Sources { file: Some(file), ..Sources::default() };
    let settings = Settings::read(&sources);
    settings.is_ok_and(|settings| !settings.catalog.pools().is_empty())
}
