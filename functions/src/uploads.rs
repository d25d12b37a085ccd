//! Uploaded witnesses become submissions: of the dispatcher, when S3 tells it, and of the reaper, which looks where S3 has not told.

use push0_core::message::Submission;
use push0_core::message::upload::{BadUpload, Upload};
use push0_core::record::BlobRef;
use push0_core::{ChainId, ErrorCode, Millis};
use push0_runtime::drive::Context;
use push0_runtime::port::{BLOB_LIMIT, ErrorKind, PortError};

/// How long reading an object may take that came without a digest: half of the dispatcher's time-out.
pub const READING: Millis = Millis(1_500);

/// Uploads looked at for a block number: more than one is a dispute already.
const MOST: usize = 100;

/// Why an upload is no submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// Not now.
    Trouble(PortError),
    /// It took longer to read than it may; perhaps not the next time.
    TooSlow(String),
    /// Never: the reason, with its code.
    Never(String),
}

impl Refused {
    pub fn reason(&self) -> String {
        match self {
            Refused::Trouble(error) => error.code().says(error.message()),
            Refused::TooSlow(reason) | Refused::Never(reason) => reason.clone(),
        }
    }
}

impl From<PortError> for Refused {
    fn from(error: PortError) -> Self {
        match (error.kind(), error.code()) {
            (ErrorKind::Permanent, ErrorCode::UploadDigest) => Refused::TooSlow(error.message().to_owned()),
            _ => Refused::Trouble(error),
        }
    }
}

impl From<BadUpload> for Refused {
    fn from(bad: BadUpload) -> Self {
        Refused::Never(bad.code().says(bad.to_string()))
    }
}

/// The submission that an upload is: its bytes pinned by version and digest. `None`: it is not there any more.
pub async fn submission(context: &Context, upload: Upload, within: Millis) -> Result<Option<Submission>, Refused> {
    let Some(found) = context.blobs.pin(&upload.key, within).await? else {
        return Ok(None);
    };
    let unusable = |what: String| Refused::Never(ErrorCode::BadWitness.says(format!("{}: {what}", upload.key)));
    if found.size == 0 {
        return Err(unusable("it is empty".to_owned()));
    }
    if found.size > BLOB_LIMIT {
        return Err(unusable(format!("it has {} bytes; at most {BLOB_LIMIT} are possible", found.size)));
    }
    let witness = BlobRef { key: found.key, sha256: found.sha256, size: found.size };
    Ok(Some(upload.submission(witness)))
}

/// The submissions that lie uploaded for a block number, in the order of their keys: for those whose event was lost. What cannot be
/// submitted is reported and left out.
pub async fn find(
    context: &Context,
    chain: &ChainId,
    number: u64,
    within: Millis,
) -> Result<Vec<Submission>, PortError> {
    let mut found = Vec::new();
    for key in context.blobs.list(&Upload::prefix(chain, number), None, MOST).await? {
        let upload = match Upload::under(&key) {
            None => continue,
            Some(Ok(upload)) => submission(context, upload, within).await,
            Some(Err(bad)) => Err(bad.into()),
        };
        match upload {
            Ok(submission) => found.extend(submission),
            Err(Refused::Trouble(error)) if error.kind() != ErrorKind::Permanent => return Err(error),
            Err(refused) => {
                let reason = refused.reason();
                let code = ErrorCode::find(&reason).map(tracing::field::display);
                tracing::warn!(code, %chain, number, key, reason, "an upload cannot be submitted");
            }
        }
    }
    Ok(found)
}
