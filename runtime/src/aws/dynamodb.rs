//! The state table on DynamoDB: a row is an item of the one table, its attributes native, so that a person can read it in the console.
//!
//! Every call is one request, whatever it answers: a refused condition carries the row as it is. A write outside of a transaction puts a
//! random number for the call into the row. The SDK repeats a request whose answer got lost, and the repetition then finds its own condition
//! broken; the number tells that it was by this call. Where somebody else has written the row in between, a write that did happen may be
//! answered as if somebody had been first. Never the other way round: of two callers at most one is told that it won.

mod expression;
mod item;
mod transaction;
mod value;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::create_table::builders::CreateTableFluentBuilder;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ReturnValue,
    ReturnValuesOnConditionCheckFailure, ScalarAttributeType,
};
use aws_smithy_runtime_api::client::interceptors::context::InterceptorContext;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_runtime_api::client::retries::classifiers::{ClassifyRetry, RetryAction};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use push0_core::Millis;
use push0_core::topology::TableSpec;

use self::expression::{Change, Expression};
use self::item::{Item, key_of};
use super::Connection;
use super::error::{left_open, port_error};
use crate::port::check::{LONGEST_KEY, check_key, check_name, check_value, check_writes};
use crate::port::{Accepted, ErrorKind, Key, PortError, PortResult, Row, SetOutcome, Table, Value, Write};

/// The table's name in the topology.
const TABLE: &str = "state";

/// The state table of one installation.
#[derive(Debug, Clone)]
pub struct Dynamo {
    client: Client,
    table: String,
}

impl Dynamo {
    pub fn new(connection: &Connection) -> Self {
        let config = connection.dynamodb().config().to_builder().retry_classifier(InATransaction);
        Self { client: Client::from_conf(config.build()), table: connection.settings.name(TABLE) }
    }

    fn what(&self, operation: &str) -> String {
        format!("DynamoDB {operation} {}", self.table)
    }

    fn error<E>(&self, operation: &str, error: &SdkError<E, HttpResponse>) -> PortError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let says = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default();
        if says.contains("Item size") {
            return PortError::permanent(format!("{}: a row is too large: {TOO_LARGE}", self.what(operation)));
        }
        port_error(&self.what(operation), error)
    }

    async fn update(&self, key: &Key, expression: Expression) -> PortResult<Updated> {
        let writer = random_hex::<8>()?;
        let expression = expression.by(&writer);
        let sent = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key_of(key)))
            .condition_expression(expression.condition())
            .update_expression(expression.update())
            .set_expression_attribute_names(expression.names())
            .set_expression_attribute_values(expression.values())
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let error = match sent {
            Ok(output) => return Ok(Updated::Done(item::row(key.clone(), output.attributes.unwrap_or_default())?)),
            Err(error) => error,
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                let found = failed.item.clone();
                if found.as_ref().is_some_and(item::is_versioned) {
                    return Err(versioned(key));
                }
                let is_ours = found.as_ref().is_some_and(|found| item::was_written_by(found, &writer));
                let row = found.map(|found| item::row(key.clone(), found)).transpose()?;
                Ok(match row {
                    Some(row) if is_ours => Updated::Done(row),
                    row => Updated::Refused { row, may_have_happened: left_open(&error) },
                })
            }
            Some(refused) if is_in_a_transaction(refused) => Err(PortError::new(
                ErrorKind::Transient { after: Millis(50) },
                left_open(&error),
                format!("{}: a transaction holds row {}/{}", self.what("UpdateItem"), key.partition, key.sort),
            )),
            _ => Err(self.error("UpdateItem", &error)),
        }
    }
}

const TOO_LARGE: &str = "DynamoDB stores at most 400 KB in one";

enum Updated {
    Done(Row),
    /// The condition does not hold for the row as it is.
    Refused {
        row: Option<Row>,
        may_have_happened: bool,
    },
}

fn versioned(key: &Key) -> PortError {
    let problem = format!("row {}/{} is versioned: its attributes cannot be set alone", key.partition, key.sort);
    PortError::permanent(problem)
}

fn version_conflict(key: &Key, expected: Option<u64>, found: Option<u64>, may_have_happened: bool) -> PortError {
    let say = |version: Option<u64>| version.map_or("no row".to_owned(), |version| format!("version {version}"));
    let text = format!("row {}/{}: expected {}, found {}", key.partition, key.sort, say(expected), say(found));
    PortError::new(ErrorKind::Conflict, may_have_happened, text)
}

