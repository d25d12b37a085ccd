//! Blobs in S3: the suite, what is S3's own (versions, parts, uploads by others), and its failures.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Event, NotificationConfiguration, QueueConfiguration,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use bytes::Bytes;
use futures::StreamExt as _;
use push0_core::message::upload::{notified, versioned_key};
use push0_core::topology::Topology;
use push0_core::{ErrorCode, Millis, Sha256};
use push0_runtime::aws::emulator::{LOCALSTACK, account, connect, create_buckets, localstack, ministack, prefix};
use push0_runtime::aws::{S3Blobs, http_client};
use push0_runtime::conformance::blobs_suite;
use push0_runtime::port::{BlobInfo, Blobs, ErrorKind, PortError, PutOutcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::{Fate, faulty};

/// Buckets of a test's own. Their names are one space for all accounts.
struct Place {
    endpoint: String,
    account: String,
    raw: Client,
    blobs: S3Blobs,
}

const READING: Millis = Millis(60_000);

impl Place {
    async fn on(endpoint: String) -> Self {
        let account = account();
        let connection = connect(&endpoint, &account, http_client()).await;
        let raw = connection.s3();
        create_buckets(&connection, &Topology::built_in()).await.unwrap();
        let blobs = S3Blobs::new(&connection, &Topology::built_in());
        Self { endpoint, account, raw, blobs }
    }

    async fn here() -> Self {
        Self::on(ministack()).await
    }

    /// The same buckets through a client to which things happen.
    async fn through(&self, decide: impl Fn(u64, &HttpRequest) -> Fate + Send + Sync + 'static) -> S3Blobs {
        let connection = connect(&self.endpoint, &self.account, faulty(decide)).await;
        S3Blobs::new(&connection, &Topology::built_in())
    }

    fn bucket(&self, name: &str) -> String {
        format!("{}-{name}", prefix(&self.account))
    }

    /// Uploads as any tool would; returns the version.
    async fn upload(&self, key: &str, bytes: &'static [u8], sha256: Option<&str>) -> String {
        let put = self.raw.put_object().bucket(self.bucket("witnesses")).key(key).body(bytes.to_vec().into());
        let put = sha256.into_iter().fold(put, |put, sha256| put.metadata("sha256", sha256));
        put.send().await.unwrap().version_id().unwrap().to_owned()
    }

    /// How many versions of keys with this beginning there are, marks of deletion included.
    async fn versions(&self, key: &str) -> usize {
        let list = self.raw.list_object_versions().bucket(self.bucket("witnesses")).prefix(key).send().await.unwrap();
        list.versions().len() + list.delete_markers().len()
    }

    async fn open_uploads(&self) -> usize {
        let list = self.raw.list_multipart_uploads().bucket(self.bucket("blobs")).send().await.unwrap();
        list.uploads().len()
    }

    async fn stored(&self, key: &str) -> Option<Bytes> {
        self.blobs.get(key).await.unwrap()
    }
}

fn is_put(request: &HttpRequest) -> bool {
    request.method() == "PUT" && request.headers().get("if-none-match").is_some()
}

fn slow_down() -> Fate {
    Fate::xml(503, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
}

fn internal_error() -> Fate {
    Fate::xml(500, "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>")
}

fn conflict() -> Fate {
    let body =
        "<Error><Code>ConditionalRequestConflict</Code><Message>A conflicting operation occurred.</Message></Error>";
    Fate::xml(409, body)
}

fn exists() -> Fate {
    Fate::xml(412, "<Error><Code>PreconditionFailed</Code><Message>A condition did not hold</Message></Error>")
}

fn is_transient(error: &PortError) -> bool {
    matches!(error.kind(), ErrorKind::Transient { .. })
}

/// A file of so many bytes, none like another for long.
fn file(directory: &Path, name: &str, size: usize) -> std::path::PathBuf {
    let path = directory.join(name);
    let bytes: Vec<u8> =
        (0..size.div_ceil(4) as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&path, &bytes[..size]).unwrap();
    path
}

const LARGE: usize = (33 << 20) + 5;

// What holds on every emulator.

async fn suites(place: &Place) {
    let scratch = tempfile::tempdir().unwrap();
    for prefix in ["artifacts/conformance/1", "witnesses/conformance/1"] {
        let scratch = scratch.path().join(prefix);
        std::fs::create_dir_all(&scratch).unwrap();
        blobs_suite(&place.blobs, prefix, &scratch).await;
    }
}

async fn keys_of_all_buckets_are_listed_in_order(place: &Place) {
    for key in ["proofs/demo/1", "witnesses/demo/1-a", "artifacts/cpu/x", "control/demo/1/e1"] {
        place.blobs.put_new(key, Bytes::new(), "w").await.unwrap();
    }
    place.upload("witnesses/demo/not a key", b"", None).await;
    place.upload("witnesses/demo/control\u{1}", b"", None).await;
    let all = ["artifacts/cpu/x", "control/demo/1/e1", "proofs/demo/1", "witnesses/demo/1-a"];
    let list = async |prefix: &str, after: Option<&str>, limit| place.blobs.list(prefix, after, limit).await.unwrap();
    assert_eq!(list("", None, 10).await, all);
    assert_eq!(list("", Some("control/demo/1/e1"), 1).await, all[2..3]);
    assert_eq!(list("w", None, 10).await, all[3..]);
    assert!(list("other/", None, 10).await.is_empty());
    let unknown = place.blobs.put_new("other/x", Bytes::new(), "w").await.unwrap_err();
    assert_eq!((unknown.kind(), unknown.may_have_happened()), (ErrorKind::Permanent, false));
}

async fn a_list_goes_on_past_a_page_of_s3(place: &Place) {
    const KEYS: usize = 1_030;
    let name = |number: usize| format!("control/many/{number:05}");
    let puts = futures::stream::iter(0..KEYS).map(|number| {
        let key = name(number);
        async move { place.blobs.put_new(&key, Bytes::new(), "w").await.unwrap() }
    });
    puts.buffer_unordered(16).for_each(|_| std::future::ready(())).await;
    let all: Vec<String> = (0..KEYS).map(name).collect();
    assert_eq!(place.blobs.list("control/many/", None, 5_000).await.unwrap(), all);
    assert_eq!(place.blobs.list("control/many/", Some(&all[10]), 1_005).await.unwrap(), all[11..1_016]);
    assert_eq!(place.blobs.list("control/many/", Some(&all[1_020]), 5_000).await.unwrap(), all[1_021..]);
}

async fn a_version_stays_what_it_was(place: &Place) {
    let scratch = tempfile::tempdir().unwrap();
    let key = "witnesses/demo/7/aa/witness";
    let first = place.upload(key, b"first", None).await;
    let pinned = place.blobs.pin(key, READING).await.unwrap().unwrap();
    assert_eq!(pinned.key, versioned_key(key, &first).unwrap());
    let second = place.upload(key, b"second", None).await;
    let second = versioned_key(key, &second).unwrap();
    assert_eq!((pinned.size, pinned.sha256, pinned.writer.as_str()), (5, Sha256::of(b"first"), "upload"));

    assert_eq!(place.stored(key).await.as_deref(), Some(&b"second"[..]));
    assert_eq!(place.stored(&pinned.key).await.as_deref(), Some(&b"first"[..]));
    assert_eq!(place.stored(&second).await.as_deref(), Some(&b"second"[..]));
    assert_eq!(place.blobs.pin(&pinned.key, READING).await, Ok(Some(pinned.clone())));
    assert_eq!(place.blobs.get_range(&pinned.key, 1, 3).await.unwrap().as_deref(), Some(&b"irs"[..]));
    assert_eq!(place.blobs.get_range(&pinned.key, 9, 3).await.unwrap().as_deref(), Some(&b""[..]));
    let path = scratch.path().join("file");
    assert_eq!(place.blobs.get_file(&pinned.key, &path).await, Ok(Some(pinned.clone())));
    assert_eq!(std::fs::read(&path).unwrap(), b"first");
    assert_eq!(place.blobs.list("witnesses/demo/7/", None, 10).await.unwrap(), [key]);

    let refused = place.blobs.put_new(&pinned.key, Bytes::new(), "w").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Permanent);
    // A mark of deletion hides the object, and no version of it.
    place.raw.delete_object().bucket(place.bucket("witnesses")).key(key).send().await.unwrap();
    assert_eq!(place.stored(key).await, None);
    assert_eq!(place.blobs.pin(key, READING).await, Ok(None));
    assert_eq!(place.stored(&pinned.key).await.as_deref(), Some(&b"first"[..]));

    // A key that names a version deletes that one; the key alone everything there ever was.
    assert_eq!(place.blobs.delete(&pinned.key).await, Ok(()));
    assert_eq!(place.stored(&pinned.key).await, None);
    assert_eq!(place.stored(&second).await.as_deref(), Some(&b"second"[..]));
    let neighbour = format!("{key}/more");
    place.upload(&neighbour, b"neighbour", None).await;
    assert_eq!(place.blobs.delete(key).await, Ok(()));
    assert_eq!(place.stored(&second).await, None);
    assert_eq!(place.versions(key).await, 1, "the neighbour's");
    assert_eq!(place.blobs.delete(key).await, Ok(()));
}

async fn a_digest_is_what_s3_or_the_uploader_says_or_is_found_by_reading(place: &Place) {
    let scratch = tempfile::tempdir().unwrap();
    let sum = Sha256::of(b"bytes");
    // Nobody says: known only when it is read.
    let bare = "witnesses/demo/1/aa/witness";
    place.upload(bare, b"bytes", None).await;
    let unknown = place.blobs.head(bare).await.unwrap_err();
    assert_eq!((unknown.kind(), unknown.code()), (ErrorKind::Permanent, ErrorCode::UploadDigest), "{unknown}");
    let pinned = place.blobs.pin(bare, READING).await.unwrap().unwrap();
    assert_eq!((pinned.sha256, pinned.size), (sum, 5));
    // Large enough that it cannot be there already when it is first asked for.
    let large = "witnesses/demo/6/aa/witness";
    place.upload(large, &[7; 8 << 20], None).await;
    let hurried = place.blobs.pin(large, Millis(0)).await.unwrap_err();
    assert_eq!((hurried.kind(), hurried.code()), (ErrorKind::Permanent, ErrorCode::UploadDigest));
    assert!(hurried.message().contains("push0 submit") && hurried.message().contains("metadata sha256"), "{hurried}");
    assert_eq!(place.stored(bare).await.as_deref(), Some(&b"bytes"[..]));
    let info = place.blobs.get_file(bare, &scratch.path().join("bare")).await.unwrap().unwrap();
    assert_eq!((info.sha256, info.writer.as_str()), (sum, "upload"));

    // Metadata.
    let told = "witnesses/demo/2/aa/witness";
    place.upload(told, b"bytes", Some(&sum.to_string())).await;
    assert_eq!(place.blobs.head(told).await.unwrap().unwrap().sha256, sum);
    assert_eq!(place.blobs.pin(told, Millis(0)).await.unwrap().unwrap().sha256, sum);

    // Metadata that lies: whoever reads it is told.
    let lie = "witnesses/demo/3/aa/witness";
    place.upload(lie, b"bytes", Some(&Sha256::of(b"other").to_string())).await;
    assert_eq!(place.blobs.get(lie).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let path = scratch.path().join("lie");
    assert_eq!(place.blobs.get_file(lie, &path).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!path.exists());

    // S3's own checksum of a whole object, as `aws s3 cp --checksum-algorithm SHA256` asks for.
    let summed = "witnesses/demo/4/aa/witness";
    let put = place.raw.put_object().bucket(place.bucket("witnesses")).key(summed).body(b"bytes".to_vec().into());
    put.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await.unwrap();
    assert_eq!(place.blobs.head(summed).await.unwrap().unwrap().sha256, sum);

    // Of an upload in parts it is of the parts' digests.
    let parts = "witnesses/demo/5/aa/witness";
    in_parts(place, parts, b"bytes").await;
    assert_eq!(place.blobs.head(parts).await.unwrap_err().code(), ErrorCode::UploadDigest);
    assert_eq!(place.blobs.pin(parts, READING).await.unwrap().unwrap().sha256, sum);
    assert_eq!(place.stored(parts).await.as_deref(), Some(&b"bytes"[..]));
}

/// What tools do with large files; here of one part.
async fn in_parts(place: &Place, key: &str, bytes: &[u8]) {
    let bucket = place.bucket("witnesses");
    let create = place.raw.create_multipart_upload().bucket(&bucket).key(key);
    let id = create.checksum_algorithm(ChecksumAlgorithm::Sha256).send().await.unwrap();
    let id = id.upload_id().unwrap();
    let part = place.raw.upload_part().bucket(&bucket).key(key).upload_id(id).part_number(1);
    let part = part.checksum_algorithm(ChecksumAlgorithm::Sha256).body(bytes.to_vec().into()).send().await.unwrap();
    let done = CompletedPart::builder().part_number(1).set_e_tag(part.e_tag().map(str::to_owned));
    let done = done.set_checksum_sha256(part.checksum_sha256().map(str::to_owned)).build();
    let done = CompletedMultipartUpload::builder().parts(done).build();
    let complete = place.raw.complete_multipart_upload().bucket(&bucket).key(key).upload_id(id);
    complete.multipart_upload(done).send().await.unwrap();
}

async fn a_large_file_goes_in_parts(place: &Place) {
    let scratch = tempfile::tempdir().unwrap();
    let (one, other) = (file(scratch.path(), "one", LARGE), file(scratch.path(), "other", LARGE - 1));
    let key = "artifacts/cpu/large";
    let put_one = place.blobs.put_file(key, &one, "one");
    let put_other = place.blobs.put_file(key, &other, "other");
    // LocalStack looks and stores in two steps: of two completions at once both may win there.
    let (first, second) = if std::env::var(LOCALSTACK).is_ok_and(|localstack| localstack == place.endpoint) {
        let first = put_one.await;
        (first, put_other.await)
    } else {
        futures::future::join(put_one, put_other).await
    };
    let (first, second) = (first.unwrap(), second.unwrap());
    let created = |outcome: &PutOutcome| matches!(outcome, PutOutcome::Created(_));
    assert!(created(&first) != created(&second), "{first:?} {second:?}");
    let info = first.into_info();
    assert_eq!(second.into_info(), info);
    let winner = if info.writer == "one" { one } else { other };
    let bytes = std::fs::read(&winner).unwrap();
    assert_eq!((info.size, info.sha256), (bytes.len() as u64, Sha256::of(&bytes)));
    assert_eq!(place.blobs.head(key).await, Ok(Some(info.clone())));
    let target = scratch.path().join("target");
    assert_eq!(place.blobs.get_file(key, &target).await, Ok(Some(info.clone())));
    assert!(std::fs::read(&target).unwrap() == bytes);
    let last = place.blobs.get_range(key, info.size - 3, 100).await.unwrap().unwrap();
    assert_eq!(last, bytes[bytes.len() - 3..]);
    assert_eq!(place.blobs.put_file(key, &winner, "third").await, Ok(PutOutcome::Exists(info)));
    assert_eq!(place.open_uploads().await, 0);
}

async fn an_event_tells_of_the_upload_and_its_version(place: &Place) {
    let sqs = connect(&place.endpoint, &place.account, http_client()).await.sqs();
    let queue = sqs.create_queue().queue_name("witness-events").send().await.unwrap();
    let url = queue.queue_url().unwrap();
    let arn = format!("arn:aws:sqs:us-east-1:{}:witness-events", place.account);
    let to_queue = QueueConfiguration::builder().queue_arn(arn).events(Event::from("s3:ObjectCreated:*"));
    let to_queue = NotificationConfiguration::builder().queue_configurations(to_queue.build().unwrap()).build();
    let set = place.raw.put_bucket_notification_configuration().bucket(place.bucket("witnesses"));
    set.notification_configuration(to_queue).send().await.unwrap();

    let hash = "a1".repeat(32);
    let key = format!("witnesses/demo/7/0x{hash}/witness");
    place.blobs.put_new("witnesses/demo/7-by-submit", Bytes::from_static(b"x"), "w").await.unwrap();
    place.upload("witnesses/demo/7/a b+c/witness", b"bad", None).await;
    let version = place.upload(&key, b"bytes", None).await;
    place.raw.delete_object().bucket(place.bucket("witnesses")).key(&key).send().await.unwrap();
    // In any order, and whatever else there is to tell.
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    while good.is_empty() || bad.is_empty() {
        let taken = sqs.receive_message().queue_url(url).wait_time_seconds(10).send().await.unwrap();
        assert!(!taken.messages().is_empty(), "no more messages: {good:?} {bad:?}");
        for message in taken.messages() {
            for upload in notified(message.body().unwrap()).unwrap() {
                match upload {
                    Ok(upload) => good.push(upload),
                    Err(error) => bad.push(error),
                }
            }
            let delete = sqs.delete_message().queue_url(url).receipt_handle(message.receipt_handle().unwrap());
            delete.send().await.unwrap();
        }
    }
    let at_version = versioned_key(&key, &version).unwrap();
    assert_eq!((good[0].number, good[0].hash.to_string(), &good[0].key), (7, hash, &at_version));
    assert!(bad[0].to_string().contains("\"a b+c\" is not a block hash"), "{}", bad[0]);
    // The version is there although the object was deleted since.
    assert_eq!(place.blobs.pin(&at_version, READING).await.unwrap().unwrap().sha256, Sha256::of(b"bytes"));
    assert_eq!((good.len(), bad.len()), (1, 1));
}

macro_rules! on_both {
    ($($check:ident),+) => {
        mod on_ministack {
            $(#[tokio::test] async fn $check() { super::$check(&super::Place::here().await).await })+
        }
        mod on_localstack {
            $(#[tokio::test] async fn $check() {
                if let Some(endpoint) = super::localstack() {
                    super::$check(&super::Place::on(endpoint).await).await
                }
            })+
        }
    };
}

on_both!(
    suites,
    keys_of_all_buckets_are_listed_in_order,
    a_list_goes_on_past_a_page_of_s3,
    a_version_stays_what_it_was,
    a_digest_is_what_s3_or_the_uploader_says_or_is_found_by_reading,
    a_large_file_goes_in_parts,
    an_event_tells_of_the_upload_and_its_version
);

// Failures.

const KEY: &str = "artifacts/cpu/demo/1/e1/tag/0.0.0/a1c0";

async fn put(blobs: &S3Blobs, bytes: &'static [u8], writer: &str) -> Result<PutOutcome, PortError> {
    blobs.put_new(KEY, Bytes::from_static(bytes), writer).await
}

fn info(bytes: &[u8], writer: &str) -> BlobInfo {
    BlobInfo { key: KEY.to_owned(), size: bytes.len() as u64, sha256: Sha256::of(bytes), writer: writer.to_owned() }
}

#[tokio::test]
async fn throttled_for_a_moment_it_goes_through() {
    let place = Place::here().await;
    let puts = AtomicU64::new(0);
    let blobs = place.through(move |_, request| {
        let is_first = is_put(request) && puts.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { slow_down() } else { Fate::Pass }
    });
    assert_eq!(put(&blobs.await, b"bytes", "w").await, Ok(PutOutcome::Created(info(b"bytes", "w"))));
}

#[tokio::test]
async fn throttled_for_long_nothing_has_happened() {
    let place = Place::here().await;
    let blobs = place.through(|_, _| slow_down()).await;
    let error = put(&blobs, b"bytes", "w").await.unwrap_err();
    assert!(is_transient(&error) && !error.may_have_happened(), "{error:?}");
    assert_eq!(place.stored(KEY).await, None);
    for error in [blobs.get(KEY).await.unwrap_err(), blobs.head(KEY).await.unwrap_err()] {
        assert!(is_transient(&error), "{error:?}");
    }
    assert!(is_transient(&blobs.list("artifacts/", None, 1).await.unwrap_err()));
    assert!(is_transient(&blobs.delete(KEY).await.unwrap_err()));
    let error = place.through(|_, _| Fate::Refused).await.put_new(KEY, Bytes::new(), "w").await.unwrap_err();
    assert!(is_transient(&error) && !error.may_have_happened(), "{error:?}");
}

#[tokio::test]
async fn after_an_internal_error_nobody_knows() {
    let place = Place::here().await;
    let blobs = place.through(|_, _| internal_error()).await;
    let error = put(&blobs, b"bytes", "w").await.unwrap_err();
    assert!(is_transient(&error) && error.may_have_happened(), "{error:?}");
    assert_eq!(place.stored(KEY).await, None);
    // One such try is enough, whatever the later ones say.
    let blobs = place.through(|number, _| if number == 0 { internal_error() } else { slow_down() }).await;
    let error = put(&blobs, b"bytes", "w").await.unwrap_err();
    assert!(is_transient(&error) && error.may_have_happened(), "{error:?}");
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_meets_itself() {
    let place = Place::here().await;
    let puts = AtomicU64::new(0);
    let blobs = place.through(move |_, request| {
        let is_first = is_put(request) && puts.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { Fate::Lost } else { Fate::Pass }
    });
    let own = info(b"bytes", "demo/1/e1/tag/0.0.0/a1c0");
    assert_eq!(put(&blobs.await, b"bytes", &own.writer).await, Ok(PutOutcome::Exists(own)));
    assert_eq!(place.stored(KEY).await.as_deref(), Some(&b"bytes"[..]));
}

#[tokio::test]
async fn a_put_none_of_whose_answers_came_may_have_happened_and_meets_itself_later() {
    let place = Place::here().await;
    let blobs = place.through(|_, request| if is_put(request) { Fate::Lost } else { slow_down() }).await;
    let error = put(&blobs, b"bytes", "w").await.unwrap_err();
    assert!(is_transient(&error) && error.may_have_happened(), "{error:?}");
    assert_eq!(place.stored(KEY).await.as_deref(), Some(&b"bytes"[..]));
    assert_eq!(put(&place.blobs, b"bytes", "w").await, Ok(PutOutcome::Exists(info(b"bytes", "w"))));
    assert_eq!(put(&place.blobs, b"other", "v").await, Ok(PutOutcome::Exists(info(b"bytes", "w"))));
}

#[tokio::test]
async fn a_put_done_twice_is_there_once() {
    let place = Place::here().await;
    let blobs = place.through(|_, request| if is_put(request) { Fate::Twice } else { Fate::Pass }).await;
    assert_eq!(put(&blobs, b"bytes", "w").await, Ok(PutOutcome::Exists(info(b"bytes", "w"))));
    let key = "witnesses/demo/1-x";
    blobs.put_new(key, Bytes::from_static(b"bytes"), "w").await.unwrap();
    assert_eq!(place.versions(key).await, 1);
}

#[tokio::test]
async fn a_conflict_is_waited_out() {
    let place = Place::here().await;
    let puts = AtomicU64::new(0);
    let blobs = place.through(move |_, request| {
        let is_early = is_put(request) && puts.fetch_add(1, Ordering::SeqCst) < 2;
        if is_early { conflict() } else { Fate::Pass }
    });
    assert_eq!(put(&blobs.await, b"bytes", "w").await, Ok(PutOutcome::Created(info(b"bytes", "w"))));

    let key = "artifacts/cpu/conflict";
    let blobs = place.through(|_, _| conflict()).await;
    let error = blobs.put_new(key, Bytes::new(), "w").await.unwrap_err();
    assert!(is_transient(&error) && !error.may_have_happened(), "{error:?}");
    assert_eq!(place.stored(key).await, None);
}

#[tokio::test]
async fn what_was_there_and_is_gone_is_put_after_all() {
    let place = Place::here().await;
    let puts = AtomicU64::new(0);
    let blobs = place.through(move |_, request| {
        let is_first = is_put(request) && puts.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { exists() } else { Fate::Pass }
    });
    assert_eq!(put(&blobs.await, b"bytes", "w").await, Ok(PutOutcome::Created(info(b"bytes", "w"))));
    // Who it is that is there cannot be asked: nothing of the own put has happened.
    let blobs = place.through(|_, request| if is_put(request) { Fate::Pass } else { slow_down() }).await;
    let error = put(&blobs, b"other", "v").await.unwrap_err();
    assert!(is_transient(&error) && !error.may_have_happened(), "{error:?}");
    assert_eq!(place.stored(KEY).await.as_deref(), Some(&b"bytes"[..]));
}

#[tokio::test]
async fn bytes_that_differ_are_corrupt_whatever_s3_says_of_them() {
    let (place, scratch) = (Place::here().await, tempfile::tempdir().unwrap());
    put(&place.blobs, b"the bytes", "w").await.unwrap();
    for garbled in [&b"the bytez"[..], b"the", b"", b"the bytes and more"] {
        let blobs = place.through(|_, _| Fate::Instead(garbled)).await;
        assert_eq!(blobs.get(KEY).await.unwrap_err().kind(), ErrorKind::Corrupt, "{garbled:?}");
        let path = scratch.path().join("file");
        assert_eq!(blobs.get_file(KEY, &path).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!path.exists());
    }
    assert_eq!(place.stored(KEY).await.as_deref(), Some(&b"the bytes"[..]));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_blob() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly so much").await;
        }
    });
    let connection = connect(&endpoint, &account(), http_client()).await;
    let (blobs, scratch) = (S3Blobs::new(&connection, &Topology::built_in()), tempfile::tempdir().unwrap());
    let error = blobs.get(KEY).await.unwrap_err();
    assert!(is_transient(&error), "{error:?}");
    let path = scratch.path().join("file");
    assert!(is_transient(&blobs.get_file(KEY, &path).await.unwrap_err()));
    assert!(!path.exists());
    assert!(is_transient(&blobs.get_range(KEY, 0, 100).await.unwrap_err()));
    server.abort();
}

