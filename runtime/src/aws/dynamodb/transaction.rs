//! All or nothing.
//!
//! DynamoDB takes one action an item, so the changes of one row's attributes become one. A transaction of one row is a plain write: it costs
//! half. A request that is sent again has the token of the first, and so is done once.

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    CancellationReason, ConditionCheck, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use push0_core::{ErrorCode, Millis};

use super::expression::{Change, Expression};
use super::item::{self, key_of};
use super::{Dynamo, TOO_LARGE, Updated, next_version, random_hex, version_conflict, versioned};
use crate::port::{ErrorKind, Key, PortError, PortResult, Table as _, Value, Write};

/// What a transaction does to one row.
#[derive(Debug)]
pub(super) enum Action {
    Put { key: Key, doc: Value, expected: Option<u64> },
    Check { key: Key, version: Option<u64> },
    Change { key: Key, changes: Vec<Change> },
}

impl Action {
    fn key(&self) -> &Key {
        match self {
            Action::Put { key, .. } | Action::Check { key, .. } | Action::Change { key, .. } => key,
        }
    }
}

/// The writes, which are known to fit together, by row.
pub(super) fn by_row(writes: Vec<Write>) -> Vec<Action> {
    let mut actions: Vec<Action> = Vec::new();
    for write in writes {
        match write {
            Write::Put { key, doc, expected } => actions.push(Action::Put { key, doc, expected }),
            Write::Check { key, version } => actions.push(Action::Check { key, version }),
            Write::SetIf { key, attribute, expected, new } => {
                let change = Change { attribute, expected, new };
                let same = actions.iter_mut().find_map(|action| match action {
                    Action::Change { key: other, changes } if *other == key => Some(changes),
                    _ => None,
                });
                match same {
                    Some(changes) => changes.push(change),
                    None => actions.push(Action::Change { key, changes: vec![change] }),
                }
            }
        }
    }
    actions
}

impl Dynamo {
    pub(super) async fn write_all(&self, mut actions: Vec<Action>) -> PortResult<()> {
        match actions.len() {
            0 => Ok(()),
            1 => self.write_one(actions.remove(0)).await,
            _ => self.write_several(actions).await,
        }
    }

    async fn write_one(&self, action: Action) -> PortResult<()> {
        match action {
            Action::Put { key, doc, expected } => self.put_if_version(&key, doc, expected).await.map(|_| ()),
            Action::Check { key, version } => {
                let found = self.get_attributes(&key, &[]).await?.map(|row| row.version);
                let holds = found == version && version != Some(0);
                if holds { Ok(()) } else { Err(version_conflict(&key, version, found, false)) }
            }
            Action::Change { key, changes } if changes.iter().all(Change::changes_nothing) => {
                let row = self.get(&key).await?;
                if row.as_ref().is_some_and(|row| row.version > 0) {
                    return Err(versioned(&key));
                }
                let is_so = |change: &Change| {
                    row.as_ref().and_then(|row| row.attribute(&change.attribute)) == change.expected.as_ref()
                };
                if changes.iter().all(is_so) { Ok(()) } else { Err(not_as_expected(&key, false)) }
            }
            Action::Change { key, changes } => match self.update(&key, Expression::changes(&changes)).await? {
                Updated::Done(_) => Ok(()),
                Updated::Refused { may_have_happened, .. } => Err(not_as_expected(&key, may_have_happened)),
            },
        }
    }

