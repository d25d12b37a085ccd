//! Listing and deleting.

use aws_sdk_s3::types::EncodingType;
use push0_core::message::upload::url_decoded;

use super::object::At;
use super::trouble::{Said, said};
use super::{S3Blobs, Shelf};
use crate::engine::check_blob_key;
use crate::port::PortResult;

/// Most keys S3 tells at a time.
const PAGE: usize = 1_000;

impl S3Blobs {
    pub(super) async fn keys(&self, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        let mut keys = Vec::new();
        for shelf in self.shelves.iter() {
            // A short prefix may be of several shelves, each of which has all keys of its own.
            let prefix = if prefix.starts_with(&shelf.prefix) {
                prefix
            } else if shelf.prefix.starts_with(prefix) {
                &shelf.prefix
            } else {
                continue;
            };
            keys.extend(self.keys_on(shelf, prefix, after, limit).await?);
        }
        keys.sort_unstable();
        keys.truncate(limit);
        Ok(keys)
    }

    async fn keys_on(&self, shelf: &Shelf, prefix: &str, after: Option<&str>, limit: usize) -> PortResult<Vec<String>> {
        let (mut keys, mut token) = (Vec::new(), None);
        while keys.len() < limit {
            let list = self.client.list_objects_v2().bucket(&shelf.bucket).prefix(prefix);
            let list = list.set_start_after(after.map(str::to_owned)).set_continuation_token(token.take());
            // Others may have stored objects whose keys XML cannot carry.
            let list = list.encoding_type(EncodingType::Url).max_keys((limit - keys.len()).min(PAGE) as i32);
            let what = format!("listing {prefix}");
            let page = list.send().await.map_err(|error| said(&what, &error).into_trouble(&what))?;
            let is_encoded = page.encoding_type() == Some(&EncodingType::Url);
            let listed = page.contents().iter().filter_map(|object| object.key());
            let listed = listed.filter_map(|key| if is_encoded { url_decoded(key) } else { Some(key.to_owned()) });
            // What is not a blob's key can be no blob of ours.
            keys.extend(listed.filter(|key| check_blob_key(key).is_ok()));
            token = page.next_continuation_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        Ok(keys)
    }

    /// Of a bucket with versions all of the key's go, so that their space is freed; of a key that names a version, that one.
    pub(super) async fn remove(&self, at: &At<'_>) -> PortResult<()> {
        if !at.is_versioned || at.version.is_some() {
            return self.remove_version(at, at.version.as_deref()).await;
        }
        loop {
            let versions = self.versions(at).await?;
            if versions.is_empty() {
                return Ok(());
            }
            for version in versions {
                self.remove_version(at, Some(&version)).await?;
            }
        }
    }

    async fn remove_version(&self, at: &At<'_>, version: Option<&str>) -> PortResult<()> {
        let delete = self.client.delete_object().bucket(at.bucket).key(at.object);
        let what = format!("deleting {}", at.key);
        match delete.set_version_id(version.map(str::to_owned)).send().await {
            Ok(_) => Ok(()),
            Err(error) => match said(&what, &error) {
                Said::Absent => Ok(()),
                other => Err(other.into_trouble(&what)),
            },
        }
    }

    /// Versions of the key, and its marks of deletion: the first of them, as many as one answer has.
    async fn versions(&self, at: &At<'_>) -> PortResult<Vec<String>> {
        let what = format!("listing the versions of {}", at.object);
        let list = self.client.list_object_versions().bucket(at.bucket).prefix(at.object);
        let list = list.send().await.map_err(|error| said(&what, &error).into_trouble(&what))?;
        // Longer keys with the same beginning come after all versions of this one.
        let of_key = |key: Option<&str>| key == Some(at.object);
        let versions = list.versions().iter().filter(|version| of_key(version.key())).filter_map(|v| v.version_id());
        let marks = list.delete_markers().iter().filter(|mark| of_key(mark.key())).filter_map(|m| m.version_id());
        Ok(versions.chain(marks).map(str::to_owned).collect())
    }
}