#[tokio::test]
async fn an_object_deleted_while_it_is_pinned_is_gone() {
    let place = Place::here().await;
    let key = "witnesses/demo/1/aa/witness";
    place.upload(key, b"bytes", None).await;
    let absent = "<Error><Code>NoSuchVersion</Code><Message>The specified version does not exist.</Message></Error>";
    // By its version's number a mark of deletion can be met.
    let marked = "<Error><Code>MethodNotAllowed</Code><Message>The specified method is not allowed.</Message></Error>";
    for (status, body) in [(404, absent), (405, marked)] {
        let decide = move |_, request: &HttpRequest| match request.method() {
            "GET" => Fate::xml(status, body),
            _ => Fate::Pass,
        };
        assert_eq!(place.through(decide).await.pin(key, READING).await, Ok(None));
        let blobs = place.through(move |_, request| {
            let is_head = request.method() == "HEAD";
            if is_head { Fate::xml(status, "") } else { Fate::xml(status, body) }
        });
        let blobs = blobs.await;
        assert_eq!((blobs.pin(key, READING).await, blobs.get(key).await), (Ok(None), Ok(None)));
    }
}

#[tokio::test]
async fn a_refusal_never_means_absent() {
    let place = Place::here().await;
    let denied = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    let blobs = place.through(|_, _| Fate::xml(403, denied)).await;
    let errors = [
        blobs.get(KEY).await.map(|_| ()),
        blobs.head(KEY).await.map(|_| ()),
        blobs.get_range(KEY, 0, 1).await.map(|_| ()),
        blobs.list("artifacts/", None, 1).await.map(|_| ()),
        blobs.put_new(KEY, Bytes::new(), "w").await.map(|_| ()),
        blobs.delete(KEY).await,
    ];
    for error in errors {
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.may_have_happened()), (ErrorKind::Permanent, false), "{error}");
    }
    // Nor is a bucket that is not there an empty one.
    let connection = connect(&place.endpoint, &account(), http_client()).await;
    let nowhere = S3Blobs::new(&connection, &Topology::built_in());
    for error in [nowhere.get(KEY).await.unwrap_err(), put(&nowhere, b"x", "w").await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Permanent);
        assert!(error.message().contains("push0 bootstrap"), "{error}");
    }
}

