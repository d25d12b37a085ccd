//! Screens, drawn from snapshots: text for people.

mod screens;

use push0_core::chain::is_left_over;
use push0_core::record::{Lane, LaneState, Verdict, VerdictSlot, clip_middle};
use push0_core::{Millis, RunId};
use push0_runtime::snapshot::{BlockSnapshot, RunSnapshot, StageSnapshot};

pub use screens::{block, overview, why, without_times};

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(pub bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// A block's status, or a word like it.
    pub fn status(self, status: &str) -> String {
        match status.trim_end() {
            "final" => self.with("32", status),
            "proven" => self.with("36", status),
            "proving" => self.with("33", status),
            "failed" => self.with("31", status),
            _ => status.to_owned(),
        }
    }

    pub fn alarm(self, text: &str) -> String {
        self.with("31", text)
    }
}

/// A length of time in two figures at most: "850 ms", "12 s", "3 min 20 s", "2 h 5 min".
pub fn duration(length: Millis) -> String {
    let secs = length.0 / 1000;
    match secs {
        0 => format!("{} ms", length.0),
        1..=9 => format!("{}.{} s", secs, length.0 % 1000 / 100),
        10..=119 => format!("{secs} s"),
        120..=7199 => format!("{} min {} s", secs / 60, secs % 60),
        _ => format!("{} h {} min", secs / 3600, secs / 60 % 60),
    }
}

pub fn ago(now: Millis, then: Millis) -> String {
    format!("{} ago", duration(now.since(then)))
}

/// "prove 3/5"; "prove 0/?" before the block is split.
pub fn stage(stage: &StageSnapshot) -> String {
    match stage.of {
        Some(of) => format!("{} {}/{of}", stage.name, stage.done),
        None => format!("{} {}/?", stage.name, stage.done),
    }
}

/// A block's stages; of several provers each one's, by its name.
pub fn stages(snapshot: &BlockSnapshot) -> String {
    let all = |run: &RunSnapshot| run.stages.iter().map(stage).collect::<Vec<_>>().join("  ");
    if snapshot.block.runs.is_empty() {
        return snapshot.run.as_ref().map_or(String::new(), all);
    }
    let each = snapshot.block.latest_runs().map(|(lane, run)| {
        let seen = snapshot.runs().find(|seen| seen.id.lane == lane && run.is_proving());
        format!("{}: {}", run.name, seen.map_or(run.state.name().to_owned(), all))
    });
    each.collect::<Vec<_>>().join("  |  ")
}

/// How one of a block's runs is, on a line.
///
/// Of a run that its block's quorum did not need the block's row, which never changes once it is final, says for ever that it is being
/// proven: the run's own row says what came of it, and `rest_limit` how long anybody waits for that.
pub fn lane(snapshot: &BlockSnapshot, lane: u16, run: &Lane, now: Millis, rest_limit: Millis) -> String {
    let id = RunId::new(snapshot.block.chain.clone(), snapshot.block.number, snapshot.block.epoch).in_lane(lane);
    let seen = snapshot.runs().find(|seen| seen.id == id);
    let stages = |seen: &RunSnapshot| seen.stages.iter().map(stage).collect::<Vec<_>>().join("  ");
    let how = match &run.state {
        LaneState::Proving => match (seen, snapshot.block.final_seq) {
            (Some(RunSnapshot { verdict: Some(found), .. }), Some(_)) => late(found),
            (Some(RunSnapshot { failed: Some(reason), .. }), _) => format!("failed: {}", in_a_line(reason)),
            (Some(RunSnapshot { stopped: true, .. }), _) => "stopped: the block does not need it".to_owned(),
            (Some(seen), Some(_)) if is_left_over(&snapshot.block, lane, now, rest_limit) => {
                format!("not waited for any more: the block has long been final without it  {}", stages(seen))
            }
            (Some(seen), Some(_)) => format!("proving, though the block is final without it  {}", stages(seen)),
            (Some(seen), None) => format!("proving  {}", stages(seen)),
            (None, Some(_)) => "not waited for: the block is final without it".to_owned(),
            (None, None) => "about to begin".to_owned(),
        },
        LaneState::Proven(proof) => {
            let outputs = proof.outputs.map_or(String::new(), |outputs| format!(", outputs {outputs}"));
            format!("proven, {} ({} bytes){outputs}", proof.proof.key, proof.proof.size)
        }
        LaneState::Failed { reason } | LaneState::Redone { reason, .. } => format!("failed: {}", in_a_line(reason)),
        LaneState::Stopped => "stopped: the block does not need it".to_owned(),
    };
    format!("{id}  {how}")
}

/// What a run came to when its block was final already.
fn late(found: &VerdictSlot) -> String {
    let said = match (found.verdict, found.outputs, &found.message) {
        (Verdict::Ok, Some(outputs), _) => format!("proven, outputs {outputs}"),
        (Verdict::Ok, None, _) => "proven".to_owned(),
        (Verdict::BadProof, _, message) => {
            format!("bad proof: {}", in_a_line(message.as_deref().unwrap_or("no reason given")))
        }
        (Verdict::BadBlock, _, message) => {
            format!("bad block: {}", in_a_line(message.as_deref().unwrap_or("no reason given")))
        }
    };
    format!("late: {said}")
}

/// A reason in one line, with its end, where a prover's own words are.
fn in_a_line(reason: &str) -> String {
    let words: Vec<&str> = reason.split_whitespace().collect();
    clip_middle(&words.join(" "), 300)
}

/// The first line of a text, as much as fits beside others.
pub fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let clipped: String = line.chars().take(100).collect();
    if clipped.len() < text.len() { format!("{clipped}…") } else { clipped }
}

/// Columns as wide as they need to be, two spaces between; no spaces at the end of a line.
pub fn columns(indent: &str, rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| visible(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.push_str(&" ".repeat(width - visible(cell) + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Characters that take room: colour codes do not.
fn visible(text: &str) -> usize {
    let (mut count, mut in_code) = (0, false);
    for character in text.chars() {
        match (in_code, character) {
            (false, '\x1b') => in_code = true,
            (true, 'm') => in_code = false,
            (true, _) => {}
            (false, _) => count += 1,
        }
    }
    count
}

#[cfg(test)]
mod tests;
