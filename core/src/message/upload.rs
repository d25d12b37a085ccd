//! What S3 tells of uploads: the messages of `witness-events`.
//!
//! A plain upload to `witnesses/{chain}/{number}/{hash}/witness` submits a block. [`notified`] reads S3's notification, which is S3's
//! format and not ours (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>): its keys are
//! URL-encoded with `+` for a space, it comes at least once and in any order, and a first one, `s3:TestEvent`, tells of nothing.
//!
//! A blob key that ends in `/version=ID` names exactly that S3 version of the object: [`versioned_key`] makes it, [`split_version`] takes
//! it apart. So what is admitted stays what it was, whatever is uploaded under the key later.

use serde::Deserialize;

use super::Submission;
use crate::error_code::ErrorCode;
use crate::id::{BlockHash, ChainId};
use crate::record::BlobRef;

/// What the last part of a key begins with that names a version.
const VERSION: &str = "version=";

/// Longest version in a key as it is written there, bytes; AWS's ids have 32, and may have 1,024.
const LONGEST_VERSION: usize = 120;

/// Major version of S3's notifications that is understood.
const MAJOR: &str = "2.";

/// A witness that somebody has uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    pub chain: ChainId,
    pub number: u64,
    pub hash: BlockHash,
    /// Where it is; with its version, where that is known.
    pub key: String,
}

/// Why a message or an upload can never be handled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUpload {
    #[error("not a notification of S3: {0}")]
    NotAnEvent(String),
    #[error("{key:?} submits nothing: {why}; a witness is uploaded to witnesses/CHAIN/NUMBER/HASH/witness")]
    Key { key: String, why: String },
}

impl BadUpload {
    /// Its page.
    pub fn code(&self) -> ErrorCode {
        match self {
            BadUpload::NotAnEvent(_) => ErrorCode::Poison,
            BadUpload::Key { .. } => ErrorCode::UploadKey,
        }
    }

    fn key(key: &str, why: impl ToString) -> Self {
        BadUpload::Key { key: key.chars().take(200).collect(), why: why.to_string() }
    }
}

