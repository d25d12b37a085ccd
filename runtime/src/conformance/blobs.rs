//! What a [`Blobs`] promises.

use std::path::Path;

use bytes::Bytes;
use futures::future::try_join_all;
use push0_core::{Millis, Sha256};

use super::refused;
use crate::port::{BlobInfo, Blobs, ErrorKind, PutOutcome};

/// Runs every check under keys that start with `prefix` (such as `conformance/1`), where nothing must be, with `scratch` an existing
/// directory for local files.
pub async fn blobs_suite(blobs: &dyn Blobs, prefix: &str, scratch: &Path) {
    let suite = Suite { blobs, prefix, scratch };
    suite.what_is_not_there_is_none().await;
    suite.a_blob_comes_back_as_it_was_put().await;
    suite.an_empty_blob_is_a_blob().await;
    suite.a_second_put_changes_nothing_and_says_who_was_first().await;
    suite.of_eight_puts_one_creates().await;
    suite.what_is_pinned_is_found_under_the_key_it_is_pinned_at().await;
    suite.a_file_goes_in_and_comes_out().await;
    suite.a_file_is_not_replaced_by_a_download().await;
    suite.a_range_stops_at_the_end().await;
    suite.a_key_can_be_the_prefix_of_another().await;
    suite.bad_keys_are_permanent().await;
    suite.a_list_is_in_byte_order_by_prefix_page_by_page().await;
    suite.deleting_works_twice_and_frees_the_key().await;
}

struct Suite<'a> {
    blobs: &'a dyn Blobs,
    prefix: &'a str,
    scratch: &'a Path,
}

