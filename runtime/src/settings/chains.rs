//! `[[chain]]` tables and the pipelines they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::drive::Catalog;
use push0_core::chain::{Batching, ChainConfig, NamedPipeline, WINDOW};
use push0_core::pipeline::{self, Mistakes, PipelineFile, ProverCommand};
use push0_core::record::{Late, MAX_BATCH};
use push0_core::{ChainId, Class, Millis, ProverName};
use toml::Table;

use super::layers::Reader;
use super::read_text;

const KEYS: [&str; 18] = [
    "id",
    "first",
    "first_parent",
    "pipeline",
    "pipelines",
    "quorum",
    "mode",
    "rest",
    "rest_limit_s",
    "window",
    "distance",
    "class",
    "bad_proof_limit",
    "of",
    "batch",
    "batch_wait_ms",
    "deadline_ms",
    "late",
];

/// Most chains of a configuration: each is looked at in turn, and named in messages and metrics.
const MAX_CHAINS: usize = 1_000;

/// Longest deadline, milliseconds: 30 days.
const LONGEST_DEADLINE: u64 = 30 * 24 * 60 * 60 * 1000;

pub(super) fn read(
    reader: &mut Reader,
    directory: &Path,
    needs_chain: bool,
) -> (Catalog, BTreeMap<ProverName, ProverCommand>) {
    let tables = std::mem::take(&mut reader.chains);
    if tables.is_empty() && needs_chain {
        reader.mistake("[[chain]]", "there is no chain: `push0 init` writes a configuration that has one");
    }
    if tables.len() > MAX_CHAINS {
        let what =
            format_args!("there are {}; at most {MAX_CHAINS} are possible: run several installations", tables.len());
        reader.mistake("[[chain]]", what);
        return Default::default();
    }
    let mut pipelines = Pipelines::default();
    let mut catalog = Catalog::default();
    for (position, table) in tables.iter().enumerate() {
        if let Some(config) = chain(reader, table, position, directory, &mut pipelines)
            && catalog.chains.insert(config.chain.clone(), config.clone()).is_some()
        {
            reader.mistake(&format!("[[chain]] {}", config.chain), "the id is used twice");
        }
    }
    derive(reader, &mut catalog);
    let provers = provers(reader, &pipelines);
    for (path, file) in pipelines.read.into_values().flatten() {
        let digest = file.pipeline.digest();
        if let Some(other) = catalog.pipelines.insert(digest, file.clone())
            && other.policy != file.policy
        {
            let what =
                "computes the same as another pipeline here, with another policy: a chain cannot tell them apart";
            reader.mistake(&path.display().to_string(), what);
        }
    }
    (catalog, provers)
}

fn chain(
    reader: &mut Reader,
    table: &Table,
    position: usize,
    directory: &Path,
    pipelines: &mut Pipelines,
) -> Option<ChainConfig> {
    let at = format!("[[chain]] {}", position + 1);
    let id: Option<ChainId> = reader.required(table, &at, "id");
    let at = id.as_ref().map_or(at, |id| format!("[[chain]] {id}"));
    reader.only_keys(table, &at, &KEYS);
    let found = super::pipelines::read(reader, table, &at, directory, pipelines);
    let provers = super::pipelines::share(reader, table, &at, found.as_deref());
    let most = i64::MAX as u64;
    let batch = batching(reader, table, &at);
    let first = reader.number(table, &at, "first", 0..=most);
    let first_parent = reader.optional(table, &at, "first_parent");
    let window = reader.number(table, &at, "window", u64::from(*WINDOW.start())..=u64::from(*WINDOW.end()));
    let distance = reader.number(table, &at, "distance", 1..=most);
    let limit = reader.number(table, &at, "bad_proof_limit", 0..=1000);
    let class = match reader.optional::<String>(table, &at, "class") {
        None => Some(Class::default()),
        Some(name) => {
            let class = Class::ALL.into_iter().find(|class| class.as_str() == name);
            if class.is_none() {
                let classes = Class::ALL.map(Class::as_str).join(", ");
                reader.mistake(&at, format_args!("`class`: {name:?} is not one of {classes}"));
            }
            class
        }
    };
    let deadline = reader.number(table, &at, "deadline_ms", 1..=LONGEST_DEADLINE);
    let late = match reader.optional::<String>(table, &at, "late") {
        None => Some(Late::default()),
        Some(name) => {
            let late = Late::ALL.into_iter().find(|late| late.as_str() == name);
            if late.is_none() {
                let policies = Late::ALL.map(Late::as_str).join(", ");
                reader.mistake(&at, format_args!("`late`: {name:?} is not one of {policies}"));
            }
            late
        }
    };
    let mut config = ChainConfig::new(id?, found?.first()?.digest);
    config.provers = provers;
    config.first = first.unwrap_or(config.first);
    config.first_parent = first_parent;
    config.window = window.map_or(config.window, |window| window as u32);
    config.distance = distance.unwrap_or(config.distance);
    config.bad_proof_limit = limit.map_or(config.bad_proof_limit, |limit| limit as u32);
    config.class = class?;
    config.batch = batch;
    config.deadline = deadline.map(Millis);
    config.late = late?;
    Some(config)
}

