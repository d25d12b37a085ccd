use super::*;

const HASH: &str = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1";

/// As S3 sends it, for an object in a versioned bucket.
fn event(name: &str, key: &str, version: Option<&str>) -> String {
    let version = version.map(|version| format!(r#""versionId":"{version}","#)).unwrap_or_default();
    let record = r#"{"eventVersion":"2.1","eventSource":"aws:s3","awsRegion":"eu-central-1",
        "eventTime":"2026-11-24T09:30:12.345Z","eventName":"NAME","userIdentity":{"principalId":"AWS:AIDAEXAMPLE"},
        "requestParameters":{"sourceIPAddress":"192.0.2.7"},
        "responseElements":{"x-amz-request-id":"C3D13FE58DE4C810","x-amz-id-2":"FMyUVURIY8/IgAtTv8xRjskZQpcIZ9KG4V5Wp6S7S/JRWeUWerMUE5JgHvANOjpD"},
        "s3":{"s3SchemaVersion":"1.0","configurationId":"witnesses",
            "bucket":{"name":"push0-witnesses","ownerIdentity":{"principalId":"A3NL1KOZZKExample"},"arn":"arn:aws:s3:::push0-witnesses"},
            "object":{"key":"KEY","size":1024,"eTag":"d41d8cd98f00b204e9800998ecf8427e",VERSION"sequencer":"0055AED6DCD90281E5"}}}"#;
    let record = record.replace("NAME", name).replace("KEY", key).replace("VERSION", &version);
    format!(r#"{{"Records":[{record}]}}"#)
}

fn key() -> String {
    format!("witnesses/demo/7/{HASH}/witness")
}

fn created(key: &str, version: Option<&str>) -> Result<Upload, BadUpload> {
    let mut uploads = notified(&event("ObjectCreated:Put", key, version)).unwrap();
    assert_eq!(uploads.len(), 1, "{key}");
    uploads.remove(0)
}

#[test]
fn an_upload_submits_the_block_its_key_names_at_the_events_version() {
    let upload = created(&key(), Some("3HL4kqtJvjVBH40Nrjfkd.x_-")).unwrap();
    assert_eq!((upload.chain.as_str(), upload.number, upload.hash), ("demo", 7, HASH.parse().unwrap()));
    assert_eq!(upload.key, format!("{}/version=3HL4kqtJvjVBH40Nrjfkd.x_-", key()));
    // Multipart, a copy and a form upload are uploads like any other.
    for name in ["ObjectCreated:CompleteMultipartUpload", "ObjectCreated:Copy", "s3:ObjectCreated:Post"] {
        assert_eq!(notified(&event(name, &key(), None)).unwrap(), [created(&key(), None)], "{name}");
    }
    assert_eq!(created(&key(), None).unwrap().key, key(), "a bucket without versions");
}

#[test]
fn a_hash_may_be_written_as_chains_write_it() {
    let upload = created(&format!("witnesses/demo/7/0x{}/witness", HASH.to_uppercase()), None).unwrap();
    assert_eq!(upload.hash, HASH.parse().unwrap());
}

#[test]
fn keys_are_url_decoded_before_they_are_looked_at() {
    let encoded = key().replace('/', "%2F");
    assert_eq!(created(&encoded, None).unwrap().key, key());
    // `+` is a space there, which no chain's name has.
    let error = created(&key().replace("demo", "de+mo"), None).unwrap_err();
    assert!(error.to_string().contains("\"de mo\" is not a chain id"), "{error}");
    assert!(created("witnesses/%ff/7/x/witness", None).unwrap_err().to_string().contains("UTF-8"));
    assert!(created("witnesses/%zz/7/x/witness", None).is_err());
}

#[test]
fn what_is_no_upload_of_a_block_is_nothing() {
    let test = r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2026-11-24T09:30:12.345Z","Bucket":"push0-witnesses","RequestId":"5582815E1AEA5ADF","HostId":"8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE"}"#;
    assert_eq!(notified(test), Ok(vec![]));
    assert_eq!(notified(r#"{"Records":[]}"#), Ok(vec![]));
    for name in [
        "ObjectRemoved:Delete",
        "ObjectRemoved:DeleteMarkerCreated",
        "ObjectRestore:Completed",
        "LifecycleExpiration:Delete",
    ] {
        assert_eq!(notified(&event(name, &key(), None)), Ok(vec![]), "{name}");
    }
    let by_submit = format!("witnesses/demo/7-{HASH}");
    for key in
        [by_submit.as_str(), "witnesses/demo/7/x/other", "witnesses/demo/7/x/witness/more", "notes/demo/7/x/witness"]
    {
        assert_eq!(notified(&event("ObjectCreated:Put", key, None)), Ok(vec![]), "{key}");
    }
}

#[test]
fn a_key_that_names_no_block_says_what_is_wrong_with_it() {
    for (key, why) in [
        (format!("witnesses/Demo/7/{HASH}/witness"), "is not a chain id"),
        (format!("witnesses/demo/007/{HASH}/witness"), "is not a block number"),
        (format!("witnesses/demo/%2B7/{HASH}/witness"), "is not a block number"),
        (format!("witnesses/demo/18446744073709551616/{HASH}/witness"), "is not a block number"),
        ("witnesses/demo/7/0x12/witness".to_owned(), "is not a block hash"),
        (format!("witnesses//7/{HASH}/witness"), "is not a chain id"),
    ] {
        let error = created(&key, None).unwrap_err();
        assert!(error.to_string().contains(why), "{key}: {error}");
        assert_eq!(error.code(), ErrorCode::UploadKey);
    }
    let error = created(&key(), Some(&"v".repeat(121))).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn several_records_are_told_apart() {
    let (good, bad) =
        (event("ObjectCreated:Put", &key(), None), event("ObjectCreated:Put", "witnesses/demo/x/y/witness", None));
    let record = |message: &str| serde_json::from_str::<serde_json::Value>(message).unwrap()["Records"][0].clone();
    let both = serde_json::json!({ "Records": [record(&bad), record(&good)] }).to_string();
    let uploads = notified(&both).unwrap();
    assert!(matches!(&uploads[..], [Err(_), Ok(upload)] if upload.number == 7), "{uploads:?}");
}

#[test]
fn what_s3_did_not_write_or_wrote_otherwise_is_poison() {
    let other_version = event("ObjectCreated:Put", &key(), None).replace("\"2.1\"", "\"3.0\"");
    let eventbridge = r#"{"detail-type":"Object Created","detail":{"object":{"key":"x"}}}"#;
    for body in
        ["", "[]", "{}", "not json", r#"{"Records":[{}]}"#, r#"{"Event":"s3:Other"}"#, eventbridge, &other_version]
    {
        assert_eq!(notified(body).unwrap_err().code(), ErrorCode::Poison, "{body}");
    }
}

#[test]
fn a_version_survives_its_key() {
    let documented = "3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY+MTRCxf3vjVBH40Nr8X8gdRQBpUMLUo";
    for version in ["null", documented, "a=b/c é", "..", "=41"] {
        let key = versioned_key("witnesses/a", version).unwrap();
        let last = key.rsplit('/').next().unwrap();
        assert!(
            last.len() <= 128 && last.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._=-".contains(&byte)),
            "{key}"
        );
        assert_eq!(split_version(&key), Ok(("witnesses/a", Some(version.to_owned()))));
    }
    assert_eq!(versioned_key("a", ""), None);
    assert_eq!(versioned_key("a", &"+".repeat(41)), None);
    assert_eq!(split_version("a/b"), Ok(("a/b", None)));
    assert_eq!(split_version("version=x"), Ok(("version=x", None)));
    for bad in ["a/version=", "a/version==4", "a/version==XY", "a/version==FF"] {
        assert!(split_version(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_start_of_what_was_not_understood_is_shown() {
    assert_eq!(notified("{}"), Err(BadUpload::NotAnEvent("{}".to_owned())));
    let other = r#"{"Event":"s3:Other"}"#;
    assert_eq!(notified(other), Err(BadUpload::NotAnEvent(other.to_owned())));
    for (body, shown) in [
        ("not json".to_owned(), "not json".to_owned()),
        ("é".repeat(201), "é".repeat(200)),
        ("n".repeat(200), "n".repeat(200)),
    ] {
        let error = notified(&body).unwrap_err().to_string();
        assert!(error.ends_with(&format!(": {shown}")), "{error}");
    }
    let error = created(&key(), Some(&"v".repeat(201))).unwrap_err().to_string();
    assert!(error.contains(&format!("its version {:?} is too long", "v".repeat(200))), "{error}");
}

#[test]
fn the_uploads_of_a_block_lie_under_its_number() {
    let prefix = Upload::prefix(&"demo".parse().unwrap(), 7);
    assert_eq!(prefix, "witnesses/demo/7/");
    assert!(key().starts_with(&prefix));
}
