//! The state table on DynamoDB: the suite, many tasks at once, and every documented failure. A test has an account, and so a table, of its
//! own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use push0_core::topology::Topology;
use push0_core::{ErrorCode, Millis};
use push0_runtime::aws::emulator::{account, connect, create_tables, ministack};
use push0_runtime::aws::{Connection, Dynamo, http_client};
use push0_runtime::conformance::table_suite;
use push0_runtime::port::{ErrorKind, Key, PortError, PortResult, Table, Value, Write};
use serde_json::json;

use super::support::{Fate, faulty, operation};

/// The table of one account, and ways to it: a plain one, and any number of faulty ones.
struct Place {
    account: String,
    plain: Dynamo,
    connection: Connection,
}

impl Place {
    async fn new() -> Self {
        let account = account();
        let connection = connect(&ministack(), &account, http_client()).await;
        create_tables(&connection, &Topology::built_in()).await.unwrap();
        Self { account, plain: Dynamo::new(&connection), connection }
    }

    /// The same table through an HTTP client that fails as `decide` says; it is asked about requests of `name` only, numbered from 0.
    async fn faulty(&self, name: &'static str, decide: impl Fn(u64) -> Fate + Send + Sync + 'static) -> Dynamo {
        let asked = AtomicU64::new(0);
        let http = faulty(move |_, request: &HttpRequest| match operation(request) == name {
            true => decide(asked.fetch_add(1, Ordering::SeqCst)),
            false => Fate::Pass,
        });
        Dynamo::new(&connect(&ministack(), &self.account, http).await)
    }

    /// The item itself.
    async fn item(&self, key: &Key) -> Option<HashMap<String, AttributeValue>> {
        let client = self.connection.dynamodb();
        let get = client.get_item().table_name(self.connection.settings.name("state")).consistent_read(true);
        let get = get.key("pk", AttributeValue::S(key.partition.clone()));
        get.key("sk", AttributeValue::S(key.sort.clone())).send().await.unwrap().item
    }

    async fn doc(&self, key: &Key) -> Option<Value> {
        self.plain.get(key).await.unwrap().and_then(|row| row.doc().cloned())
    }

    async fn attribute(&self, key: &Key, name: &str) -> Option<Value> {
        self.plain.get(key).await.unwrap().and_then(|row| row.attribute(name).cloned())
    }
}

fn put(key: &Key, doc: Value, expected: Option<u64>) -> Write {
    Write::Put { key: key.clone(), doc, expected }
}

fn set(key: &Key, attribute: &str, expected: Option<Value>, new: Option<Value>) -> Write {
    Write::SetIf { key: key.clone(), attribute: attribute.to_owned(), expected, new }
}

/// Lost the first time, untouched afterwards.
fn lost_once(number: u64) -> Fate {
    if number == 0 { Fate::Lost } else { Fate::Pass }
}

fn service_error(status: u16, code: &str) -> Fate {
    Fate::json(
        status,
        &json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "no"}).to_string(),
    )
}

#[track_caller]
fn failed<T: std::fmt::Debug>(result: PortResult<T>, kind: ErrorKind, may_have_happened: bool) -> PortError {
    let error = result.unwrap_err();
    assert_eq!((error.kind(), error.may_have_happened()), (kind, may_have_happened), "{error}");
    error
}

const THROTTLED: ErrorKind = ErrorKind::Transient { after: Millis(200) };
const TROUBLE: ErrorKind = ErrorKind::Transient { after: Millis(100) };

#[tokio::test]
async fn the_table_keeps_its_contract() {
    table_suite(&Place::new().await.plain, "").await;
}

#[tokio::test]
async fn a_row_can_be_read_in_the_console() {
    let place = Place::new().await;
    let key = Key::new("chain/a", "block/00000000000000000007");
    place.plain.put_if_version(&key, json!({"number": 7, "roots": ["ab"], "final": true}), None).await.unwrap();
    let item = place.item(&key).await.unwrap();
    let mut names: Vec<&str> = item.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["_v", "_w", "doc", "pk", "sk"]);
    let doc = item["doc"].as_m().unwrap();
    assert_eq!(doc["number"], AttributeValue::N("7".to_owned()));
    assert_eq!(doc["roots"], AttributeValue::L(vec![AttributeValue::S("ab".to_owned())]));
    assert_eq!(doc["final"], AttributeValue::Bool(true));
    assert_eq!(item["_v"], AttributeValue::N("1".to_owned()));
}

