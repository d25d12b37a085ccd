//! `push0 get`, and blobs checked against what pins them.

use std::path::Path;

use push0_core::ErrorCode;
use push0_core::record::BlobRef;

use crate::args;
use crate::connect::Remote;
use crate::error::Trouble;
use crate::output::Output;

pub async fn get(args: &args::Get, remote: &Remote, output: Output) -> anyhow::Result<()> {
    let missing = || {
        Trouble::absent(format!("there is no blob {}", args.key))
            .next("`push0 block CHAIN NUMBER` names the blobs of a block")
            .coded(ErrorCode::UnknownBlob)
    };
    if args.output.as_os_str() == "-" {
        let bytes = remote.blobs.get(&args.key).await?.ok_or_else(missing)?;
        use std::io::Write as _;
        std::io::stdout().lock().write_all(&bytes)?;
        return Ok(());
    }
    if args.output.exists() {
        return Err(Trouble::usage(format!("{} is there already", args.output.display()))
            .next("name another file with -o")
            .coded(ErrorCode::FileExists)
            .into());
    }
    let info = remote.blobs.get_file(&args.key, &args.output).await?.ok_or_else(missing)?;
    output.show(&info, || format!("{}  {} bytes  sha256 {}", args.output.display(), info.size, info.sha256));
    Ok(())
}

/// Fetches a blob into a new file; an error if its bytes are not the pinned ones.
pub async fn fetch(remote: &Remote, blob: &BlobRef, path: &Path) -> Result<(), Trouble> {
    let what = |problem: String| {
        Trouble::failed(format!("blob {}: {problem}", blob.key))
            .next("keep the data directory as it is: a final block's blobs are never removed")
            .coded(ErrorCode::BlobDamaged)
    };
    let info = remote.blobs.get_file(&blob.key, path).await;
    let info = info.map_err(|error| Trouble::of_port(format!("blob {}", blob.key), &error))?;
    let info = info.ok_or_else(|| what("it is missing".to_owned()))?;
    if info.sha256 != blob.sha256 || info.size != blob.size {
        return Err(what(format!(
            "it has SHA-256 {} and {} bytes, not {} and {}",
            info.sha256, info.size, blob.sha256, blob.size
        )));
    }
    Ok(())
}
