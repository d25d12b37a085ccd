//! How the groups of a standard queue share it: as SQS's fair queues do, so that one with a long backlog delays no other.
//!
//! The next message is of the group with the fewest messages in flight; among equals, of the one whose last turn was longest ago. What is
//! in flight is counted in the rows, so no crash and no rollback can make it wrong. Turns are remembered in memory: forgetting them costs
//! an order among equals.
//!
//! A receive steps from group to group in an index. A backlog of ten thousand messages costs it nothing; a thousand groups would.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// A group's name; messages without one are a group of their own.
pub(super) type Name = Option<String>;

/// Groups whose turns are remembered.
const REMEMBERED: usize = 4096;

/// A group with something to hand out.
pub(super) struct Group {
    pub(super) name: Name,
    /// Not counted where there is no other group.
    pub(super) in_flight: u64,
}

/// When each group had its last turn.
#[derive(Default)]
pub(super) struct Turns {
    count: u64,
    last: BTreeMap<Name, u64>,
}

impl Turns {
    /// Whose turn it is, by its place.
    pub(super) fn next(&self, groups: &[Group]) -> Option<usize> {
        let rank = |group: &Group| (group.in_flight, self.last.get(&group.name).copied());
        let first = groups
            .iter()
            .enumerate()
            .min_by(|(_, one), (_, other)| rank(one).cmp(&rank(other)).then_with(|| one.name.cmp(&other.name)));
        first.map(|(place, _)| place)
    }

    pub(super) fn took(&mut self, name: &Name) {
        self.count += 1;
        if let Some(last) = self.last.get_mut(name) {
            *last = self.count;
            return;
        }
        if self.last.len() >= REMEMBERED {
            self.last.clear();
        }
        self.last.insert(name.clone(), self.count);
    }
}

/// The groups with something to hand out. Leases that are over have been taken back.
pub(super) fn waiting(db: &Connection, queue: i64) -> rusqlite::Result<Vec<Group>> {
    let first: Option<Name> = db
        .prepare_cached("SELECT grp FROM messages WHERE queue = ? AND waiting = 0 ORDER BY grp LIMIT 1")?
        .query_row([queue], |row| row.get(0))
        .optional()?;
    let mut groups: Vec<Group> = Vec::new();
    let mut found = first;
    while let Some(name) = found {
        found = after(db, queue, &name)?;
        groups.push(Group { name, in_flight: 0 });
    }
    if groups.len() > 1 {
        let mut count = db
            .prepare_cached("SELECT count(*) FROM messages WHERE queue = ? AND grp IS ? AND leased = 1 AND fifo = 0")?;
        for group in &mut groups {
            group.in_flight = count.query_row(params![queue, group.name], |row| row.get(0))?;
        }
    }
    Ok(groups)
}

/// The group after this one; those with a name come after that without.
fn after(db: &Connection, queue: i64, name: &Name) -> rusqlite::Result<Option<Name>> {
    let mut next = db.prepare_cached(match name {
        Some(_) => "SELECT grp FROM messages WHERE queue = ? AND waiting = 0 AND grp > ? ORDER BY grp LIMIT 1",
        None => {
            "SELECT grp FROM messages WHERE queue = ? AND waiting = 0 AND grp IS NOT NULL AND ? IS NULL ORDER BY grp LIMIT 1"
        }
    })?;
    next.query_row(params![queue, name], |row| row.get(0)).optional()
}

/// The first messages of a group, as `read`.
pub(super) fn ready<T>(
    db: &Connection,
    queue: i64,
    name: &Name,
    most: usize,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    db.prepare_cached(
        "SELECT id, receives, body, grp, sent_at FROM messages
         WHERE queue = ? AND grp IS ? AND waiting = 0 ORDER BY rank, id LIMIT ?",
    )?
    .query_map(params![queue, name, most], read)?
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every statement of a claim finds what it looks for in an index of its own: none reads a backlog.
    #[test]
    fn no_receive_reads_a_backlog() {
        let db = crate::engine::schema::open(None, crate::engine::Durability::Process).unwrap();
        let plan = |sql: &str| -> String {
            let mut explain = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let nothing = vec![rusqlite::types::Null; explain.parameter_count()];
            let lines =
                explain.query_map(rusqlite::params_from_iter(nothing), |row| row.get::<_, String>("detail")).unwrap();
            lines.map(Result::unwrap).collect::<Vec<_>>().join("; ")
        };
        let first = plan("SELECT grp FROM messages WHERE queue = ? AND waiting = 0 ORDER BY grp LIMIT 1");
        assert_eq!(first, "SEARCH messages USING COVERING INDEX messages_ready (queue=?)");
        let next = plan("SELECT grp FROM messages WHERE queue = ? AND waiting = 0 AND grp > ? ORDER BY grp LIMIT 1");
        assert_eq!(next, "SEARCH messages USING COVERING INDEX messages_ready (queue=? AND grp>?)");
        let count = plan("SELECT count(*) FROM messages WHERE queue = ? AND grp IS ? AND leased = 1 AND fifo = 0");
        assert_eq!(count, "SEARCH messages USING COVERING INDEX messages_in_flight (queue=? AND grp=?)");
        let ready =
            plan("SELECT body FROM messages WHERE queue = ? AND grp IS ? AND waiting = 0 ORDER BY rank, id LIMIT ?");
        assert_eq!(ready, "SEARCH messages USING INDEX messages_ready (queue=? AND grp=?)");
    }

    fn groups(in_flight: &[(&str, u64)]) -> Vec<Group> {
        in_flight
            .iter()
            .map(|(name, in_flight)| Group { name: Some((*name).to_owned()), in_flight: *in_flight })
            .collect()
    }

    #[test]
    fn the_fewest_in_flight_go_first_and_equals_take_turns() {
        let mut turns = Turns::default();
        let mut whose = |in_flight: &[(&str, u64)]| {
            let groups = groups(in_flight);
            let name = groups[turns.next(&groups).unwrap()].name.clone();
            turns.took(&name);
            name.unwrap()
        };
        assert_eq!(whose(&[("b", 1), ("a", 1), ("c", 0)]), "c");
        assert_eq!(whose(&[("b", 0), ("a", 0), ("c", 0)]), "a", "neither had a turn: by name");
        assert_eq!(whose(&[("b", 0), ("a", 0), ("c", 0)]), "b");
        assert_eq!(whose(&[("b", 0), ("a", 0), ("c", 0)]), "c", "the longest ago");
        assert_eq!(whose(&[("b", 2), ("a", 3), ("c", 2)]), "b");
        assert_eq!(turns.next(&[]), None);
    }
}