#[tokio::test]
async fn an_attribute_has_no_name_of_an_items_own() {
    let place = Place::new().await;
    let key = Key::new("own", "x");
    for name in ["pk", "sk", "_v", "_w", ""] {
        failed(place.plain.set_if(&key, name, None, Some(json!(1))).await, ErrorKind::Permanent, false);
        failed(place.plain.accept_first(&key, name, "f", 1, json!(1)).await, ErrorKind::Permanent, false);
        failed(place.plain.accept_first(&key, "s", name, 1, json!(1)).await, ErrorKind::Permanent, false);
        failed(place.plain.transact(vec![set(&key, name, None, Some(json!(1)))]).await, ErrorKind::Permanent, false);
    }
    assert_eq!(place.item(&key).await, None);
}

#[tokio::test]
async fn a_row_that_is_too_large_says_so() {
    let place = Place::new().await;
    let (key, other) = (Key::new("large", "x"), Key::new("large", "y"));
    let large = json!("x".repeat(410 * 1024));
    let all = vec![put(&key, json!(1), None), put(&other, large.clone(), None)];
    let update = vec![put(&key, json!(1), None), set(&other, "a", None, Some(large.clone()))];
    for error in [
        failed(place.plain.put_if_version(&key, large.clone(), None).await, ErrorKind::Permanent, false),
        failed(place.plain.set_if(&key, "a", None, Some(large.clone())).await, ErrorKind::Permanent, false),
        failed(place.plain.transact(all).await, ErrorKind::Permanent, false),
        failed(place.plain.transact(update).await, ErrorKind::Permanent, false),
    ] {
        assert!(error.message().contains("400 KB"), "{error}");
    }
    assert_eq!((place.item(&key).await, place.item(&other).await), (None, None));
}

#[tokio::test]
async fn a_query_reads_on_past_a_page_of_a_mebibyte() {
    let place = Place::new().await;
    let doc = json!("x".repeat(300 * 1024));
    for i in 0..9 {
        place.plain.put_if_version(&Key::new("pages", format!("r{i}")), doc.clone(), None).await.unwrap();
    }
    let sorts = |rows: Vec<push0_runtime::port::Row>| rows.into_iter().map(|row| row.key.sort).collect::<Vec<_>>();
    let all = sorts(place.plain.query("pages", "r", None, 100).await.unwrap());
    assert_eq!(all, ["r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"]);
    assert_eq!(sorts(place.plain.query("pages", "r", Some("r1"), 5).await.unwrap()), ["r2", "r3", "r4", "r5", "r6"]);
}

