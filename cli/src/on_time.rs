//! Deadlines in words: how long a block has left, what was done about a late one, and how often a chain is on time.

use push0_core::Millis;
use push0_core::record::{BlockRow, Late, OnTime};

use crate::render::{ago, duration};

/// "deadline in 8.2 s, 12 s after admission". None: the block has no deadline.
pub fn of_block(block: &BlockRow, now: Millis) -> Option<String> {
    let deadline = block.deadline?;
    let given = duration(deadline.since(block.submitted_at));
    let Some(missed) = block.missed else {
        let is_open = block.final_seq.is_none();
        return Some(match (is_open, now > deadline) {
            (true, false) => format!("deadline in {}, {given} after admission", duration(deadline.since(now))),
            (true, true) => {
                format!("late since {}: its deadline was {given} after admission", duration(now.since(deadline)))
            }
            (false, _) if block.changed_at <= deadline => {
                format!(
                    "on time, {} before its deadline, {given} after admission",
                    duration(deadline.since(block.changed_at))
                )
            }
            (false, _) => format!(
                "late by {}: its deadline was {given} after admission",
                duration(block.changed_at.since(deadline))
            ),
        });
    };
    let late = match block.final_seq {
        None => format!("late since {}", duration(now.since(deadline))),
        Some(_) => format!("late by {}", duration(block.changed_at.since(deadline))),
    };
    let done = match missed.then {
        Late::Continue => "it was marked as missed, and goes on",
        Late::Demote => "it was demoted: what was still to be done for it goes to the class bulk",
        Late::Abandon => "it was abandoned: a tombstone takes its place",
    };
    Some(format!("{late}: its deadline was {given} after admission; {} {done}", ago(now, missed.at)))
}

/// Whether a block is late and not final.
pub fn is_late(block: &BlockRow, now: Millis) -> bool {
    block.final_seq.is_none() && block.deadline.is_some_and(|deadline| now > deadline)
}

/// "on time 98.4 % of 1,234; last 64: 100 %". None: no block that became final had a deadline.
pub fn of_chain(on_time: &OnTime) -> Option<String> {
    let (share, (count, recent)) = (on_time.share()?, on_time.recent_share()?);
    let total = grouped(on_time.total());
    Some(format!("on time {} of {total}; last {count}: {}", percent(share), percent(recent)))
}

/// Never rounded up to all, nor down to none.
fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).round();
    match share {
        1.0 => "100 %".to_owned(),
        0.0 => "0 %".to_owned(),
        _ => format!("{:.1} %", tenths.clamp(1.0, 999.0) / 10.0),
    }
}

/// 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use push0_core::record::{BlockStatus, Missed};

    use super::*;
    use crate::why::fixtures::{NOW, block};

    #[test]
    fn a_chain_says_how_often_it_was_on_time() {
        let mut on_time = OnTime::default();
        assert_eq!(of_chain(&on_time), None);
        (on_time.met, on_time.missed, on_time.recent) = (1214, 20, "1".repeat(64));
        assert_eq!(of_chain(&on_time).unwrap(), "on time 98.4 % of 1,234; last 64: 100 %");
        (on_time.met, on_time.missed, on_time.recent) = (1_999_999, 1, "0".to_owned());
        assert_eq!(of_chain(&on_time).unwrap(), "on time 99.9 % of 2,000,000; last 1: 0 %");
    }

    #[test]
    fn a_block_says_what_is_left_or_since_when_it_is_late_and_what_was_done() {
        let mut row = block(1, BlockStatus::Proving).block;
        assert_eq!(of_block(&row, NOW), None);
        row.deadline = Some(Millis(1_002_500));
        assert_eq!(of_block(&row, NOW).unwrap(), "deadline in 2.5 s, 12 s after admission");
        assert!(!is_late(&row, Millis(1_002_500)) && is_late(&row, Millis(1_002_501)));
        let later = Millis(1_004_500);
        assert_eq!(of_block(&row, later).unwrap(), "late since 2.0 s: its deadline was 12 s after admission");
        row.missed = Some(Missed { at: Millis(1_003_500), then: Late::Demote });
        let text = of_block(&row, later).unwrap();
        assert!(text.starts_with("late since 2.0 s") && text.contains("1.0 s ago it was demoted"), "{text}");
        (row.final_seq, row.changed_at, row.missed) = (Some(1), Millis(1_002_000), None);
        assert!(of_block(&row, later).unwrap().starts_with("on time, 500 ms before"));
    }
}
