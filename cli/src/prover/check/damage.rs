//! Files that are not what they should be.

/// Bytes that differ from the good ones, with what was done to them.
pub(super) fn damaged(good: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    if good.len() > 1 {
        all.push(("cut off in the middle".to_owned(), good[..good.len() / 2].to_vec()));
    }
    let places = [("first", 0), ("middle", good.len() / 2), ("last", good.len().saturating_sub(1))];
    let mut seen = Vec::new();
    for (place, at) in places {
        if at < good.len() && !seen.contains(&at) {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            all.push((format!("with a flipped bit in its {place} byte"), bytes));
            seen.push(at);
        }
    }
    if good.is_empty() {
        all.push(("with a byte too many".to_owned(), vec![0]));
    } else {
        all.push(("empty".to_owned(), Vec::new()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_damage_is_a_change_and_no_two_are_the_same() {
        for length in [0, 1, 2, 3, 100] {
            let good = vec![7; length];
            let made = damaged(&good);
            assert!(made.iter().all(|(_, bytes)| *bytes != good), "{length}");
            let different: std::collections::BTreeSet<&String> = made.iter().map(|(what, _)| what).collect();
            assert_eq!(different.len(), made.len());
            assert!(!made.is_empty());
        }
    }
}
