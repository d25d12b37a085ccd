//! Whether what is wrong is found out: by the stage that reads it, or at the latest by `verify`.

use std::path::PathBuf;

use push0_core::message::{Check, FailureKind};
use push0_core::pipeline::Kind;
use push0_core::record::Verdict;
use push0_core::{BlockHash, Node};
use push0_gpu_worker::Failure;
use push0_gpu_worker::prover::Output as Made;

use super::Found::{Fail, Pass, Skip};
use super::Judge;
use crate::prover::check::course::{Fate, Ran, verdict};
use crate::prover::check::damage::damaged;
use crate::prover::task;

/// Inputs that are not what they should be.
struct Lie {
    what: String,
    inputs: Vec<PathBuf>,
    /// The input that must be accused, where one is accused at all; none: whichever.
    culprit: Option<u32>,
}

impl Judge<'_> {
    pub(super) async fn lies(&mut self) -> anyhow::Result<()> {
        let proof = self.wrong_proof().await?;
        let block = self.wrong_block().await?;
        let verify_is_lax = proof.iter().chain(&block).any(|complaint| complaint.is_err());
        if self.own_stages().contains(&self.course.verify_node().stage) {
            for (check, results) in [("wrong-proof", &proof), ("wrong-block", &block)] {
                self.note(check, found(results, "refused"));
            }
        }
        for position in self.own_stages() {
            let stage = self.course.pipeline().stage(position);
            let check = format!("damaged-input {}", stage.name);
            if stage.kind == Kind::Verify || !self.wants(&check) {
                continue;
            }
            if verify_is_lax && stage.kind != Kind::Split {
                self.note(check, Skip("`verify` accepts what it must not, so nothing can be told".to_owned()));
                continue;
            }
            let results = if stage.kind == Kind::Split {
                self.empty_witness().await?
            } else {
                self.damaged_input(position).await?
            };
            let found = if results.is_empty() {
                Skip("the block has no such task".to_owned())
            } else {
                found(&results, "found out")
            };
            self.note(check, found);
        }
        self.accused().await
    }

    /// What a stage left, put before its prover as accused, where the pipeline says that it can check it: the honest artifact, then others.
    pub(super) async fn accused(&mut self) -> anyhow::Result<()> {
        for position in self.own_stages() {
            let check = format!("accused {}", self.course.pipeline().stage(position).name);
            if !self.course.file.policy.stage(position).check || !self.wants(&check) {
                continue;
            }
            let nodes = self.course.plan().map(|plan| plan.nodes_of(position)).unwrap_or_default();
            let Some((node, (first, last))) =
                nodes.first().and_then(|node| Some((*node, self.course.plan()?.covers(*node))))
            else {
                self.note(check, Skip("the block has no such task".to_owned()));
                continue;
            };
            let (Some(pieces), Some(honest)) = (self.course.pieces.clone(), self.course.artifacts.get(&node).cloned())
            else {
                continue;
            };
            let good = std::fs::read(&honest)?;
            let mut tries = vec![("the honest artifact".to_owned(), honest, Verdict::Ok)];
            for (what, bytes) in damaged(&good) {
                tries.push((format!("the artifact {what}"), self.course.write(&bytes)?, Verdict::BadProof));
            }
            let other = nodes.get(1).and_then(|other| self.course.artifacts.get(other)).cloned();
            if let Some(other) = other
                && std::fs::read(&other)? != good
            {
                tries.push(("the artifact of another position".to_owned(), other, Verdict::BadProof));
            }
            let segments = [first, last].map(|segment| pieces.segments[segment as usize].clone());
            let mut results = Vec::new();
            for (what, artifact, wanted) in tries {
                let mut task = task(self.course.file, node, &self.course.block);
                task.check = Some(Check { reader: node, slot: 0 });
                let inputs = [artifact, pieces.header.clone(), segments[0].clone(), segments[1].clone()];
                let ran = self.course.run_task(task, &inputs).await?;
                results.push(match verdict(&ran) {
                    Ok((said, _)) if said == wanted => Ok(()),
                    Ok((said, message)) => Err(format!("{what}: it says {said:?}, not {wanted:?}: {message}")),
                    Err(why) => Err(format!("{what}: no verdict, though the pipeline says `check = true`: {why}")),
                });
            }
            self.note(check, found(&results, "told apart"));
        }
        Ok(())
    }

    /// `verify` on roots that are not the block's. An error is a complaint.
    async fn wrong_proof(&mut self) -> anyhow::Result<Vec<Result<(), String>>> {
        let node = self.course.verify_node();
        let Some([root, header]) = self.course.inputs(node).and_then(|inputs| <[PathBuf; 2]>::try_from(inputs).ok())
        else {
            return Ok(Vec::new());
        };
        let mut roots = Vec::new();
        for (what, bytes) in damaged(&std::fs::read(&root)?) {
            roots.push((format!("the root {what}"), self.course.write(&bytes)?));
        }
        if let Some(part) = self.root_of_the_first_segment().await? {
            roots.push(("a root over the first segment alone".to_owned(), part));
        }
        let mut results = Vec::new();
        for (what, root) in roots {
            let ran = self.course.run(node, &[root, header.clone()]).await?;
            results.push(match (&ran, verdict(&ran)) {
                (_, Ok((Verdict::BadProof, _))) => Ok(()),
                (Ran::Refused(failure), _) if failure.kind == FailureKind::BadInput && failure.children == [0] => {
                    Ok(())
                }
                (_, Ok((Verdict::Ok, _))) => Err(format!("{what}: `verify` says ok")),
                (_, Ok((Verdict::BadBlock, _))) => {
                    Err(format!("{what}: `verify` says bad_block, which fails the block though another proof would do"))
                }
                (_, Err(why)) => Err(format!("{what}: no verdict, but: {why}")),
            });
        }
        Ok(results)
    }

    /// What the stages behind the joins make of the first segment's proof, as if it were the whole block.
    async fn root_of_the_first_segment(&mut self) -> anyhow::Result<Option<PathBuf>> {
        let pipeline = self.course.pipeline();
        let last_map = (0..pipeline.verify_position()).rev().find(|at| pipeline.stage(*at).kind == Kind::Map);
        let several = self.course.pieces.as_ref().is_some_and(|pieces| pieces.segments.len() > 1);
        let (Some(last_map), true) = (last_map, several) else { return Ok(None) };
        let Some(mut root) = self.course.artifacts.get(&Node::new(last_map, 0, 0)).cloned() else { return Ok(None) };
        for position in last_map + 1..pipeline.verify_position() {
            if pipeline.stage(position).kind == Kind::Single {
                match self.course.run(Node::new(position, 0, 0), &[root]).await?.file() {
                    Ok(path) => root = path,
                    // Refused before `verify` sees it.
                    Err(_) => return Ok(None),
                }
            }
        }
        Ok(Some(root))
    }

    /// `verify` on headers that are not the block's.
    async fn wrong_block(&mut self) -> anyhow::Result<Vec<Result<(), String>>> {
        let node = self.course.verify_node();
        let Some([root, header]) = self.course.inputs(node).and_then(|inputs| <[PathBuf; 2]>::try_from(inputs).ok())
        else {
            return Ok(Vec::new());
        };
        let mut runs = Vec::new();
        for (what, bytes) in damaged(&std::fs::read(&header)?) {
            let wrong = self.course.write(&bytes)?;
            runs.push((format!("the header {what}"), self.course.run(node, &[root.clone(), wrong]).await?));
        }
        let mut other = task(self.course.file, node, &self.course.block);
        let BlockHash(mut hash) = other.block_hash;
        hash[31] ^= 1;
        other.block_hash = BlockHash(hash);
        runs.push(("another block's hash".to_owned(), self.course.run_task(other, &[root, header]).await?));
        let judged = runs.into_iter().map(|(what, ran)| match verdict(&ran) {
            Ok((Verdict::BadBlock, _)) => Ok(()),
            Ok((Verdict::Ok, _)) => Err(format!("{what}: `verify` says ok")),
            Ok((Verdict::BadProof, _)) => {
                Err(format!("{what}: `verify` says bad_proof, so the block is proven again and again"))
            }
            Err(why) => Err(format!("{what}: no verdict, but: {why}")),
        });
        Ok(judged.collect())
    }

    /// `split` on nothing: it cannot have found the block there.
    async fn empty_witness(&mut self) -> anyhow::Result<Vec<Result<(), String>>> {
        let empty = self.course.write(b"")?;
        let hash = self.course.block.hash;
        Ok(vec![match self.course.run(Node::SPLIT, &[empty]).await? {
            Ran::Made(Made::Split { hash: said, .. }) if said == hash => {
                Err("an empty witness: it says the block's hash all the same, so it did not read it there".to_owned())
            }
            Ran::Hung(failure) => Err(format!("an empty witness: {}", failure.message)),
            Ran::Made(_) | Ran::Refused(_) | Ran::Stopped => Ok(()),
        }])
    }

    /// A stage on inputs that are damaged, or others' than they should be.
    async fn damaged_input(&mut self, position: u16) -> anyhow::Result<Vec<Result<(), String>>> {
        let nodes = self.course.plan().map(|plan| plan.nodes_of(position)).unwrap_or_default();
        let Some(node) = nodes.first().copied() else { return Ok(Vec::new()) };
        let mut results = Vec::new();
        for lie in self.lies_for(node, nodes.get(1).copied())? {
            let complaint = match self.course.run(node, &lie.inputs).await? {
                Ran::Refused(failure) => accusation(&failure, lie.culprit),
                Ran::Hung(failure) => Some(failure.message),
                Ran::Stopped => None,
                ran => {
                    let made = ran.file().map_err(anyhow::Error::msg)?;
                    match self.course.follow(node, made).await? {
                        Fate::Refused => None,
                        Fate::Hung(failure) => Some(failure.message),
                        Fate::Judged(ran) => match verdict(&ran) {
                            Ok((Verdict::Ok, _)) => Some("done, and `verify` says ok to what comes of it".to_owned()),
                            _ => None,
                        },
                    }
                }
            };
            results.push(complaint.map_or(Ok(()), |complaint| Err(format!("{}: {complaint}", lie.what))));
        }
        Ok(results)
    }

    fn lies_for(&mut self, node: Node, other: Option<Node>) -> anyhow::Result<Vec<Lie>> {
        let Some(inputs) = self.course.inputs(node) else { return Ok(Vec::new()) };
        let slot = inputs.len().saturating_sub(1);
        let good = std::fs::read(&inputs[slot])?;
        let mut lies = Vec::new();
        for (what, bytes) in damaged(&good) {
            let mut inputs = inputs.clone();
            inputs[slot] = self.course.write(&bytes)?;
            let what = if inputs.len() > 1 { format!("input {slot} {what}") } else { format!("its input {what}") };
            lies.push(Lie { what, inputs, culprit: Some(slot as u32) });
        }
        let differ =
            |one: &PathBuf, two: &PathBuf| -> std::io::Result<bool> { Ok(std::fs::read(one)? != std::fs::read(two)?) };
        if inputs.len() > 1 && differ(&inputs[0], &inputs[1])? {
            let mut swapped = inputs.clone();
            swapped.swap(0, 1);
            lies.push(Lie { what: "inputs 0 and 1 swapped".to_owned(), inputs: swapped, culprit: None });
            let mut doubled = inputs.clone();
            doubled[1] = doubled[0].clone();
            lies.push(Lie { what: "input 0 in the place of input 1".to_owned(), inputs: doubled, culprit: None });
        }
        let others = other.and_then(|other| self.course.inputs(other)).filter(|_| inputs.len() == 1);
        if let Some(others) = others
            && differ(&inputs[0], &others[0])?
        {
            lies.push(Lie {
                what: "the input of another position".to_owned(),
                inputs: vec![others[0].clone()],
                culprit: None,
            });
        }
        Ok(lies)
    }
}

/// What is wrong with a refusal: it must not blame an input that is good and leave out the bad one.
fn accusation(failure: &Failure, culprit: Option<u32>) -> Option<String> {
    let culprit = culprit.filter(|_| failure.kind == FailureKind::BadInput)?;
    (!failure.children.contains(&culprit))
        .then(|| format!("bad_input, but it names {:?}, not {culprit}", failure.children))
}

fn found(results: &[Result<(), String>], done: &str) -> super::Found {
    let complaints: Vec<&str> = results.iter().filter_map(|result| result.as_ref().err().map(String::as_str)).collect();
    match complaints.is_empty() {
        true => Pass(format!("{} tried, all {done}", results.len())),
        false => Fail(complaints.join("\n")),
    }
}
