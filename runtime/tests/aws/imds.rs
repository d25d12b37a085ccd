//! The metadata of an instance, over real HTTP on loopback.

use push0_runtime::aws::{InstanceMetadata, http_client};
use push0_runtime::conformance::{FakeImds, imds_suite};
use push0_runtime::port::{ErrorKind, Imds};

#[tokio::test]
async fn the_sdk_s_client_reads_instance_metadata() {
    let fake = FakeImds::start().await.unwrap();
    let imds = InstanceMetadata::new(http_client(), Some(fake.address())).unwrap();
    imds_suite(&imds, &fake).await;
}

#[tokio::test]
async fn a_token_is_used_again() {
    let fake = FakeImds::start().await.unwrap();
    let imds = InstanceMetadata::new(http_client(), Some(fake.address())).unwrap();
    for _ in 0..5 {
        imds.instance_id().await.unwrap();
    }
    assert_eq!(fake.requests(), 6, "one for the token");
}

#[tokio::test]
async fn where_nobody_listens_it_is_no_answer() {
    let fake = FakeImds::start().await.unwrap();
    let address = fake.address();
    drop(fake);
    let imds = InstanceMetadata::new(http_client(), Some(address)).unwrap();
    let error = imds.target_state().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient { .. }), "{error}");
    assert!(InstanceMetadata::new(http_client(), Some("not an address".to_owned())).is_err());
}