// Failures of an upload in parts.

fn is_create(request: &HttpRequest) -> bool {
    request.method() == "POST" && request.uri().contains("?uploads")
}

fn is_part(request: &HttpRequest) -> bool {
    request.method() == "PUT" && request.uri().contains("partNumber=")
}

fn is_complete(request: &HttpRequest) -> bool {
    request.method() == "POST" && request.uri().contains("uploadId=")
}

#[tokio::test]
async fn a_part_that_fails_for_long_leaves_nothing() {
    let (place, scratch) = (Place::here().await, tempfile::tempdir().unwrap());
    let path = file(scratch.path(), "large", LARGE);
    for fate in [internal_error(), slow_down()] {
        let blobs = place.through(move |_, request| if is_part(request) { fate.clone() } else { Fate::Pass }).await;
        let error = blobs.put_file(KEY, &path, "w").await.unwrap_err();
        assert!(is_transient(&error), "{error:?}");
        assert_eq!((place.stored(KEY).await, place.open_uploads().await), (None, 0));
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_is_not_stored() {
    let (place, scratch) = (Place::here().await, tempfile::tempdir().unwrap());
    let changes: [fn(&Path, Vec<u8>); 3] = [
        |path, mut bytes| {
            bytes[LARGE - 1] ^= 1;
            std::fs::write(path, bytes).unwrap();
        },
        |path, bytes| std::fs::write(path, &bytes[..LARGE - 1]).unwrap(),
        |path, mut bytes| {
            bytes.push(0);
            std::fs::write(path, bytes).unwrap();
        },
    ];
    for change in changes {
        let path = file(scratch.path(), "large", LARGE);
        let changed = path.clone();
        // By now its digest has been taken.
        let blobs = place.through(move |_, request| {
            if is_create(request) {
                change(&changed, std::fs::read(&changed).unwrap());
            }
            Fate::Pass
        });
        let error = blobs.await.put_file(KEY, &path, "w").await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_happened()), (ErrorKind::Permanent, false), "{error}");
        assert!(error.message().contains("changed while it was stored"), "{error}");
        assert_eq!((place.stored(KEY).await, place.open_uploads().await), (None, 0));
    }
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_meets_itself() {
    let (place, scratch) = (Place::here().await, tempfile::tempdir().unwrap());
    let path = file(scratch.path(), "large", LARGE);
    let completed = AtomicBool::new(false);
    let blobs = place.through(move |_, request| {
        let is_first = is_complete(request) && !completed.swap(true, Ordering::SeqCst);
        if is_first { Fate::Lost } else { Fate::Pass }
    });
    let expected = info(&std::fs::read(&path).unwrap(), "w");
    assert_eq!(blobs.await.put_file(KEY, &path, "w").await.map(PutOutcome::into_info), Ok(expected.clone()));
    assert_eq!(place.blobs.head(KEY).await, Ok(Some(expected)));
    assert_eq!(place.open_uploads().await, 0);
}

#[tokio::test]
async fn a_completion_in_conflict_is_sent_all_over() {
    let (place, scratch) = (Place::here().await, tempfile::tempdir().unwrap());
    let path = file(scratch.path(), "large", LARGE);
    let (completed, created) = (AtomicBool::new(false), Arc::new(AtomicU64::new(0)));
    let counted = created.clone();
    let blobs = place.through(move |_, request| {
        counted.fetch_add(u64::from(is_create(request)), Ordering::SeqCst);
        let is_first = is_complete(request) && !completed.swap(true, Ordering::SeqCst);
        if is_first { conflict() } else { Fate::Pass }
    });
    let outcome = blobs.await.put_file(KEY, &path, "w").await;
    assert_eq!(outcome, Ok(PutOutcome::Created(info(&std::fs::read(&path).unwrap(), "w"))));
    assert_eq!((created.load(Ordering::SeqCst), place.open_uploads().await), (2, 0));
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_good_answer_is_an_error() {
    let (place, scratch) = (Place::here().await, tempfile::tempdir().unwrap());
    let path = file(scratch.path(), "large", LARGE);
    // S3 says 200 before it knows how a completion ends.
    let body =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code><Message>later</Message></Error>";
    let blobs = place.through(|_, request| if is_complete(request) { Fate::xml(200, body) } else { Fate::Pass }).await;
    let error = blobs.put_file(KEY, &path, "w").await.unwrap_err();
    assert!(is_transient(&error) && error.may_have_happened(), "{error:?}");
    assert_eq!(place.stored(KEY).await, None);
}
