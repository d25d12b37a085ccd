//! What a request costs: a table in the repository, with its date and where each figure is from.

use serde::{Deserialize, Serialize};

const US_EAST_1: &str = include_str!("../../prices/us-east-1.json");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Price {
    pub usd: f64,
    pub source: String,
}

/// US dollars, for a million each where nothing else is said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    pub region: String,
    pub date: String,
    pub note: String,
    pub sqs_standard_per_million: Price,
    pub sqs_fifo_per_million: Price,
    /// On top of a standard queue's, where its messages name a group.
    pub sqs_fair_per_million: Price,
    pub lambda_per_million: Price,
    pub lambda_arm64_gb_second: Price,
    pub dynamodb_write_units_per_million: Price,
    pub dynamodb_read_units_per_million: Price,
    pub s3_put_per_million: Price,
    pub s3_get_per_million: Price,
}

impl Prices {
    pub fn us_east_1() -> anyhow::Result<Self> {
        Ok(serde_json::from_str(US_EAST_1)?)
    }
}

/// Of so many at a price for a million.
pub(super) fn of(count: u64, price: &Price) -> f64 {
    count as f64 * price.usd / 1e6
}