/// The version after `expected`; None where no row has that version: 0 is none, and the last one has no successor.
fn next_version(expected: Option<u64>) -> Option<u64> {
    match expected {
        Some(0) => None,
        expected => expected.unwrap_or(0).checked_add(1),
    }
}

/// The request that makes a table as the topology has it: on demand, both keys text.
pub fn create_table(client: &Client, name: &str, spec: &TableSpec) -> CreateTableFluentBuilder {
    let mut create = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (key, kind) in [(&spec.partition_key, KeyType::Hash), (&spec.sort_key, KeyType::Range)] {
        let text = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
        let element = KeySchemaElement::builder().attribute_name(key).key_type(kind);
        create = create
            .attribute_definitions(text.build().expect("a name and a type are all it needs"))
            .key_schema(element.build().expect("a name and a kind are all it needs"));
    }
    create
}

pub(super) fn random_hex<const N: usize>() -> PortResult<String> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| PortError::transient(format!("no random bytes: {error}")))?;
    Ok(hex::encode(bytes))
}

/// A single write met a transaction on its row: nothing was done, and the next attempt mostly finds the transaction over. The SDK does not
/// repeat it by itself.
#[derive(Debug)]
struct InATransaction;

impl ClassifyRetry for InATransaction {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let Some(Err(error)) = context.output_or_error() else { return RetryAction::NoActionIndicated };
        let is_ours = error.as_operation_error().is_some_and(|error| {
            error.downcast_ref::<UpdateItemError>().is_some_and(is_in_a_transaction)
                || error.downcast_ref::<PutItemError>().is_some_and(is_in_a_transaction)
                || error.downcast_ref::<DeleteItemError>().is_some_and(is_in_a_transaction)
        });
        if is_ours { RetryAction::transient_error() } else { RetryAction::NoActionIndicated }
    }

    fn name(&self) -> &'static str {
        "push0 in a transaction"
    }
}

fn is_in_a_transaction(error: &impl ProvideErrorMetadata) -> bool {
    matches!(error.code(), Some("TransactionConflictException" | "ReplicatedWriteConflictException"))
}

#[async_trait::async_trait]
impl Table for Dynamo {
    async fn get(&self, key: &Key) -> PortResult<Option<Row>> {
        check_key(key)?;
        let get = self.client.get_item().table_name(&self.table).set_key(Some(key_of(key))).consistent_read(true);
        let output = get.send().await.map_err(|error| self.error("GetItem", &error))?;
        output.item.map(|found| item::row(key.clone(), found)).transpose()
    }

    async fn get_attributes(&self, key: &Key, names: &[&str]) -> PortResult<Option<Row>> {
        check_key(key)?;
        // The key too, so that a row without any of them is still one.
        let wanted = names.iter().copied().filter(|name| !name.is_empty() && !item::is_own(name));
        let wanted: std::collections::BTreeSet<&str> = wanted.chain([item::PARTITION, item::VERSION]).collect();
        let mut get = self.client.get_item().table_name(&self.table).set_key(Some(key_of(key))).consistent_read(true);
        let mut projection = Vec::new();
        for (i, name) in wanted.into_iter().enumerate() {
            projection.push(format!("#{i}"));
            get = get.expression_attribute_names(format!("#{i}"), name);
        }
        let output = get.projection_expression(projection.join(", ")).send().await;
        let output = output.map_err(|error| self.error("GetItem", &error))?;
        output.item.map(|found| item::row(key.clone(), found)).transpose()
    }