#[tokio::test]
async fn a_table_that_is_not_there_says_how_to_make_it() {
    let table = Dynamo::new(&connect(&ministack(), &account(), http_client()).await);
    let key = Key::new("p", "s");
    let writes = vec![put(&key, json!(1), None), put(&Key::new("p", "t"), json!(1), None)];
    for error in [
        failed(table.get(&key).await, ErrorKind::Permanent, false),
        failed(table.put_if_version(&key, json!(1), None).await, ErrorKind::Permanent, false),
        failed(table.set_if(&key, "a", None, Some(json!(1))).await, ErrorKind::Permanent, false),
        failed(table.query("p", "", None, 1).await, ErrorKind::Permanent, false),
        failed(table.transact(writes).await, ErrorKind::Permanent, false),
        failed(table.delete(&key).await, ErrorKind::Permanent, false),
    ] {
        assert_eq!(error.code(), ErrorCode::NotDeployed, "{error}");
        assert!(error.message().contains("push0 bootstrap") && error.message().contains("-state"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_increments_by_many_none_is_lost() {
    let place = Arc::new(Place::new().await);
    let key = Key::new("counter", "x");
    place.plain.put_if_version(&key, json!(0), None).await.unwrap();
    let tasks = (0..8).map(|_| {
        let (place, key) = (place.clone(), key.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < 25 {
                let row = place.plain.get(&key).await.unwrap().unwrap();
                let next = row.doc().and_then(Value::as_u64).unwrap() + 1;
                match place.plain.put_if_version(&key, json!(next), Some(row.version)).await {
                    Ok(_) => done += 1,
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let row = place.plain.get(&key).await.unwrap().unwrap();
    assert_eq!((row.doc(), row.version), (Some(&json!(200)), 201));
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_by_many_keep_the_sum() {
    let place = Arc::new(Place::new().await);
    let account = |i: u64| Key::new("bank", format!("{i}"));
    for i in 0..4 {
        place.plain.put_if_version(&account(i), json!(1_000), None).await.unwrap();
    }
    let tasks = (0..8_u64).map(|task| {
        let place = place.clone();
        tokio::spawn(async move {
            for step in 0..25 {
                let (from, to) = (account((task + step) % 4), account((task + 2 * step + 1) % 4));
                if from == to {
                    continue;
                }
                loop {
                    let mut writes = Vec::new();
                    for (key, by) in [(&from, -7), (&to, 7)] {
                        let row = place.plain.get(key).await.unwrap().unwrap();
                        let now = row.doc().and_then(Value::as_i64).unwrap();
                        writes.push(put(key, json!(now + by), Some(row.version)));
                    }
                    match place.plain.transact(writes).await {
                        Ok(()) => break,
                        Err(error) => assert!(error.is_conflict(), "{error}"),
                    }
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let rows = place.plain.query("bank", "", None, 10).await.unwrap();
    let sum: i64 = rows.iter().map(|row| row.doc().and_then(Value::as_i64).unwrap()).sum();
    assert_eq!((rows.len(), sum), (4, 4_000));
    // Every transfer changes two versions.
    let changes: u64 = rows.iter().map(|row| row.version - 1).sum();
    let transfers = (0..8_u64).flat_map(|t| (0..25).map(move |s| ((t + s) % 4, (t + 2 * s + 1) % 4)));
    assert_eq!(changes, 2 * transfers.filter(|(from, to)| from != to).count() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_race_for_a_slot_one_is_told_that_it_won_although_answers_get_lost() {
    let place = Arc::new(Place::new().await);
    let key = Key::new("race", "x");
    let tasks = (0..16_u64).map(|task| {
        let (place, key) = (place.clone(), key.clone());
        tokio::spawn(async move {
            // All of them offer the same, as workers that proved the same task do.
            let table =
                place.faulty("UpdateItem", |number| if number % 2 == 0 { Fate::Lost } else { Fate::Pass }).await;
            let mut won = Vec::new();
            for slot in 0..8 {
                let accepted = table.accept_first(&key, &format!("s{slot}"), "f", 1, json!("same")).await.unwrap();
                assert_eq!(accepted.row.attribute(&format!("s{slot}")), Some(&json!("same")));
                won.extend(accepted.won.then_some((slot, task)));
            }
            won
        })
    });
    let mut won = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        won.extend(task.await.unwrap());
    }
    won.sort_unstable();
    let slots: std::collections::BTreeSet<u64> = won.iter().map(|(slot, _)| *slot).collect();
    assert_eq!(slots.len(), won.len(), "told to two: {won:?}");
    let row = place.plain.get(&key).await.unwrap().unwrap();
    assert_eq!(row.attributes.len(), 8);
}

#[tokio::test]
async fn a_put_whose_answer_got_lost_is_known_by_its_writer_and_refused_to_another() {
    let place = Place::new().await;
    let key = Key::new("lost", "put");
    let table = place.faulty("PutItem", lost_once).await;
    assert_eq!(table.put_if_version(&key, json!("mine"), None).await, Ok(1));
    failed(place.plain.put_if_version(&key, json!("mine"), None).await, ErrorKind::Conflict, false);
    assert_eq!(place.doc(&key).await, Some(json!("mine")));

    let table = place.faulty("PutItem", lost_once).await;
    assert_eq!(table.put_if_version(&key, json!("again"), Some(1)).await, Ok(2));
    failed(place.plain.put_if_version(&key, json!("again"), Some(1)).await, ErrorKind::Conflict, false);
    assert_eq!(place.plain.get(&key).await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn a_conflict_after_a_lost_answer_leaves_open_whether_it_happened() {
    let place = Place::new().await;
    let key = Key::new("lost", "overtaken");
    place.plain.put_if_version(&key, json!(0), None).await.unwrap();
    // The first attempt never gets there; before the second, somebody else is.
    let table = place
        .faulty("PutItem", |number| if number == 0 { service_error(500, "InternalServerError") } else { Fate::Pass });
    let table = table.await;
    place.plain.put_if_version(&key, json!("theirs"), Some(1)).await.unwrap();
    failed(table.put_if_version(&key, json!("mine"), Some(1)).await, ErrorKind::Conflict, true);
    assert_eq!(place.doc(&key).await, Some(json!("theirs")));
}

#[tokio::test]
async fn a_slot_filled_by_a_call_whose_answer_got_lost_is_won_by_that_call_only() {
    let place = Place::new().await;
    let key = Key::new("lost", "accept");
    let table = place.faulty("UpdateItem", lost_once).await;
    let accepted = table.accept_first(&key, "s", "f", 1, json!("proof")).await.unwrap();
    assert!(accepted.won);
    assert_eq!(Some(&accepted.row), place.plain.get(&key).await.unwrap().as_ref());
    // Another with the same value, whose first answer gets lost as well, has not.
    let table = place.faulty("UpdateItem", lost_once).await;
    let other = table.accept_first(&key, "s", "f", 1, json!("proof")).await.unwrap();
    assert!(!other.won);
    assert_eq!(other.row, accepted.row);
}

#[tokio::test]
async fn an_attribute_set_by_a_call_whose_answer_got_lost_is_done_for_that_call_only() {
    let place = Place::new().await;
    let key = Key::new("lost", "set");
    let table = place.faulty("UpdateItem", lost_once).await;
    let outcome = table.set_if(&key, "a", None, Some(json!(1))).await.unwrap();
    assert!(outcome.done);
    assert_eq!(outcome.row, place.plain.get(&key).await.unwrap());
    assert!(!place.plain.set_if(&key, "a", None, Some(json!(1))).await.unwrap().done);

    let table = place.faulty("UpdateItem", lost_once).await;
    assert!(table.set_if(&key, "a", Some(json!(1)), None).await.unwrap().done);
    assert!(!place.plain.set_if(&key, "a", Some(json!(1)), None).await.unwrap().done);
    assert_eq!(place.attribute(&key, "a").await, None);
}

#[tokio::test]
async fn a_transaction_whose_answer_got_lost_is_done_once() {
    let place = Place::new().await;
    let (row, mark) = (Key::new("lost", "tx"), Key::new("lost", "mark"));
    let writes = || vec![put(&row, json!("mine"), None), set(&mark, "m", None, Some(json!(1)))];
    let table = place.faulty("TransactWriteItems", lost_once).await;
    assert_eq!(table.transact(writes()).await, Ok(()));
    failed(place.plain.transact(writes()).await, ErrorKind::Conflict, false);
    assert_eq!(place.plain.get(&row).await.unwrap().unwrap().version, 1);
    // Of one row: a plain write, which knows itself too.
    let alone = Key::new("lost", "alone");
    let table = place.faulty("PutItem", lost_once).await;
    assert_eq!(table.transact(vec![put(&alone, json!(1), None)]).await, Ok(()));
    let table = place.faulty("UpdateItem", lost_once).await;
    let changes = || vec![set(&mark, "m", Some(json!(1)), None), set(&mark, "n", None, Some(json!(2)))];
    assert_eq!(table.transact(changes()).await, Ok(()));
    failed(place.plain.transact(changes()).await, ErrorKind::Conflict, false);
    assert_eq!((place.attribute(&mark, "m").await, place.attribute(&mark, "n").await), (None, Some(json!(2))));
}

#[tokio::test]
async fn a_request_that_is_done_twice_has_one_effect_and_is_known() {
    let place = Place::new().await;
    let twice = |_| Fate::Twice;
    let key = |sort: &str| Key::new("twice", sort);
    let table = place.faulty("PutItem", twice).await;
    assert_eq!(table.put_if_version(&key("put"), json!(1), None).await, Ok(1));
    let table = place.faulty("UpdateItem", twice).await;
    assert!(table.accept_first(&key("accept"), "s", "f", 1, json!(1)).await.unwrap().won);
    assert!(table.set_if(&key("set"), "a", None, Some(json!(1))).await.unwrap().done);
    let table = place.faulty("TransactWriteItems", twice).await;
    let writes = vec![put(&key("put"), json!(2), Some(1)), set(&key("set"), "a", Some(json!(1)), Some(json!(2)))];
    assert_eq!(table.transact(writes).await, Ok(()));
    let table = place.faulty("DeleteItem", twice).await;
    assert_eq!(table.delete(&key("accept")).await, Ok(()));
    assert_eq!(place.plain.get(&key("put")).await.unwrap().unwrap().version, 2);
    assert_eq!(place.attribute(&key("set"), "a").await, Some(json!(2)));
    assert_eq!(place.item(&key("accept")).await, None);
}

/// Each writing operation on a row of its own, through a client whose requests all fare as `decide` says.
async fn every_write(place: &Place, decide: impl Fn(u64) -> Fate + Send + Sync + Clone + 'static) -> Vec<PortError> {
    let key = |sort: &str| Key::new("every", sort);
    let numbered = AtomicU64::new(0);
    let http = faulty(move |_, _| decide(numbered.fetch_add(1, Ordering::SeqCst)));
    let table = Dynamo::new(&connect(&ministack(), &place.account, http).await);
    let two = vec![put(&key("tx-put"), json!(1), None), set(&key("tx-set"), "a", None, Some(json!(1)))];
    vec![
        table.put_if_version(&key("put"), json!(1), None).await.unwrap_err(),
        table.accept_first(&key("accept"), "a", "f", 1, json!(1)).await.unwrap_err(),
        table.set_if(&key("set"), "a", None, Some(json!(1))).await.unwrap_err(),
        table.transact(two).await.unwrap_err(),
        table.delete(&key("delete")).await.unwrap_err(),
    ]
}

/// Of the rows of [`every_write`], those that are there.
async fn written(place: &Place) -> Vec<String> {
    let rows = place.plain.query("every", "", None, 10).await.unwrap();
    rows.into_iter().map(|row| row.key.sort).collect()
}

async fn place_with_a_row_to_delete() -> Place {
    let place = Place::new().await;
    place.plain.put_if_version(&Key::new("every", "delete"), json!(1), None).await.unwrap();
    place
}

#[tokio::test]
async fn what_is_throttled_has_not_happened() {
    for (status, code) in [
        (400, "ThrottlingException"),
        (400, "ProvisionedThroughputExceededException"),
        (400, "RequestLimitExceeded"),
        // S3's: a status that elsewhere leaves open what happened.
        (503, "SlowDown"),
    ] {
        let place = place_with_a_row_to_delete().await;
        for error in every_write(&place, move |_| service_error(status, code)).await {
            assert_eq!((error.kind(), error.may_have_happened()), (THROTTLED, false), "{error}");
            assert_eq!(error.code(), ErrorCode::AwsThrottles, "{error}");
        }
        assert_eq!(written(&place).await, ["delete"]);
    }
}

#[tokio::test]
async fn a_throttle_that_passes_is_not_seen() {
    let place = Place::new().await;
    let throttled = |number| if number == 0 { service_error(400, "ThrottlingException") } else { Fate::Pass };
    let table = place.faulty("PutItem", throttled).await;
    let key = Key::new("throttled", "once");
    assert_eq!(table.put_if_version(&key, json!(1), None).await, Ok(1));
}

#[tokio::test]
async fn an_error_of_the_service_leaves_open_whether_it_happened() {
    for (status, code) in [(500, "InternalServerError"), (503, "ServiceUnavailable")] {
        let place = place_with_a_row_to_delete().await;
        for error in every_write(&place, move |_| service_error(status, code)).await {
            assert_eq!((error.kind(), error.may_have_happened()), (TROUBLE, true), "{error}");
            assert_eq!(error.code(), ErrorCode::AwsDoesNotAnswer, "{error}");
        }
        assert_eq!(written(&place).await, ["delete"]);
    }
}

#[tokio::test]
async fn where_all_answers_get_lost_it_may_have_happened_and_here_it_did() {
    let place = place_with_a_row_to_delete().await;
    for error in every_write(&place, |_| Fate::Lost).await {
        assert_eq!((error.kind(), error.may_have_happened()), (TROUBLE, true), "{error}");
    }
    assert_eq!(written(&place).await, ["accept", "put", "set", "tx-put", "tx-set"]);
}

#[tokio::test]
async fn a_throttle_after_a_lost_answer_leaves_open_whether_it_happened() {
    let place = place_with_a_row_to_delete().await;
    let decide =
        |number: u64| if number.is_multiple_of(3) { Fate::Lost } else { service_error(400, "ThrottlingException") };
    for error in every_write(&place, decide).await {
        assert_eq!((error.kind(), error.may_have_happened()), (THROTTLED, true), "{error}");
    }
    assert_eq!(written(&place).await, ["accept", "put", "set", "tx-put", "tx-set"]);
}

#[tokio::test]
async fn a_refused_connection_has_done_nothing_unless_an_attempt_before_it_got_through() {
    let place = place_with_a_row_to_delete().await;
    for error in every_write(&place, |_| Fate::Refused).await {
        assert_eq!((error.kind(), error.may_have_happened()), (TROUBLE, false), "{error}");
    }
    assert_eq!(written(&place).await, ["delete"]);
    let decide = |number: u64| if number.is_multiple_of(3) { Fate::Lost } else { Fate::Refused };
    for error in every_write(&place, decide).await {
        assert_eq!((error.kind(), error.may_have_happened()), (TROUBLE, true), "{error}");
    }
    assert_eq!(written(&place).await, ["accept", "put", "set", "tx-put", "tx-set"]);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_refuses() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let table = Dynamo::new(&connect(&endpoint, &account(), http_client()).await);
    let error = failed(table.get(&Key::new("p", "s")).await, TROUBLE, false);
    assert_eq!(error.code(), ErrorCode::AwsDoesNotAnswer, "{error}");
}

#[tokio::test]
async fn a_single_write_waits_until_a_transaction_on_its_row_is_over() {
    let place = Place::new().await;
    let key = |sort: &str| Key::new("held", sort);
    let once = |number| if number == 0 { service_error(400, "TransactionConflictException") } else { Fate::Pass };
    let table = place.faulty("PutItem", once).await;
    assert_eq!(table.put_if_version(&key("put"), json!(1), None).await, Ok(1));
    let table = place.faulty("UpdateItem", once).await;
    assert!(table.accept_first(&key("accept"), "s", "f", 1, json!(1)).await.unwrap().won);
    let table = place.faulty("DeleteItem", once).await;
    assert_eq!(table.delete(&key("put")).await, Ok(()));

    let always = |_| service_error(400, "TransactionConflictException");
    let table = place.faulty("PutItem", always).await;
    failed(table.put_if_version(&key("put"), json!(1), None).await, ErrorKind::Conflict, false);
    let table = place.faulty("UpdateItem", always).await;
    let later = ErrorKind::Transient { after: Millis(50) };
    failed(table.accept_first(&key("other"), "s", "f", 1, json!(1)).await, later, false);
    failed(table.set_if(&key("other"), "a", None, Some(json!(1))).await, later, false);
    let table = place.faulty("DeleteItem", always).await;
    failed(table.delete(&key("accept")).await, later, false);
    assert_eq!((place.item(&key("put")).await, place.item(&key("other")).await), (None, None));
    assert!(place.item(&key("accept")).await.is_some());
}

#[tokio::test]
async fn a_transaction_says_why_it_was_cancelled() {
    let cancelled = |first: &'static str, second: &'static str| {
        move |_| {
            let reason = |code: &str| json!({"Code": code, "Message": "why"});
            let body = json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "Message": "Transaction cancelled", "CancellationReasons": [reason(first), reason(second)]
            });
            Fate::json(400, &body.to_string())
        }
    };
    let place = Place::new().await;
    let (one, other) = (Key::new("cancelled", "1"), Key::new("cancelled", "2"));
    let writes = || vec![put(&one, json!(1), None), set(&other, "a", None, Some(json!(1)))];
    for (first, second, kind) in [
        ("TransactionConflict", "None", ErrorKind::Conflict),
        ("None", "TransactionConflict", ErrorKind::Conflict),
        ("ConditionalCheckFailed", "None", ErrorKind::Conflict),
        ("ThrottlingError", "ConditionalCheckFailed", ErrorKind::Conflict),
        ("ThrottlingError", "None", THROTTLED),
        ("None", "ProvisionedThroughputExceeded", THROTTLED),
        ("ValidationError", "ConditionalCheckFailed", ErrorKind::Permanent),
        ("None", "ItemCollectionSizeLimitExceeded", ErrorKind::Permanent),
    ] {
        let table = place.faulty("TransactWriteItems", cancelled(first, second)).await;
        failed(table.transact(writes()).await, kind, false);
    }
    assert_eq!((place.item(&one).await, place.item(&other).await), (None, None));
    // An earlier attempt of the same transaction is still being done.
    let table = place.faulty("TransactWriteItems", |_| service_error(400, "TransactionInProgressException")).await;
    failed(table.transact(writes()).await, TROUBLE, true);
}

#[tokio::test]
async fn a_transaction_cancelled_by_a_condition_has_done_nothing() {
    let place = Place::new().await;
    let (row, mark, versioned) = (Key::new("tx", "row"), Key::new("tx", "mark"), Key::new("tx", "versioned"));
    place.plain.set_if(&mark, "m", None, Some(json!(1))).await.unwrap();
    place.plain.put_if_version(&versioned, json!(1), None).await.unwrap();
    let second = |write| vec![put(&row, json!(1), None), write];
    for write in [
        set(&mark, "m", None, Some(json!(2))),
        set(&mark, "m", Some(json!(2)), Some(json!(2))),
        put(&versioned, json!(2), Some(2)),
        Write::Check { key: versioned.clone(), version: None },
    ] {
        failed(place.plain.transact(second(write)).await, ErrorKind::Conflict, false);
    }
    let other_nature = set(&versioned, "m", None, Some(json!(1)));
    failed(place.plain.transact(second(other_nature)).await, ErrorKind::Permanent, false);
    assert_eq!(place.item(&row).await, None);
    assert_eq!(place.attribute(&mark, "m").await, Some(json!(1)));
    assert_eq!(place.doc(&versioned).await, Some(json!(1)));
}

#[tokio::test]
async fn a_single_row_is_never_written_by_a_transaction() {
    let place = Place::new().await;
    let table = place.faulty("TransactWriteItems", |_| service_error(500, "InternalServerError")).await;
    let (row, mark) = (Key::new("single", "row"), Key::new("single", "mark"));
    assert_eq!(table.transact(vec![put(&row, json!(1), None)]).await, Ok(()));
    assert_eq!(table.transact(vec![Write::Check { key: row.clone(), version: Some(1) }]).await, Ok(()));
    let both = vec![set(&mark, "a", None, Some(json!(1))), set(&mark, "b", None, Some(json!(2)))];
    assert_eq!(table.transact(both).await, Ok(()));
    let unchanged = || set(&mark, "a", Some(json!(1)), Some(json!(1)));
    assert_eq!(table.transact(vec![unchanged(), set(&mark, "c", None, None)]).await, Ok(()));
    failed(table.transact(vec![unchanged(), set(&mark, "b", None, None)]).await, ErrorKind::Conflict, false);
    let row_of_mark = place.plain.get(&mark).await.unwrap().unwrap();
    assert_eq!(row_of_mark.attributes.len(), 2);
}

/// What a client sends: operation and body of each request.
type Sent = Arc<std::sync::Mutex<Vec<(String, Value)>>>;

async fn recorded(place: &Place) -> (Dynamo, Sent) {
    let sent = Sent::default();
    let recorder = sent.clone();
    let http = faulty(move |_, request: &HttpRequest| {
        let body = serde_json::from_slice(request.body().bytes().unwrap_or_default()).unwrap_or_default();
        recorder.lock().unwrap().push((operation(request), body));
        Fate::Pass
    });
    (Dynamo::new(&connect(&ministack(), &place.account, http).await), sent)
}

#[tokio::test]
async fn every_call_is_one_request_whatever_it_answers() {
    let place = Place::new().await;
    let (table, sent) = recorded(&place).await;
    let key = |sort: &str| Key::new("requests", sort);
    table.put_if_version(&key("v"), json!(1), None).await.unwrap();
    failed(table.put_if_version(&key("v"), json!(1), None).await, ErrorKind::Conflict, false);
    assert!(table.accept_first(&key("a"), "s", "f", 1, json!(1)).await.unwrap().won);
    assert!(!table.accept_first(&key("a"), "s", "f", 1, json!(1)).await.unwrap().won);
    assert!(table.set_if(&key("a"), "x", None, Some(json!(1))).await.unwrap().done);
    assert!(!table.set_if(&key("a"), "x", None, Some(json!(1))).await.unwrap().done);
    failed(table.set_if(&key("v"), "x", None, Some(json!(1))).await, ErrorKind::Permanent, false);
    let two = vec![put(&key("v"), json!(2), Some(1)), set(&key("a"), "x", Some(json!(1)), None)];
    table.transact(two).await.unwrap();
    table.transact(vec![put(&key("v"), json!(3), Some(2))]).await.unwrap();
    table.delete(&key("v")).await.unwrap();
    let operations: Vec<String> = sent.lock().unwrap().iter().map(|(operation, _)| operation.clone()).collect();
    let updates = ["UpdateItem"; 5];
    let expected = [&["PutItem"; 2][..], &updates, &["TransactWriteItems", "PutItem", "DeleteItem"]].concat();
    assert_eq!(operations, expected);
}

#[tokio::test]
async fn every_read_is_strongly_consistent() {
    // Emulators have no other reads, so that only the request shows it.
    let place = Place::new().await;
    let (table, sent) = recorded(&place).await;
    let key = Key::new("reads", "x");
    table.get(&key).await.unwrap();
    table.get_attributes(&key, &["a"]).await.unwrap();
    table.query("reads", "", None, 1).await.unwrap();
    table.set_if(&key, "a", None, None).await.unwrap();
    let sent = sent.lock().unwrap();
    assert_eq!(sent.len(), 4);
    for (operation, body) in sent.iter() {
        assert_eq!(body["ConsistentRead"], json!(true), "{operation}");
    }
}

#[tokio::test]
async fn each_writer_and_each_transaction_has_a_number_of_its_own() {
    let place = Place::new().await;
    let (table, sent) = recorded(&place).await;
    let key = |sort: &str| Key::new("numbers", sort);
    for i in 0..3_u64 {
        table.put_if_version(&key("v"), json!(1), Some(i).filter(|i| *i > 0)).await.unwrap();
        let two =
            vec![put(&key(&format!("t{i}")), json!(1), None), set(&key("a"), &format!("a{i}"), None, Some(json!(1)))];
        table.transact(two).await.unwrap();
    }
    let sent = sent.lock().unwrap();
    let number = |(operation, body): &(String, Value)| match operation.as_str() {
        "PutItem" => body["Item"]["_w"]["S"].as_str().map(str::to_owned),
        _ => body["ClientRequestToken"].as_str().map(str::to_owned),
    };
    let numbers: std::collections::BTreeSet<String> = sent.iter().map(|sent| number(sent).unwrap()).collect();
    assert_eq!(numbers.len(), 6);
    assert!(numbers.iter().all(|number| number.len() >= 16));
}
