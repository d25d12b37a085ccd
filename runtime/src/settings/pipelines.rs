//! What a chain's blocks are proven with: `pipeline`, or `pipelines` with their quorum.

use std::collections::BTreeSet;
use std::path::Path;

use push0_core::Millis;
use push0_core::chain::{MAX_PIPELINES, Mode, NamedPipeline, Provers, Rest};
use toml::{Table, Value};

use super::chains::Pipelines;
use super::layers::Reader;

/// Keys that say something of several pipelines.
const OF_SEVERAL: [&str; 4] = ["quorum", "mode", "rest", "rest_limit_s"];

/// The chain's pipelines in their order, and how they share in its blocks where they are several. `None`: there are mistakes.
pub(super) fn read(
    reader: &mut Reader,
    table: &Table,
    at: &str,
    directory: &Path,
    pipelines: &mut Pipelines,
) -> Option<Vec<NamedPipeline>> {
    match (table.contains_key("pipeline"), table.get("pipelines")) {
        (true, Some(_)) => {
            reader
                .mistake(at, "`pipeline` and `pipelines` are both given: one of them says what blocks are proven with");
            None
        }
        (_, None) => {
            for key in OF_SEVERAL.iter().filter(|key| table.contains_key(**key)) {
                reader.mistake(at, format_args!("`{key}` goes with `pipelines`"));
            }
            let path: String = reader.required(table, at, "pipeline")?;
            pipelines.named(reader, &directory.join(path)).map(|pipeline| vec![pipeline])
        }
        (false, Some(list)) => several(reader, list, at, directory, pipelines),
    }
}

fn several(
    reader: &mut Reader,
    list: &Value,
    at: &str,
    directory: &Path,
    pipelines: &mut Pipelines,
) -> Option<Vec<NamedPipeline>> {
    let paths: Option<Vec<&str>> = list.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
    let paths = paths.filter(|paths| (1..=MAX_PIPELINES).contains(&paths.len()));
    let Some(paths) = paths else {
        reader.mistake(at, format_args!("`pipelines` must be a list of 1 to {MAX_PIPELINES} files"));
        return None;
    };
    let found: Vec<_> = paths.iter().map(|path| pipelines.named(reader, &directory.join(path))).collect();
    let found: Vec<NamedPipeline> = found.into_iter().collect::<Option<_>>()?;
    let (mut digests, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut is_clean = true;
    for (pipeline, path) in found.iter().zip(paths) {
        if !digests.insert(pipeline.digest) {
            reader.mistake(at, format_args!("`pipelines`: {path} computes the same as another one in the list"));
            is_clean = false;
        } else if !names.insert(&pipeline.name) {
            let what = format_args!("`pipelines`: {path} has the name of another one in the list, {}", pipeline.name);
            reader.mistake(at, what);
            is_clean = false;
        }
    }
    is_clean.then_some(found)
}

/// How the chain's pipelines share in its blocks; `None` where there is one, or where there are mistakes.
pub(super) fn share(reader: &mut Reader, table: &Table, at: &str, found: Option<&[NamedPipeline]>) -> Option<Provers> {
    let listed = table.get("pipelines")?.as_array().map_or(MAX_PIPELINES, Vec::len).clamp(1, MAX_PIPELINES);
    let mode = match reader.choice(table, at, "mode", &["every", "share"]) {
        Some("share") => Mode::Share,
        _ => Mode::Every,
    };
    let rest = match reader.choice(table, at, "rest", &["finish", "stop"]) {
        Some("stop") => Rest::Stop,
        _ => Rest::Finish,
    };
    let most = if mode == Mode::Share { 1 } else { listed as u64 };
    let quorum = reader.number(table, at, "quorum", 1..=most).unwrap_or(most) as u16;
    let rest_limit = reader.number(table, at, "rest_limit_s", 0..=30 * 24 * 60 * 60);
    let rest_limit = rest_limit.map_or(Provers::REST_LIMIT, Millis::from_secs);
    let pipelines = found.filter(|found| found.len() > 1)?.to_vec();
    Some(Provers { pipelines, quorum, mode, rest, rest_limit })
}
