//! What a [`Table`] promises.

use serde_json::{Value, json};

use super::{both, refused};
use crate::port::{ErrorKind, Key, PortError, Row, Table, Write};

/// Runs every check in partitions whose names start with `salt`, which must be unused.
pub async fn table_suite(table: &dyn Table, salt: &str) {
    let suite = Suite { table, salt };
    suite.a_row_that_is_not_there_is_none().await;
    suite.a_versioned_row_is_compared_and_swapped().await;
    suite.a_document_survives_as_it_is().await;
    suite.a_number_stays_what_it_is().await;
    suite.only_the_attributes_asked_for_are_read().await;
    suite.keys_have_a_length_and_attributes_a_name().await;
    suite.of_two_writers_of_a_version_one_wins().await;
    suite.the_first_fills_a_slot_and_everybody_sees_the_row().await;
    suite.an_attempt_below_the_floor_does_not_win().await;
    suite.a_floor_is_a_number().await;
    suite.of_two_acceptors_one_wins().await;
    suite.slots_of_a_row_do_not_disturb_each_other().await;
    suite.an_attribute_is_set_only_from_what_was_expected().await;
    suite.an_attribute_can_be_removed_and_its_absence_expected().await;
    suite.a_row_is_versioned_or_accept_first_never_both().await;
    suite.null_is_not_a_value_of_an_attribute().await;
    suite.a_query_is_in_byte_order_by_prefix_page_by_page().await;
    suite.a_transaction_is_all_or_nothing().await;
    suite.a_transaction_checks_rows_it_does_not_write().await;
    suite.a_transaction_sets_several_attributes_of_a_row().await;
    suite.a_transaction_treats_a_row_by_its_nature().await;
    suite.what_changes_nothing_is_still_a_condition().await;
    suite.of_two_transactions_that_cross_one_happens().await;
    suite.a_transaction_has_limits().await;
    suite.deleting_works_twice_and_starts_versions_anew().await;
}

struct Suite<'a> {
    table: &'a dyn Table,
    salt: &'a str,
}

fn set(key: &Key, attribute: &str, expected: Option<Value>, new: Option<Value>) -> Write {
    Write::SetIf { key: key.clone(), attribute: attribute.to_owned(), expected, new }
}

fn put(key: &Key, doc: Value, expected: Option<u64>) -> Write {
    Write::Put { key: key.clone(), doc, expected }
}