/// The uploads a message of S3 tells of. None: it tells of something else (a test, a removal, an object of another kind).
pub fn notified(body: &str) -> Result<Vec<Result<Upload, BadUpload>>, BadUpload> {
    let message: Message =
        serde_json::from_str(body).map_err(|error| BadUpload::NotAnEvent(format!("{error}: {}", clip(body))))?;
    match message {
        Message { records: Some(records), .. } => {
            let uploads: Result<Vec<_>, _> = records.into_iter().map(Record::upload).collect();
            Ok(uploads?.into_iter().flatten().collect())
        }
        Message { records: None, event: Some(event) } if event == "s3:TestEvent" => Ok(Vec::new()),
        Message { .. } => Err(BadUpload::NotAnEvent(clip(body))),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Records")]
    records: Option<Vec<Record>>,
    #[serde(rename = "Event")]
    event: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    event_version: String,
    event_name: String,
    s3: Entity,
}

#[derive(Deserialize)]
struct Entity {
    object: Object,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    key: String,
    /// Not there where the bucket keeps no versions.
    #[serde(default)]
    version_id: Option<String>,
}

impl Record {
    fn upload(self) -> Result<Option<Result<Upload, BadUpload>>, BadUpload> {
        if !self.event_version.starts_with(MAJOR) {
            return Err(BadUpload::NotAnEvent(format!("its version is {}, not {MAJOR}x", self.event_version)));
        }
        // Notifications have it without the `s3:` that configurations write.
        let name = self.event_name.strip_prefix("s3:").unwrap_or(&self.event_name);
        if !name.starts_with("ObjectCreated:") {
            return Ok(None);
        }
        let Object { key, version_id } = self.s3.object;
        let Some(key) = url_decoded(&key) else {
            return Ok(Some(Err(BadUpload::key(&key, "it is not UTF-8"))));
        };
        let version = version_id.filter(|version| !version.is_empty());
        Ok(Upload::under(&key).map(|upload| upload?.at_version(version.as_deref())))
    }
}

impl Upload {
    /// What uploads for a block number lie under.
    pub fn prefix(chain: &ChainId, number: u64) -> String {
        format!("witnesses/{chain}/{number}/")
    }

    /// The upload that a key of `witnesses/` stands for. None: it is of another form, such as what `push0 submit` stores.
    pub fn under(key: &str) -> Option<Result<Self, BadUpload>> {
        let mut parts = key.strip_prefix("witnesses/")?.split('/');
        let (chain, number, hash) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next() != Some("witness") || parts.next().is_some() {
            return None;
        }
        Some(Self::parse(key, chain, number, hash))
    }

    fn parse(key: &str, chain: &str, number: &str, hash: &str) -> Result<Self, BadUpload> {
        let bad = |why: String| BadUpload::key(key, why);
        let chain: ChainId = chain.parse().map_err(|error: crate::InvalidId| bad(error.to_string()))?;
        let parsed: Option<u64> = number.parse().ok();
        // One spelling only: `+7` and `007` would be other objects for block 7.
        let parsed = parsed.filter(|parsed| parsed.to_string() == number);
        let number =
            parsed.ok_or_else(|| bad(format!("{number:?} is not a block number: digits, without zeros in front")))?;
        let hash: BlockHash = hash.parse().map_err(|error: crate::InvalidId| bad(error.to_string()))?;
        Ok(Self { chain, number, hash, key: key.to_owned() })
    }

    fn at_version(self, version: Option<&str>) -> Result<Self, BadUpload> {
        let Some(version) = version else { return Ok(self) };
        match versioned_key(&self.key, version) {
            Some(key) => Ok(Self { key, ..self }),
            None => Err(BadUpload::key(&self.key, format!("its version {:?} is too long", clip(version)))),
        }
    }

    /// The submission it is, with the blob that was found there.
    pub fn submission(self, witness: BlobRef) -> Submission {
        Submission {
            chain: self.chain,
            number: self.number,
            hash: self.hash,
            parent_hash: None,
            witness,
            fork_seq: None,
            deadline: None,
        }
    }
}

/// The key of one version of an object. Bytes of the version that a key cannot have are written `=` and two hex digits. None: it is too
/// long for a key.
pub fn versioned_key(key: &str, version: &str) -> Option<String> {
    let mut written = String::new();
    for byte in version.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            written.push(char::from(byte));
        } else {
            written.push_str(&format!("={byte:02X}"));
        }
    }
    let fits = (1..=LONGEST_VERSION).contains(&written.len());
    fits.then(|| format!("{key}/{VERSION}{written}"))
}

/// The object of a key, and the version it names, if it names one. `Err`: it ends like a version, and is none.
pub fn split_version(key: &str) -> Result<(&str, Option<String>), crate::InvalidId> {
    let Some((object, last)) = key.rsplit_once('/') else { return Ok((key, None)) };
    let Some(written) = last.strip_prefix(VERSION) else { return Ok((key, None)) };
    let version = unescaped(written, b'=', |byte| byte).filter(|version| !version.is_empty());
    let version = version.ok_or_else(|| crate::InvalidId { given: clip(last), wanted: "a version of an object" })?;
    Ok((object, Some(version)))
}

/// A key as S3's notifications and lists write it, in clear. None: it is not UTF-8, or not so written.
pub fn url_decoded(text: &str) -> Option<String> {
    unescaped(text, b'%', |byte| if byte == b'+' { b' ' } else { byte })
}

/// Text in which `mark` and two hex digits stand for a byte; every other byte for what `plain` makes of it.
fn unescaped(text: &str, mark: u8, plain: impl Fn(u8) -> u8) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == mark {
            let mut byte = [0];
            hex::decode_to_slice(after.get(..2)?, &mut byte).ok()?;
            bytes.push(byte[0]);
            rest = &after[2..];
        } else {
            bytes.push(plain(first));
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests;