    async fn put_if_version(&self, key: &Key, doc: Value, expected: Option<u64>) -> PortResult<u64> {
        check_key(key)?;
        let Some(version) = next_version(expected) else { return Err(version_conflict(key, expected, None, false)) };
        let writer = random_hex::<8>()?;
        let condition = Expression::version_is(expected);
        let sent = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item::versioned(key, version, &doc, Some(&writer))))
            .condition_expression(condition.condition())
            .set_expression_attribute_names(condition.names())
            .set_expression_attribute_values(condition.values())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = sent else { return Ok(version) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                if failed.item.as_ref().is_some_and(|found| item::was_written_by(found, &writer)) {
                    return Ok(version);
                }
                let found = failed.item.clone().map(|found| item::row(key.clone(), found)).transpose()?;
                Err(version_conflict(key, expected, found.map(|row| row.version), left_open(&error)))
            }
            Some(refused) if is_in_a_transaction(refused) => Err(PortError::new(
                ErrorKind::Conflict,
                left_open(&error),
                format!("{}: a transaction holds row {}/{}", self.what("PutItem"), key.partition, key.sort),
            )),
            _ => Err(self.error("PutItem", &error)),
        }
    }

    async fn accept_first(
        &self,
        key: &Key,
        slot: &str,
        floor: &str,
        attempt: u32,
        value: Value,
    ) -> PortResult<Accepted> {
        check_key(key)?;
        check_value(Some(&value))?;
        check_name(slot)?;
        check_name(floor)?;
        match self.update(key, Expression::accept(slot, floor, attempt, &value)).await? {
            Updated::Done(row) => Ok(Accepted { won: true, row }),
            Updated::Refused { row: Some(row), .. } => {
                if row.attribute(floor).is_some_and(|lowest| lowest.as_u64().is_none()) {
                    let problem = format!("row {}/{}: {floor:?} is not a number", key.partition, key.sort);
                    return Err(PortError::permanent(problem));
                }
                Ok(Accepted { won: false, row })
            }
            // There is no row that the condition does not hold for; the answer left it out.
            Updated::Refused { row: None, .. } => Err(PortError::unknown(format!(
                "{}: the answer has no row {}/{}",
                self.what("UpdateItem"),
                key.partition,
                key.sort
            ))),
        }
    }

    async fn set_if(
        &self,
        key: &Key,
        attribute: &str,
        expected: Option<Value>,
        new: Option<Value>,
    ) -> PortResult<SetOutcome> {
        check_key(key)?;
        check_value(expected.as_ref())?;
        check_value(new.as_ref())?;
        check_name(attribute)?;
        let change = Change { attribute: attribute.to_owned(), expected, new };
        if change.changes_nothing() {
            let row = self.get(key).await?;
            if row.as_ref().is_some_and(|row| row.version > 0) {
                return Err(versioned(key));
            }
            let done = row.as_ref().and_then(|row| row.attribute(attribute)) == change.expected.as_ref();
            return Ok(SetOutcome { done, row });
        }
        Ok(match self.update(key, Expression::changes(&[change])).await? {
            Updated::Done(row) => SetOutcome { done: true, row: Some(row) },
            Updated::Refused { row, .. } => SetOutcome { done: false, row },
        })
    }

    async fn query(&self, partition: &str, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<Row>> {
        let after = after.filter(|after| !after.is_empty());
        // No row of the prefix comes after something greater than all that begin with it.
        let is_over = after.is_some_and(|after| after > prefix && !after.starts_with(prefix));
        let is_no_key = partition.is_empty() || partition.len() > LONGEST_KEY || prefix.len() > LONGEST_KEY;
        if limit == 0 || is_no_key || is_over {
            return Ok(Vec::new());
        }
        let start = after.filter(|after| after.starts_with(prefix));
        let mut next = start.map(|after| key_of(&Key::new(partition, after)));
        let mut rows = Vec::new();
        loop {
            let missing = limit - rows.len();
            let mut query = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .expression_attribute_names("#p", item::PARTITION)
                .expression_attribute_values(":p", AttributeValue::S(partition.to_owned()))
                .limit(i32::try_from(missing).unwrap_or(i32::MAX))
                .set_exclusive_start_key(next.take());
            query = if prefix.is_empty() {
                query.key_condition_expression("#p = :p")
            } else {
                query
                    .key_condition_expression("#p = :p AND begins_with(#s, :s)")
                    .expression_attribute_names("#s", item::SORT)
                    .expression_attribute_values(":s", AttributeValue::S(prefix.to_owned()))
            };
            let page = query.send().await.map_err(|error| self.error("Query", &error))?;
            for found in page.items.unwrap_or_default() {
                rows.push(item::row_of_query(found)?);
            }
            next = page.last_evaluated_key.filter(|key: &Item| !key.is_empty());
            if next.is_none() || rows.len() >= limit {
                return Ok(rows);
            }
        }
    }

    async fn transact(&self, writes: Vec<Write>) -> PortResult<()> {
        check_writes(&writes)?;
        self.write_all(transaction::by_row(writes)).await
    }

    async fn delete(&self, key: &Key) -> PortResult<()> {
        check_key(key)?;
        let delete = self.client.delete_item().table_name(&self.table).set_key(Some(key_of(key)));
        match delete.send().await {
            Ok(_) => Ok(()),
            Err(error) if error.as_service_error().is_some_and(is_in_a_transaction) => Err(PortError::new(
                ErrorKind::Transient { after: Millis(50) },
                left_open(&error),
                format!("{}: a transaction holds row {}/{}", self.what("DeleteItem"), key.partition, key.sort),
            )),
            Err(error) => Err(self.error("DeleteItem", &error)),
        }
    }
}
