//! What stands beside an object's bytes: its place, and its metadata.

use std::collections::HashMap;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ChecksumType;
use aws_smithy_types::base64;
use push0_core::{ErrorCode, Sha256};

use crate::port::{BlobInfo, PortError, PortResult};

/// Metadata: 64 hex digits.
pub(super) const SHA256: &str = "sha256";

/// Metadata: who stored it, as [`written`] writes it.
pub(super) const WRITER: &str = "writer";

/// The writer of what push0 did not store.
const UPLOAD: &str = "upload";

/// Where a blob is.
#[derive(Debug)]
pub(super) struct At<'a> {
    /// As the caller names it.
    pub(super) key: &'a str,
    pub(super) bucket: &'a str,
    pub(super) is_versioned: bool,
    /// The key without its version.
    pub(super) object: &'a str,
    pub(super) version: Option<String>,
}

impl At<'_> {
    pub(super) fn info(&self, size: u64, sha256: Sha256, writer: &str) -> BlobInfo {
        BlobInfo { key: self.key.to_owned(), size, sha256, writer: writer.to_owned() }
    }
}

/// What S3 says of an object.
#[derive(Debug)]
pub(super) struct Found {
    /// Bytes.
    pub(super) size: u64,
    pub(super) sha256: Option<Sha256>,
    pub(super) writer: String,
    /// Not there where the bucket never kept versions.
    pub(super) version: Option<String>,
}

impl Found {
    pub(super) fn of_head(head: &HeadObjectOutput) -> Self {
        Self {
            size: size(head.content_length()),
            sha256: digest(head.checksum_sha256(), head.checksum_type(), head.metadata()),
            writer: writer(head.metadata()),
            version: head.version_id().map(str::to_owned),
        }
    }

    pub(super) fn of_get(get: &GetObjectOutput) -> Self {
        Self {
            size: size(get.content_length()),
            sha256: digest(get.checksum_sha256(), get.checksum_type(), get.metadata()),
            writer: writer(get.metadata()),
            version: get.version_id().map(str::to_owned),
        }
    }

    pub(super) fn info(self, at: &At<'_>) -> PortResult<BlobInfo> {
        let sha256 = self.sha256.ok_or_else(|| {
            let what = format!("{} ({} bytes) was stored without its SHA-256", at.key, self.size);
            PortError::permanent(ErrorCode::UploadDigest.says(what))
        })?;
        Ok(at.info(self.size, sha256, &self.writer))
    }
}

fn size(length: Option<i64>) -> u64 {
    u64::try_from(length.unwrap_or(0)).unwrap_or(0)
}

/// S3's own SHA-256 of the whole object, else the one that whoever stored it gave. S3's is of the parts' digests where the upload was in
/// parts, which says nothing here; it then ends in their number.
fn digest(
    checksum: Option<&str>,
    kind: Option<&ChecksumType>,
    metadata: Option<&HashMap<String, String>>,
) -> Option<Sha256> {
    let whole = checksum.filter(|text| kind != Some(&ChecksumType::Composite) && !text.contains('-'));
    let by_s3 = whole.and_then(|text| base64::decode(text).ok()?.try_into().ok()).map(Sha256);
    by_s3.or_else(|| metadata?.get(SHA256)?.parse().ok())
}

fn writer(metadata: Option<&HashMap<String, String>>) -> String {
    let written = metadata.and_then(|metadata| metadata.get(WRITER));
    written.and_then(|text| read(text)).unwrap_or_else(|| UPLOAD.to_owned())
}

/// A writer's name as a header: what is not visible ASCII is `%` and two hex digits; nothing is a lone `%`.
pub(super) fn written(writer: &str) -> String {
    if writer.is_empty() {
        return "%".to_owned();
    }
    let mut text = String::with_capacity(writer.len());
    for byte in writer.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn read(text: &str) -> Option<String> {
    if text == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

/// A digest as S3's headers have it.
pub(super) fn checksum(sha256: Sha256) -> String {
    base64::encode(sha256.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_survives_its_header() {
        for name in ["", "demo/7/e1/0123456789abcdef/1.0.3/a1c0", " a b ", "100%", "%41", "é\n", "="] {
            let text = written(name);
            assert!(!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
            assert_eq!(read(&text).as_deref(), Some(name));
        }
        assert_eq!((read("%4"), read("%zz"), read("%FF")), (None, None, None));
    }

    #[test]
    fn the_digest_is_of_the_whole_object_or_unknown() {
        let (sum, other) = (Sha256::of(b"bytes"), Sha256::of(b"others"));
        let text = checksum(sum);
        let metadata: HashMap<String, String> = [(SHA256.to_owned(), other.to_string())].into();
        let composite = format!("{text}-3");
        assert_eq!(digest(Some(&text), None, Some(&metadata)), Some(sum));
        assert_eq!(digest(Some(&text), Some(&ChecksumType::FullObject), None), Some(sum));
        assert_eq!(digest(Some(&text), Some(&ChecksumType::Composite), Some(&metadata)), Some(other));
        assert_eq!(digest(Some(&composite), None, Some(&metadata)), Some(other));
        assert_eq!(digest(Some("AAAA"), None, None), None);
        let bad: HashMap<String, String> = [(SHA256.to_owned(), "no digest".to_owned())].into();
        assert_eq!(digest(None, None, Some(&bad)), None);
    }
}