    async fn write_several(&self, actions: Vec<Action>) -> PortResult<()> {
        let items = actions.iter().map(|action| self.item(action)).collect::<PortResult<Vec<_>>>()?;
        let sent = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .client_request_token(random_hex::<16>()?)
            .send()
            .await;
        let Err(error) = sent else { return Ok(()) };
        match error.as_service_error() {
            // Had an earlier attempt happened, this one, with the same token, would have been told so.
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                Err(self.cancelled(&actions, cancelled.cancellation_reasons()))
            }
            _ => Err(self.error("TransactWriteItems", &error)),
        }
    }

    fn item(&self, action: &Action) -> PortResult<TransactWriteItem> {
        let invalid = |error| PortError::permanent(format!("{}: {error}", self.what("TransactWriteItems")));
        let builder = TransactWriteItem::builder();
        Ok(match action {
            Action::Put { key, doc, expected } => {
                let Some(version) = next_version(*expected) else {
                    return Err(version_conflict(key, *expected, None, false));
                };
                let condition = Expression::version_is(*expected);
                let put = Put::builder()
                    .table_name(&self.table)
                    .set_item(Some(item::versioned(key, version, doc, None)))
                    .condition_expression(condition.condition())
                    .set_expression_attribute_names(condition.names())
                    .set_expression_attribute_values(condition.values());
                builder.put(put.build().map_err(invalid)?).build()
            }
            Action::Check { key, version } => {
                if *version == Some(0) {
                    return Err(version_conflict(key, *version, None, false));
                }
                builder.condition_check(self.check(key, &Expression::version_is(*version))?).build()
            }
            Action::Change { key, changes } => {
                let expression = Expression::changes(changes);
                if changes.iter().all(Change::changes_nothing) {
                    return Ok(builder.condition_check(self.check(key, &expression)?).build());
                }
                let update = Update::builder()
                    .table_name(&self.table)
                    .set_key(Some(key_of(key)))
                    .condition_expression(expression.condition())
                    .update_expression(expression.update())
                    .set_expression_attribute_names(expression.names())
                    .set_expression_attribute_values(expression.values())
                    .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
                builder.update(update.build().map_err(invalid)?).build()
            }
        })
    }

    fn check(&self, key: &Key, condition: &Expression) -> PortResult<ConditionCheck> {
        ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(key_of(key)))
            .condition_expression(condition.condition())
            .set_expression_attribute_names(condition.names())
            .set_expression_attribute_values(condition.values())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .build()
            .map_err(|error| PortError::permanent(format!("{}: {error}", self.what("TransactWriteItems"))))
    }

    /// The reasons are in the order of the actions; an action that did not stand in the way has the reason "None".
    fn cancelled(&self, actions: &[Action], reasons: &[CancellationReason]) -> PortError {
        let what = self.what("TransactWriteItems");
        let mut worst: Option<PortError> = None;
        for (action, reason) in actions.iter().zip(reasons) {
            let Some(error) = of_reason(&what, action, reason) else { continue };
            if worst.as_ref().is_none_or(|worst| gravity(&error) > gravity(worst)) {
                worst = Some(error);
            }
        }
        worst.unwrap_or_else(|| PortError::conflict(format!("{what}: cancelled, and the answer does not say why")))
    }
}

/// What cannot ever work counts more than what must be decided anew, and that more than what is only late.
fn gravity(error: &PortError) -> u8 {
    match error.kind() {
        ErrorKind::Permanent | ErrorKind::Corrupt | ErrorKind::Fenced => 2,
        ErrorKind::Conflict => 1,
        ErrorKind::Transient { .. } => 0,
    }
}

fn of_reason(what: &str, action: &Action, reason: &CancellationReason) -> Option<PortError> {
    let key = action.key();
    let code = reason.code().unwrap_or("None");
    let says = reason.message().unwrap_or_default();
    let text = format!("{what}: row {}/{}: {code}: {says}", key.partition, key.sort);
    Some(match code {
        "None" => return None,
        "ConditionalCheckFailed" => match action {
            Action::Change { .. } if reason.item.as_ref().is_some_and(item::is_versioned) => versioned(key),
            Action::Change { .. } => not_as_expected(key, false),
            Action::Put { .. } | Action::Check { .. } => {
                PortError::conflict(format!("row {}/{} has another version than expected", key.partition, key.sort))
            }
        },
        "TransactionConflict" => PortError::conflict(text),
        "ThrottlingError" | "ProvisionedThroughputExceeded" => {
            let kind = ErrorKind::Transient { after: Millis(200) };
            PortError::new(kind, false, ErrorCode::AwsThrottles.says(text))
        }
        _ if says.contains("Item size") => {
            PortError::permanent(format!("{what}: row {}/{} is too large: {TOO_LARGE}", key.partition, key.sort))
        }
        _ => PortError::permanent(text),
    })
}

fn not_as_expected(key: &Key, may_have_happened: bool) -> PortError {
    let text = format!("row {}/{}: an attribute is not as expected", key.partition, key.sort);
    PortError::new(ErrorKind::Conflict, may_have_happened, text)
}
