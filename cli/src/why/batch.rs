//! What is said of a batch: what it is made of, and what one that is not there yet waits for.

use push0_core::ErrorCode;
use push0_core::chain::Batching;
use push0_core::record::BatchCursor;

use super::{Facts, Why, chain_of};
use crate::render::duration;

/// For a number of a batch chain under which nothing is yet.
pub(super) fn absent(facts: &Facts, batching: &Batching, why: &mut Why) {
    let (chain, of, number) = (chain_of(facts), &batching.of, facts.number);
    let Some(source) = &facts.source else {
        why.answer = format!("its blocks are batches of {of}'s, and that chain cannot be seen here");
        return;
    };
    let first = BatchCursor::new(chain.clone(), source.first);
    let cursor = source.batches.iter().find(|cursor| cursor.chain == *chain).unwrap_or(&first);
    if number == 0 {
        why.answer = "batches are counted from 1".to_owned();
        return;
    }
    if number < cursor.number {
        why.answer = format!("its blocks are fixed, and {chain} is being told");
        why.next.push("if it stays so for more than a few seconds: look at the log of `push0 up`".to_owned());
        return;
    }
    why.code = Some(ErrorCode::UnknownBlock);
    let size = u64::from(batching.size);
    let from = cursor.next.saturating_add((number - cursor.number).saturating_mul(size));
    let to = from.saturating_add(size - 1);
    let there = source.next_final.saturating_sub(from).min(size);
    let exactly = if number == cursor.number || batching.wait.is_none() { "" } else { ", if those before it are full" };
    why.answer = match there {
        0 => format!("it will be made of blocks {from}..{to} of {of}{exactly}; none of them is final"),
        _ => format!(
            "it will be made of blocks {from}..{to} of {of}{exactly}: {there} are final, {} are lacking",
            size - there
        ),
    };
    if number > cursor.number {
        why.facts.push(format!("batch {} of {chain} comes first", cursor.number));
    } else if let (Some(wait), Some(since)) = (batching.wait, cursor.since) {
        let due = since.plus(wait);
        why.facts.push(match due.since(facts.now).0 {
            0 => "its wait is over: it is made of what is final at the reaper's next turn".to_owned(),
            left => {
                format!("if they do not come, it is made of what is final in {}", duration(push0_core::Millis(left)))
            }
        });
    }
    why.next.push(format!("push0 why {of} {}   says what the next of them waits for", source.next_final));
}

/// Nobody submits to a batch chain, and a hole can only be skipped: commands that would be refused are not named.
pub(super) fn only_what_is_possible(facts: &Facts, why: &mut Why) {
    if facts.config.batch.is_none() {
        return;
    }
    why.next.retain(|next| !next.starts_with("push0 submit") && !next.starts_with("push0 replace"));
    let block = facts.block.as_ref().map(|block| &block.block);
    if block.is_some_and(|block| block.witness.is_none()) {
        why.next.retain(|next| !next.starts_with("push0 retry"));
    }
}