impl Suite<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    async fn put(&self, key: &str, bytes: &'static [u8], writer: &str) -> PutOutcome {
        self.blobs.put_new(key, Bytes::from_static(bytes), writer).await.expect("puts")
    }

    async fn what_is_not_there_is_none(&self) {
        let key = self.key("absent");
        assert_eq!(self.blobs.get(&key).await, Ok(None));
        assert_eq!(self.blobs.head(&key).await, Ok(None));
        assert_eq!(self.blobs.get_range(&key, 0, 1).await, Ok(None));
        let path = self.scratch.join("absent");
        assert_eq!(self.blobs.get_file(&key, &path).await, Ok(None));
        assert!(!path.exists());
        assert_eq!(self.blobs.list(&key, None, 10).await, Ok(vec![]));
    }

    async fn a_blob_comes_back_as_it_was_put(&self) {
        let (key, bytes) = (self.key("there/and_back=1.json"), b"\x00\xffproof\n");
        let expected = BlobInfo {
            key: key.clone(),
            size: 8,
            sha256: Sha256::of(bytes),
            writer: "demo/7/e1 a1c0 \u{00e9}".to_owned(),
        };
        assert_eq!(self.put(&key, bytes, &expected.writer).await, PutOutcome::Created(expected.clone()));
        assert_eq!(self.blobs.head(&key).await, Ok(Some(expected)));
        assert_eq!(self.blobs.get(&key).await, Ok(Some(Bytes::from_static(bytes))));
    }

    async fn an_empty_blob_is_a_blob(&self) {
        let key = self.key("empty");
        assert_eq!(self.put(&key, b"", "w").await.into_info().size, 0);
        assert_eq!(self.blobs.get(&key).await, Ok(Some(Bytes::new())));
        assert_eq!(self.blobs.get_range(&key, 0, 5).await, Ok(Some(Bytes::new())));
    }

    async fn a_second_put_changes_nothing_and_says_who_was_first(&self) {
        let key = self.key("twice");
        let first = self.put(&key, b"first", "one").await.into_info();
        assert_eq!(self.put(&key, b"second", "two").await, PutOutcome::Exists(first.clone()));
        let path = self.scratch.join("twice");
        std::fs::write(&path, b"third").expect("writes");
        assert_eq!(self.blobs.put_file(&key, &path, "three").await, Ok(PutOutcome::Exists(first.clone())));
        // The first one's own repetition is told apart by its writer.
        assert_eq!(self.put(&key, b"first", "one").await, PutOutcome::Exists(first));
        assert_eq!(self.blobs.get(&key).await, Ok(Some(Bytes::from_static(b"first"))));
    }

    async fn of_eight_puts_one_creates(&self) {
        let key = self.key("race");
        let writers: Vec<String> = (0..8).map(|number| format!("writer-{number}")).collect();
        let puts = writers.iter().map(|writer| self.blobs.put_new(&key, Bytes::from(writer.clone()), writer));
        let outcomes = try_join_all(puts).await.expect("puts");
        let created = outcomes.iter().filter(|outcome| matches!(outcome, PutOutcome::Created(_))).count();
        assert_eq!(created, 1, "{outcomes:?}");
        let winner = outcomes[0].clone().into_info();
        assert_eq!(self.blobs.get(&key).await, Ok(Some(Bytes::from(winner.writer.clone()))));
        assert!(outcomes.into_iter().all(|outcome| outcome.into_info() == winner));
    }

    async fn what_is_pinned_is_found_under_the_key_it_is_pinned_at(&self) {
        let key = self.key("pinned");
        assert_eq!(self.blobs.pin(&key, Millis(0)).await, Ok(None));
        let put = self.put(&key, b"bytes", "w").await.into_info();
        let pinned = self.blobs.pin(&key, Millis(0)).await.expect("pins").expect("a blob");
        assert_eq!(BlobInfo { key: key.clone(), ..pinned.clone() }, put);
        assert!(pinned.key.starts_with(&key), "{pinned:?}");
        assert_eq!(self.blobs.head(&pinned.key).await, Ok(Some(pinned.clone())));
        assert_eq!(self.blobs.get(&pinned.key).await, Ok(Some(Bytes::from_static(b"bytes"))));
        assert_eq!(self.blobs.pin(&pinned.key, Millis(0)).await, Ok(Some(pinned)));
    }

    async fn a_file_goes_in_and_comes_out(&self) {
        let (key, source, target) = (self.key("file"), self.scratch.join("source"), self.scratch.join("target"));
        // More than any buffer on the way.
        let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        std::fs::write(&source, &bytes).expect("writes");
        let outcome = self.blobs.put_file(&key, &source, "w").await.expect("puts");
        let info = outcome.clone().into_info();
        assert_eq!(outcome, PutOutcome::Created(info.clone()));
        assert_eq!((info.size, info.sha256), (bytes.len() as u64, Sha256::of(&bytes)));
        // The blob is a copy: what becomes of the file is nothing to it.
        std::fs::write(&source, b"changed").expect("writes");
        assert_eq!(self.blobs.get_file(&key, &target).await, Ok(Some(info)));
        assert!(std::fs::read(&target).expect("reads") == bytes);
        assert!(self.blobs.get(&key).await.expect("gets").expect("a blob") == bytes);
        let range = self.blobs.get_range(&key, 5_000_001, 7).await;
        assert_eq!(range, Ok(Some(Bytes::copy_from_slice(&bytes[5_000_001..5_000_008]))));
    }

    async fn a_file_is_not_replaced_by_a_download(&self) {
        let (key, path) = (self.key("no-replace"), self.scratch.join("mine"));
        self.put(&key, b"blob", "w").await;
        std::fs::write(&path, b"mine").expect("writes");
        assert!(self.blobs.get_file(&key, &path).await.is_err());
        assert_eq!(std::fs::read(&path).expect("reads"), b"mine");
    }

    async fn a_range_stops_at_the_end(&self) {
        let key = self.key("range");
        self.put(&key, b"0123456789", "w").await;
        for (offset, length, expected) in
            [(0, 4, &b"0123"[..]), (3, 3, b"345"), (8, 100, b"89"), (10, 1, b""), (u64::MAX, 1, b""), (2, 0, b"")]
        {
            let range = self.blobs.get_range(&key, offset, length).await.expect("gets").expect("a blob");
            assert_eq!(range, expected, "{length} from {offset}");
        }
    }

    async fn a_key_can_be_the_prefix_of_another(&self) {
        let (short, long) = (self.key("nested/a"), self.key("nested/a/b"));
        self.put(&short, b"short", "w").await;
        self.put(&long, b"long", "w").await;
        assert_eq!(self.blobs.get(&short).await, Ok(Some(Bytes::from_static(b"short"))));
        assert_eq!(self.blobs.delete(&short).await, Ok(()));
        assert_eq!(self.blobs.get(&long).await, Ok(Some(Bytes::from_static(b"long"))));
        // And the other way round.
        self.put(&short, b"again", "w").await;
        assert_eq!(self.blobs.get(&short).await, Ok(Some(Bytes::from_static(b"again"))));
    }

    async fn bad_keys_are_permanent(&self) {
        let (long_part, long_key) = ("x".repeat(129), vec!["x".repeat(128); 5].join("/"));
        for bad in
            ["", "/a", "a/", "a//b", "a/../b", "a/.", "..", "a b", "a/\u{00e9}", "a%2f", "a\0", &long_part, &long_key]
        {
            refused(self.blobs.put_new(bad, Bytes::new(), "w").await, ErrorKind::Permanent);
            refused(self.blobs.get(bad).await, ErrorKind::Permanent);
            refused(self.blobs.head(bad).await, ErrorKind::Permanent);
            refused(self.blobs.delete(bad).await, ErrorKind::Permanent);
        }
        let longest = self.key(&"x".repeat(128));
        self.put(&longest, b"x", "w").await;
        assert!(self.blobs.head(&longest).await.expect("answers").is_some());
    }

    async fn a_list_is_in_byte_order_by_prefix_page_by_page(&self) {
        let names = ["a", "a-b", "a.b", "a/10", "a/2", "a/2/c", "a0", "aB", "a_b", "b/1"];
        let keys: Vec<String> = names.iter().map(|name| self.key(&format!("list/{name}"))).collect();
        for key in keys.iter().rev() {
            self.put(key, b"", "w").await;
        }
        let list = async |prefix: &str, after: Option<&str>, limit: usize| -> Vec<String> {
            self.blobs.list(&self.key(prefix), after, limit).await.expect("lists")
        };
        assert_eq!(list("list/", None, 100).await, keys);
        assert_eq!(list("list/a/", None, 100).await, keys[3..6]);
        assert_eq!(list("list/a", None, 3).await, keys[..3]);
        assert_eq!(list("list/", Some(&keys[5]), 2).await, keys[6..8]);
        assert!(list("list/a/", Some(&keys[5]), 10).await.is_empty());
        assert!(list("list/", None, 0).await.is_empty());
        let mut all: Vec<String> = Vec::new();
        loop {
            let page = list("list/", all.last().map(String::as_str), 3).await;
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        assert_eq!(all, keys);
    }

    async fn deleting_works_twice_and_frees_the_key(&self) {
        let key = self.key("deleted/x");
        assert_eq!(self.blobs.delete(&key).await, Ok(()));
        self.put(&key, b"old", "one").await;
        assert_eq!(self.blobs.delete(&key).await, Ok(()));
        assert_eq!(self.blobs.delete(&key).await, Ok(()));
        assert_eq!(self.blobs.get(&key).await, Ok(None));
        assert_eq!(self.blobs.list(&key, None, 10).await, Ok(vec![]));
        assert!(matches!(self.put(&key, b"new", "two").await, PutOutcome::Created(_)));
        assert_eq!(self.blobs.get(&key).await, Ok(Some(Bytes::from_static(b"new"))));
    }
}