/// The keys of a batch chain, where it is one.
fn batching(reader: &mut Reader, table: &Table, at: &str) -> Option<Batching> {
    let of: Option<ChainId> = reader.optional(table, at, "of");
    let size = reader.number(table, at, "batch", 1..=u64::from(MAX_BATCH));
    let wait = reader.number(table, at, "batch_wait_ms", 1..=i64::MAX as u64);
    if table.contains_key("of") != table.contains_key("batch") {
        reader.mistake(at, "`of` (a chain) and `batch` (how many of its blocks make one here) go together");
        return None;
    }
    if !table.contains_key("of") {
        if table.contains_key("batch_wait_ms") {
            reader.mistake(at, "`batch_wait_ms` is for batch chains: those with `of` and `batch`");
        }
        return None;
    }
    for key in ["first", "first_parent"].into_iter().filter(|key| table.contains_key(*key)) {
        reader.mistake(at, format_args!("`{key}` of a batch chain follows from its source: leave it out"));
    }
    Some(Batching { of: of?, size: size? as u32, wait: wait.map(Millis) })
}

/// Tells every source of the chains derived from it. A batch chain's first parent is its source's.
fn derive(reader: &mut Reader, catalog: &mut Catalog) {
    let batchings: Vec<(ChainId, Batching)> =
        catalog.chains.values().filter_map(|config| Some((config.chain.clone(), config.batch.clone()?))).collect();
    for (chain, batching) in batchings {
        let at = format!("[[chain]] {chain}");
        if !catalog.chains.contains_key(&batching.of) {
            reader.mistake(&at, format_args!("`of`: there is no chain {}", batching.of));
            continue;
        }
        let Some(first_parent) = root(catalog, &chain).map(|root| root.first_parent) else {
            reader.mistake(&at, "`of`: this source does not lead to a chain that blocks are submitted to");
            continue;
        };
        if let Some(config) = catalog.chains.get_mut(&chain) {
            config.first_parent = first_parent;
        }
        if let Some(source) = catalog.chains.get_mut(&batching.of) {
            source.derived.insert(chain, batching);
        }
    }
}

/// The chain that a batch chain's sources lead to; `None` where one of them is not there, or they lead in a circle.
fn root<'c>(catalog: &'c Catalog, chain: &ChainId) -> Option<&'c ChainConfig> {
    let mut at = catalog.chains.get(chain)?;
    for _ in 0..catalog.chains.len() {
        match &at.batch {
            None => return Some(at),
            Some(batching) => at = catalog.chains.get(&batching.of)?,
        }
    }
    None
}

/// Pipelines by path, read once each; `None` where a file has mistakes.
#[derive(Default)]
pub(super) struct Pipelines {
    read: BTreeMap<PathBuf, Option<(PathBuf, PipelineFile)>>,
}

impl Pipelines {
    pub(super) fn named(&mut self, reader: &mut Reader, path: &Path) -> Option<NamedPipeline> {
        if !self.read.contains_key(path) {
            let file = read_pipeline(reader, path).map(|file| (path.to_owned(), file));
            self.read.insert(path.to_owned(), file);
        }
        let (_, file) = self.read.get(path)?.as_ref()?;
        Some(NamedPipeline { name: file.pipeline.name.clone(), digest: file.pipeline.digest() })
    }
}

fn read_pipeline(reader: &mut Reader, path: &Path) -> Option<PipelineFile> {
    let at = path.display().to_string();
    match pipeline_file(path) {
        Ok(file) => Some(file),
        Err(mistakes) => {
            mistakes.0.iter().for_each(|mistake| reader.mistake(&at, mistake));
            None
        }
    }
}

/// Reads a pipeline file as a worker of this directory has to understand it.
pub fn pipeline_file(path: &Path) -> Result<PipelineFile, Mistakes> {
    let text = read_text(path).map_err(|error| Mistakes(vec![format!("cannot read the pipeline: {error}")]))?;
    let mut file = pipeline::parse(&text)?;
    // A program with a `/` is relative to the pipeline's file, wherever the worker is started.
    let directory = path.parent().unwrap_or(Path::new("")).canonicalize().unwrap_or_default();
    for prover in file.provers.values_mut() {
        let program = &mut prover.command[0];
        if program.contains('/') {
            *program = directory.join(&*program).to_string_lossy().into_owned();
        }
    }
    for input in file.self_tests.values_mut().flat_map(|test| &mut test.inputs) {
        *input = directory.join(&*input);
    }
    Ok(file)
}

fn provers(reader: &mut Reader, pipelines: &Pipelines) -> BTreeMap<ProverName, ProverCommand> {
    let mut provers: BTreeMap<ProverName, (ProverCommand, &Path)> = BTreeMap::new();
    for (path, file) in pipelines.read.values().flatten() {
        for (name, command) in &file.provers {
            let (known, other) = provers.entry(name.clone()).or_insert_with(|| (command.clone(), path));
            if known != command {
                let what =
                    format!("prover {name} is another one in {}: give one of them another name", other.display());
                reader.mistake(&path.display().to_string(), what);
            }
        }
    }
    provers.into_iter().map(|(name, (command, _))| (name, command)).collect()
}
