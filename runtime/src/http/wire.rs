//! What travels: calls and failures.

use push0_core::Millis;
use serde::{Deserialize, Serialize};

use crate::port::{ErrorKind, Key, Outgoing, PortError, Value, Write};

/// SHA-256 of a blob, 64 hex digits.
pub const SHA256: &str = "x-push0-sha256";
/// Who wrote a blob: the bytes of the name in hex.
pub const WRITER: &str = "x-push0-writer";
/// The protocol of whoever speaks, a number. Who sends none is taken at its word (`curl`); another than [`PROTOCOL`] is refused.
pub const PROTOCOL_HEADER: &str = "x-push0-protocol";
/// This build's. Changes when a worker and an owner of different builds would misunderstand each other.
pub const PROTOCOL: u32 = 1;
/// With a worker's upload: the receipt of the task that it belongs to.
pub const RECEIPT: &str = "x-push0-receipt";
/// Bytes of the whole blob.
pub const SIZE: &str = "x-push0-size";

/// A call of a port's method, but for blobs' bytes. Answers are the method's own, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Call {
    QueueSend {
        queue: String,
        messages: Vec<Outgoing>,
        /// A worker's reports: the receipt of the task that each is about, in the messages' order.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        receipts: Vec<String>,
    },
    QueueReceive {
        queue: String,
        max: usize,
        wait: Millis,
        lease: Millis,
    },
    QueueExtend {
        queue: String,
        receipt: String,
        lease: Millis,
    },
    QueueRelease {
        queue: String,
        receipt: String,
        delay: Millis,
    },
    QueueAck {
        queue: String,
        receipt: String,
    },
    QueueStats {
        queue: String,
    },
    TableGet {
        key: Key,
    },
    TablePut {
        key: Key,
        doc: Value,
        expected: Option<u64>,
    },
    TableAcceptFirst {
        key: Key,
        slot: String,
        floor: String,
        attempt: u32,
        value: Value,
    },
    TableSetIf {
        key: Key,
        attribute: String,
        expected: Option<Value>,
        new: Option<Value>,
    },
    TableQuery {
        partition: String,
        prefix: String,
        after: Option<String>,
        limit: usize,
    },
    TableTransact {
        writes: Vec<Write>,
    },
    TableDelete {
        key: Key,
    },
    BlobHead {
        key: String,
    },
    BlobList {
        prefix: String,
        after: Option<String>,
        limit: usize,
    },
    BlobDelete {
        key: String,
    },
}

/// Query of `/v1/blob`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobQuery {
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Transient,
    Conflict,
    Fenced,
    Permanent,
    Corrupt,
    /// Not an error: there is no such blob. Said explicitly, so that no other 404 can be taken for it.
    Absent,
}

/// A [`PortError`] on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    #[serde(default)]
    pub after: Millis,
    pub may_have_happened: bool,
    pub message: String,
}

impl Failure {
    pub fn absent(key: &str) -> Self {
        let message = format!("there is no blob {key}");
        Self { kind: Kind::Absent, after: Millis(0), may_have_happened: false, message }
    }

    pub fn status(&self) -> u16 {
        match self.kind {
            Kind::Transient => 503,
            Kind::Conflict => 409,
            Kind::Fenced => 403,
            Kind::Permanent => 400,
            Kind::Corrupt => 500,
            Kind::Absent => 404,
        }
    }

    /// `None`: [`Kind::Absent`].
    pub fn into_error(self) -> Option<PortError> {
        let kind = match self.kind {
            Kind::Transient => ErrorKind::Transient { after: self.after },
            Kind::Conflict => ErrorKind::Conflict,
            Kind::Fenced => ErrorKind::Fenced,
            Kind::Permanent => ErrorKind::Permanent,
            Kind::Corrupt => ErrorKind::Corrupt,
            Kind::Absent => return None,
        };
        Some(PortError::new(kind, self.may_have_happened, self.message))
    }
}

impl From<PortError> for Failure {
    fn from(error: PortError) -> Self {
        let (kind, after) = match error.kind() {
            ErrorKind::Transient { after } => (Kind::Transient, after),
            ErrorKind::Conflict => (Kind::Conflict, Millis(0)),
            ErrorKind::Fenced => (Kind::Fenced, Millis(0)),
            ErrorKind::Permanent => (Kind::Permanent, Millis(0)),
            ErrorKind::Corrupt => (Kind::Corrupt, Millis(0)),
        };
        Self { kind, after, may_have_happened: error.may_have_happened(), message: error.message().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_wire() {
        let errors = [
            PortError::transient("a"),
            PortError::unknown("b"),
            PortError::conflict("c"),
            PortError::fenced("d"),
            PortError::permanent("e"),
            PortError::corrupt("f"),
        ];
        for error in errors {
            let text = serde_json::to_string(&Failure::from(error.clone())).unwrap();
            let back: Failure = serde_json::from_str(&text).unwrap();
            assert_eq!(back.into_error(), Some(error));
        }
        assert_eq!(Failure::absent("k").into_error(), None);
    }
}