impl Suite<'_> {
    fn key(&self, partition: &str, sort: &str) -> Key {
        Key::new(format!("{}{partition}", self.salt), sort)
    }

    async fn row(&self, key: &Key) -> Option<Row> {
        self.table.get(key).await.expect("reads")
    }

    async fn doc(&self, key: &Key) -> Option<Value> {
        self.row(key).await.and_then(|row| row.doc().cloned())
    }

    async fn a_row_that_is_not_there_is_none(&self) {
        assert_eq!(self.row(&self.key("absent", "x")).await, None);
        assert_eq!(self.table.query(&format!("{}absent", self.salt), "", None, 10).await, Ok(vec![]));
    }

    async fn a_versioned_row_is_compared_and_swapped(&self) {
        let key = self.key("cas", "x");
        refused(self.table.put_if_version(&key, json!(0), Some(1)).await, ErrorKind::Conflict);
        assert_eq!(self.table.put_if_version(&key, json!({"n": 1}), None).await, Ok(1));
        refused(self.table.put_if_version(&key, json!(0), None).await, ErrorKind::Conflict);
        assert_eq!(self.table.put_if_version(&key, json!({"n": 2}), Some(1)).await, Ok(2));
        for stale in [None, Some(0), Some(1), Some(3)] {
            refused(self.table.put_if_version(&key, json!(0), stale).await, ErrorKind::Conflict);
        }
        let row = self.row(&key).await.expect("a row");
        assert_eq!((row.version, row.doc()), (2, Some(&json!({"n": 2}))));
        assert_eq!(row.key, key);
    }

    async fn a_document_survives_as_it_is(&self) {
        let key = self.key("doc", "x");
        let doc = json!({
            "large": u64::MAX, "small": i64::MIN, "text": "\u{00e9}\u{1F980}\"\\\n", "empty": {}, "list": [1, "a", null, true], "null": null
        });
        self.table.put_if_version(&key, doc.clone(), None).await.expect("writes");
        assert_eq!(self.doc(&key).await, Some(doc));
    }

    async fn a_number_stays_what_it_is(&self) {
        let key = self.key("numbers", "x");
        let doc = json!([0, -1, 9_007_199_254_740_993_u64, 0.5, -0.25, 0.1, 1.0, -3.0, 1e22, 2.5e-9]);
        self.table.put_if_version(&key, doc.clone(), None).await.expect("writes");
        let back = self.doc(&key).await.expect("a document");
        // One and one point nought are not equal here.
        assert_eq!(back, doc);
        assert_eq!(back[6].as_f64(), Some(1.0));
    }

    async fn only_the_attributes_asked_for_are_read(&self) {
        let (versioned, accepted) = (self.key("some", "versioned"), self.key("some", "accepted"));
        let absent = self.table.get_attributes(&versioned, &["doc"]).await;
        assert_eq!(absent, Ok(None));
        self.table.put_if_version(&versioned, json!({"n": 1}), None).await.expect("writes");
        for name in ["a", "a.b", "size", "#c"] {
            self.table.set_if(&accepted, name, None, Some(json!(name))).await.expect("sets");
        }
        let read = async |key: &Key, names: &[&str]| {
            let row = self.table.get_attributes(key, names).await.expect("reads").expect("a row");
            assert_eq!(row.key, *key);
            (row.version, row.attributes.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(read(&versioned, &["doc", "other"]).await, (1, vec!["doc".to_owned()]));
        assert_eq!(read(&versioned, &["other"]).await, (1, vec![]));
        let some = ["#c", "a.b", "size"].map(str::to_owned).to_vec();
        assert_eq!(read(&accepted, &["size", "a.b", "#c", "size", "none"]).await, (0, some));
        assert_eq!(read(&accepted, &[]).await, (0, vec![]));
    }

    async fn keys_have_a_length_and_attributes_a_name(&self) {
        let long = |length: usize| "k".repeat(length);
        let longest = Key::new(format!("{}{}", self.salt, long(1024 - self.salt.len())), long(1024));
        self.table.put_if_version(&longest, json!(1), None).await.expect("1024 bytes are allowed");
        assert_eq!(self.doc(&longest).await, Some(json!(1)));
        let (partition, sort) = (self.key("keys", "x").partition, "x".to_owned());
        for (partition, sort) in [
            (String::new(), sort.clone()),
            (partition.clone(), String::new()),
            (long(1025), sort),
            (partition, long(1025)),
        ] {
            let key = Key { partition, sort };
            refused(self.table.get(&key).await, ErrorKind::Permanent);
            refused(self.table.put_if_version(&key, json!(1), None).await, ErrorKind::Permanent);
            refused(self.table.accept_first(&key, "s", "f", 1, json!(1)).await, ErrorKind::Permanent);
            refused(self.table.set_if(&key, "a", None, Some(json!(1))).await, ErrorKind::Permanent);
            refused(self.table.transact(vec![put(&key, json!(1), None)]).await, ErrorKind::Permanent);
            refused(self.table.delete(&key).await, ErrorKind::Permanent);
        }
        assert_eq!(self.table.query("", "", None, 1).await, Ok(vec![]));
        assert_eq!(self.table.query(&long(1025), "", None, 1).await, Ok(vec![]));
        let named = self.key("names", "x");
        for name in ["", "pk", "sk", "_v", "_w"] {
            refused(self.table.accept_first(&named, name, "f", 1, json!(1)).await, ErrorKind::Permanent);
            refused(self.table.accept_first(&named, "s", name, 1, json!(1)).await, ErrorKind::Permanent);
            refused(self.table.set_if(&named, name, None, Some(json!(1))).await, ErrorKind::Permanent);
            refused(self.table.transact(vec![set(&named, name, None, Some(json!(1)))]).await, ErrorKind::Permanent);
        }
        assert_eq!(self.row(&named).await, None);
    }

    async fn of_two_writers_of_a_version_one_wins(&self) {
        let key = self.key("race", "x");
        let (one, other) = both(
            self.table.put_if_version(&key, json!("one"), None),
            self.table.put_if_version(&key, json!("other"), None),
        )
        .await;
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        let winner = if one.is_ok() { "one" } else { "other" };
        assert_eq!(self.doc(&key).await, Some(json!(winner)));
    }

    async fn the_first_fills_a_slot_and_everybody_sees_the_row(&self) {
        let key = self.key("accept", "x");
        let first = self.table.accept_first(&key, "s0", "f0", 1, json!({"by": 1})).await.expect("accepts");
        assert!(first.won);
        let second = self.table.accept_first(&key, "s0", "f0", 2, json!({"by": 2})).await.expect("accepts");
        assert!(!second.won);
        assert_eq!(first.row, second.row);
        assert_eq!((first.row.version, first.row.attribute("s0")), (0, Some(&json!({"by": 1}))));
        assert_eq!(self.row(&key).await, Some(first.row));
        // A repetition of the winner has not won either, and sees that its value is there.
        let again = self.table.accept_first(&key, "s0", "f0", 1, json!({"by": 1})).await.expect("accepts");
        assert!(!again.won);
    }

    async fn an_attempt_below_the_floor_does_not_win(&self) {
        let key = self.key("floor", "x");
        assert!(self.table.set_if(&key, "f0", None, Some(json!(3))).await.expect("sets").done);
        let late = self.table.accept_first(&key, "s0", "f0", 2, json!("late")).await.expect("accepts");
        assert!(!late.won);
        assert_eq!(late.row.attribute("s0"), None);
        // Another slot's floor is another's.
        assert!(self.table.accept_first(&key, "s1", "f1", 0, json!("zero")).await.expect("accepts").won);
        let current = self.table.accept_first(&key, "s0", "f0", 3, json!("current")).await.expect("accepts");
        assert!(current.won);
        assert_eq!(current.row.attribute("s0"), Some(&json!("current")));
    }

    async fn a_floor_is_a_number(&self) {
        let key = self.key("floor", "text");
        self.table.set_if(&key, "f", None, Some(json!("three"))).await.expect("sets");
        refused(self.table.accept_first(&key, "s", "f", 9, json!(1)).await, ErrorKind::Permanent);
        assert_eq!(self.row(&key).await.expect("a row").attribute("s"), None);
    }

    async fn of_two_acceptors_one_wins(&self) {
        let key = self.key("accept-race", "x");
        let (one, other) = both(
            self.table.accept_first(&key, "s", "f", 1, json!("one")),
            self.table.accept_first(&key, "s", "f", 2, json!("other")),
        )
        .await;
        let (one, other) = (one.expect("accepts"), other.expect("accepts"));
        assert!(one.won != other.won);
        let winner = if one.won { "one" } else { "other" };
        assert_eq!(one.row.attribute("s"), Some(&json!(winner)));
        assert_eq!(one.row, other.row);
    }

    async fn slots_of_a_row_do_not_disturb_each_other(&self) {
        let key = self.key("slots", "x");
        let (one, other) = both(
            self.table.accept_first(&key, "s0", "f0", 1, json!(0)),
            self.table.accept_first(&key, "s1", "f1", 1, json!(1)),
        )
        .await;
        assert!(one.expect("accepts").won && other.expect("accepts").won);
        self.table.set_if(&key, "fired", None, Some(json!(1))).await.expect("sets");
        let row = self.row(&key).await.expect("a row");
        let names: Vec<&str> = row.attributes.keys().map(String::as_str).collect();
        assert_eq!(names, ["fired", "s0", "s1"]);
    }

    async fn an_attribute_is_set_only_from_what_was_expected(&self) {
        let key = self.key("set", "x");
        let missing = self.table.set_if(&key, "a", Some(json!(1)), Some(json!(2))).await.expect("answers");
        assert!(!missing.done && missing.row.is_none());
        assert_eq!(self.row(&key).await, None);
        let created = self.table.set_if(&key, "a", None, Some(json!({"s": 1}))).await.expect("answers");
        assert!(created.done);
        assert_eq!(created.row, self.row(&key).await);
        let wrong = self.table.set_if(&key, "a", None, Some(json!(9))).await.expect("answers");
        assert!(!wrong.done);
        assert_eq!(wrong.row.expect("a row").attribute("a"), Some(&json!({"s": 1})));
        let right = self.table.set_if(&key, "a", Some(json!({"s": 1})), Some(json!(2))).await.expect("answers");
        assert_eq!(right.row.expect("a row").attribute("a"), Some(&json!(2)));
        // To what it is already: done.
        assert!(self.table.set_if(&key, "a", Some(json!(2)), Some(json!(2))).await.expect("answers").done);
        // Equal is what is equal as JSON, and nothing else.
        let nested = json!({"x": [1, {"y": null}], "z": ""});
        self.table.set_if(&key, "n", None, Some(nested.clone())).await.expect("sets");
        for other in [json!({"x": [1, {"y": null}]}), json!({"x": [{"y": null}, 1], "z": ""}), json!("1"), json!([])] {
            assert!(!self.table.set_if(&key, "n", Some(other), Some(json!(1))).await.expect("answers").done);
        }
        assert!(self.table.set_if(&key, "n", Some(nested), Some(json!(1.0))).await.expect("answers").done);
        assert!(!self.table.set_if(&key, "n", Some(json!(1)), Some(json!(2))).await.expect("answers").done);
        assert!(self.table.set_if(&key, "n", Some(json!(1.0)), Some(json!(2))).await.expect("answers").done);
    }

    async fn an_attribute_can_be_removed_and_its_absence_expected(&self) {
        let key = self.key("remove", "x");
        self.table.set_if(&key, "a", None, Some(json!(1))).await.expect("sets");
        self.table.set_if(&key, "b", None, Some(json!(1))).await.expect("sets");
        let removed = self.table.set_if(&key, "a", Some(json!(1)), None).await.expect("removes");
        assert!(removed.done);
        assert_eq!(removed.row.expect("a row").attribute("a"), None);
        assert!(self.table.set_if(&key, "a", None, Some(json!(2))).await.expect("sets").done);
        assert!(self.table.accept_first(&key, "c", "f", 0, json!(1)).await.expect("accepts").won);
    }

    async fn a_row_is_versioned_or_accept_first_never_both(&self) {
        let versioned = self.key("nature", "versioned");
        self.table.put_if_version(&versioned, json!(1), None).await.expect("writes");
        refused(self.table.set_if(&versioned, "a", None, Some(json!(1))).await, ErrorKind::Permanent);
        refused(self.table.accept_first(&versioned, "a", "f", 1, json!(1)).await, ErrorKind::Permanent);
        refused(self.table.transact(vec![set(&versioned, "a", None, Some(json!(1)))]).await, ErrorKind::Permanent);
        assert_eq!(self.row(&versioned).await.expect("a row").version, 1);

        let accepted = self.key("nature", "accepted");
        self.table.set_if(&accepted, "a", None, Some(json!(1))).await.expect("sets");
        for expected in [None, Some(0), Some(1)] {
            refused(self.table.put_if_version(&accepted, json!(1), expected).await, ErrorKind::Conflict);
        }
        // The document's name is a name like others there.
        assert!(self.table.set_if(&accepted, Row::DOC, None, Some(json!("d"))).await.expect("sets").done);
        let row = self.row(&accepted).await.expect("a row");
        assert_eq!((row.version, row.doc()), (0, Some(&json!("d"))));
    }

    async fn null_is_not_a_value_of_an_attribute(&self) {
        let key = self.key("null", "x");
        refused(self.table.accept_first(&key, "s", "f", 1, Value::Null).await, ErrorKind::Permanent);
        refused(self.table.set_if(&key, "a", None, Some(Value::Null)).await, ErrorKind::Permanent);
        refused(self.table.set_if(&key, "a", Some(Value::Null), Some(json!(1))).await, ErrorKind::Permanent);
        refused(self.table.transact(vec![set(&key, "a", None, Some(Value::Null))]).await, ErrorKind::Permanent);
        assert_eq!(self.row(&key).await, None);
    }

    async fn a_query_is_in_byte_order_by_prefix_page_by_page(&self) {
        let partition = format!("{}query", self.salt);
        let sorts = ["a", "a/", "a/1", "a/10", "a/2", "a0", "b/1", "\u{00e9}", "\u{1F980}"];
        for sort in sorts.iter().rev() {
            self.table.put_if_version(&Key::new(&partition, *sort), json!(sort), None).await.expect("writes");
        }
        self.table.put_if_version(&Key::new(format!("{partition}2"), "a/3"), json!(0), None).await.expect("writes");
        let query = async |prefix: &str, after: Option<&str>, limit: usize| -> Vec<String> {
            let rows = self.table.query(&partition, prefix, after, limit).await.expect("queries");
            rows.into_iter().map(|row| row.key.sort).collect()
        };
        assert_eq!(query("", None, 100).await, sorts);
        assert_eq!(query("a/", None, 100).await, ["a/", "a/1", "a/10", "a/2"]);
        assert_eq!(query("a/1", None, 100).await, ["a/1", "a/10"]);
        assert_eq!(query("a/", Some("a/1"), 100).await, ["a/10", "a/2"]);
        assert_eq!(query("a/", Some("a/1"), 1).await, ["a/10"]);
        assert_eq!(query("b/", Some("a/1"), 10).await, ["b/1"]);
        assert!(query("a/", Some("a/2"), 10).await.is_empty());
        assert!(query("a/", Some("a0"), 10).await.is_empty());
        assert_eq!(query("a/", Some("a/"), usize::MAX).await, ["a/1", "a/10", "a/2"]);
        assert_eq!(query("a/1", Some("a/"), 10).await, ["a/1", "a/10"]);
        // What was last read need not be there any more.
        assert_eq!(query("a/", Some("a/11"), 10).await, ["a/2"]);
        assert!(query("", None, 0).await.is_empty());
        let mut all = Vec::new();
        loop {
            let page = query("", all.last().map(String::as_str), 2).await;
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        assert_eq!(all, sorts);
    }

    async fn a_transaction_is_all_or_nothing(&self) {
        let (chain, outbox, mark) = (self.key("tx", "chain"), self.key("tx", "outbox"), self.key("tx", "mark"));
        self.table.put_if_version(&chain, json!(0), None).await.expect("writes");
        let writes = |version: u64| {
            vec![
                set(&mark, "m", None, Some(json!(1))),
                put(&outbox, json!("out"), None),
                put(&chain, json!(1), Some(version)),
            ]
        };
        refused(self.table.transact(writes(7)).await, ErrorKind::Conflict);
        assert_eq!((self.row(&outbox).await, self.row(&mark).await), (None, None));
        assert_eq!(self.table.transact(writes(1)).await, Ok(()));
        let versions = (self.row(&chain).await.map(|row| row.version), self.row(&outbox).await.map(|row| row.version));
        assert_eq!(versions, (Some(2), Some(1)));
        // A repetition conflicts: the caller reads and sees that it is done.
        refused(self.table.transact(writes(1)).await, ErrorKind::Conflict);
        assert_eq!(self.table.transact(vec![]).await, Ok(()));
    }

    async fn a_transaction_checks_rows_it_does_not_write(&self) {
        let (guard, target) = (self.key("check", "guard"), self.key("check", "target"));
        let check = |version| Write::Check { key: guard.clone(), version };
        refused(self.table.transact(vec![check(Some(1)), put(&target, json!(1), None)]).await, ErrorKind::Conflict);
        self.table
            .transact(vec![check(None), put(&target, json!(1), None)])
            .await
            .expect("no guard is what it expects");
        self.table.put_if_version(&guard, json!(0), None).await.expect("writes");
        refused(self.table.transact(vec![put(&target, json!(2), Some(1)), check(None)]).await, ErrorKind::Conflict);
        assert_eq!(self.doc(&target).await, Some(json!(1)));
        self.table.transact(vec![put(&target, json!(2), Some(1)), check(Some(1))]).await.expect("the guard stands");
        assert_eq!(self.row(&guard).await.map(|row| row.version), Some(1));
    }

    async fn a_transaction_sets_several_attributes_of_a_row(&self) {
        let key = self.key("revoke", "x");
        self.table.accept_first(&key, "s0", "f0", 1, json!("bad")).await.expect("accepts");
        let revoke =
            |digest: &str| vec![set(&key, "s0", Some(json!(digest)), None), set(&key, "f0", None, Some(json!(2)))];
        refused(self.table.transact(revoke("other")).await, ErrorKind::Conflict);
        assert_eq!(self.row(&key).await.expect("a row").attribute("f0"), None);
        self.table.transact(revoke("bad")).await.expect("revokes");
        let row = self.row(&key).await.expect("a row");
        assert_eq!((row.attribute("s0"), row.attribute("f0")), (None, Some(&json!(2))));
        assert!(!self.table.accept_first(&key, "s0", "f0", 1, json!("bad")).await.expect("answers").won);
    }

    async fn a_transaction_treats_a_row_by_its_nature(&self) {
        let (versioned, accepted) = (self.key("tx-nature", "versioned"), self.key("tx-nature", "accepted"));
        let new = self.key("tx-nature", "new");
        self.table.put_if_version(&versioned, json!(1), None).await.expect("writes");
        self.table.set_if(&accepted, "a", None, Some(json!(1))).await.expect("sets");
        let with = |write: Write| vec![put(&new, json!(1), None), write];
        let changes = set(&versioned, "a", None, Some(json!(1)));
        refused(self.table.transact(with(changes)).await, ErrorKind::Permanent);
        for expected in [None, Some(0), Some(1)] {
            refused(self.table.transact(with(put(&accepted, json!(1), expected))).await, ErrorKind::Conflict);
            let check = Write::Check { key: accepted.clone(), version: expected };
            refused(self.table.transact(with(check.clone())).await, ErrorKind::Conflict);
            refused(self.table.transact(vec![check]).await, ErrorKind::Conflict);
        }
        assert_eq!(self.row(&new).await, None);
        assert_eq!(self.row(&accepted).await.expect("a row").attributes.len(), 1);
    }

    async fn what_changes_nothing_is_still_a_condition(&self) {
        let (row, absent) = (self.key("noop", "row"), self.key("noop", "absent"));
        let new = |i: u32| put(&self.key("noop", &format!("new/{i}")), json!(1), None);
        self.table.set_if(&row, "a", None, Some(json!(1))).await.expect("sets");
        let same = |key: &Key, value: Option<Value>| set(key, "a", value.clone(), value);
        for (i, holds) in [same(&row, Some(json!(1))), same(&absent, None)].into_iter().enumerate() {
            assert_eq!(self.table.transact(vec![holds.clone()]).await, Ok(()));
            assert_eq!(self.table.transact(vec![holds, new(i as u32)]).await, Ok(()));
        }
        for fails in [same(&row, Some(json!(2))), same(&row, None), same(&absent, Some(json!(1)))] {
            refused(self.table.transact(vec![fails.clone()]).await, ErrorKind::Conflict);
            refused(self.table.transact(vec![fails, new(9)]).await, ErrorKind::Conflict);
        }
        let outcome = self.table.set_if(&absent, "a", None, None).await.expect("answers");
        assert_eq!((outcome.done, outcome.row), (true, None));
        assert_eq!(self.row(&absent).await, None);
        assert_eq!(self.row(&self.key("noop", "new/9")).await, None);
    }

    async fn of_two_transactions_that_cross_one_happens(&self) {
        let (left, right) = (self.key("cross", "left"), self.key("cross", "right"));
        for key in [&left, &right] {
            self.table.put_if_version(key, json!("none"), None).await.expect("writes");
        }
        let by = |who: &str, first: &Key, second: &Key| {
            vec![put(first, json!(who), Some(1)), put(second, json!(who), Some(1))]
        };
        let (one, other) =
            both(self.table.transact(by("one", &left, &right)), self.table.transact(by("other", &right, &left))).await;
        // Both may be told to decide anew, where each met the other.
        for answer in [&one, &other] {
            assert!(answer.as_ref().err().is_none_or(PortError::is_conflict), "{answer:?}");
        }
        assert!(!(one.is_ok() && other.is_ok()));
        let winner = if one.is_ok() {
            "one"
        } else if other.is_ok() {
            "other"
        } else {
            "none"
        };
        let docs = (self.doc(&left).await, self.doc(&right).await);
        assert_eq!(docs, (Some(json!(winner)), Some(json!(winner))));
    }

    async fn a_transaction_has_limits(&self) {
        let key = |i: usize| self.key("limits", &format!("{i:02}"));
        let writes = |n: usize| (0..n).map(|i| put(&key(i), json!(i), None)).collect::<Vec<_>>();
        refused(self.table.transact(writes(26)).await, ErrorKind::Permanent);
        let twice = vec![put(&key(0), json!(0), None), put(&key(0), json!(1), Some(1))];
        refused(self.table.transact(twice).await, ErrorKind::Permanent);
        let attribute_twice =
            vec![set(&key(0), "a", None, Some(json!(1))), set(&key(0), "a", Some(json!(1)), Some(json!(2)))];
        refused(self.table.transact(attribute_twice).await, ErrorKind::Permanent);
        assert_eq!(self.row(&key(0)).await, None);
        self.table.transact(writes(25)).await.expect("25 are allowed");
    }

    async fn deleting_works_twice_and_starts_versions_anew(&self) {
        let key = self.key("delete", "x");
        assert_eq!(self.table.delete(&key).await, Ok(()));
        self.table.put_if_version(&key, json!(1), None).await.expect("writes");
        self.table.put_if_version(&key, json!(2), Some(1)).await.expect("writes");
        assert_eq!(self.table.delete(&key).await, Ok(()));
        assert_eq!(self.row(&key).await, None);
        assert_eq!(self.table.put_if_version(&key, json!(3), None).await, Ok(1));
        assert_eq!(self.table.delete(&key).await, Ok(()));
    }
}
