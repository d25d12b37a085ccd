//! `push0 backup` and `push0 restore`.

use std::path::Path;

use push0_core::ErrorCode;
use push0_runtime::engine::{self, Backup};
use push0_runtime::port::PortError;
use serde::Serialize;

use crate::connect::Where;
use crate::error::Trouble;
use crate::output::Output;
use crate::{args, settings};

pub async fn back_up(args: &args::Backup, location: &Where, output: Output) -> anyhow::Result<()> {
    let to = std::path::absolute(&args.dir)?;
    let (backup, did) = if args.verify {
        (engine::verify_backup(&to).map_err(|error| explain("checking", &error))?, "is whole")
    } else {
        (make(&to, location).await?, "made")
    };
    let shown = Shown { directory: to.display().to_string(), backup };
    output.show(&shown, || shown.text(did));
    let damaged = &shown.backup.damaged;
    if damaged.is_empty() || args.verify {
        return Ok(());
    }
    let what =
        format!("{} blobs were damaged already, and are so in the backup: {}", damaged.len(), damaged.join(", "));
    Err(Trouble::failed(what)
        .next("`push0 verify CHAIN` says whether finalized proofs are among them; what is still being proven is proven again")
        .coded(ErrorCode::BlobDamaged)
        .into())
}

async fn make(to: &Path, location: &Where) -> Result<Backup, Trouble> {
    let client = location.client().map_err(|error| Trouble::usage(error.to_string()))?;
    let data = settings::data_directory(location.data.as_deref());
    match client.back_up(to).await {
        Ok(backup) => Ok(backup),
        // Nobody runs there: then nobody is in the way.
        Err(error) if error.code() == ErrorCode::Unreachable && location.connect.is_none() && data.exists() => {
            engine::back_up_stopped(&data, to).map_err(|error| explain("making", &error))
        }
        Err(error) => Err(explain("making", &error)),
    }
}

pub fn restore(args: &args::Restore, location: &Where, output: Output) -> anyhow::Result<()> {
    let data = settings::data_directory(location.data.as_deref());
    let backup = engine::restore(&args.backup, &data).map_err(|error| explain("restoring", &error))?;
    let shown = Shown { directory: data.display().to_string(), backup };
    output.show(&shown, || shown.text("restored"));
    output.note(&format!(
        "next: `push0 up --data {}`, then submit again what was submitted after the backup was made",
        data.display()
    ));
    Ok(())
}

fn explain(doing: &str, error: &PortError) -> Trouble {
    let trouble = Trouble::of_port(format!("{doing} a backup"), error);
    match error.code() {
        ErrorCode::FileExists => trouble.next("name a directory that is empty or not there yet"),
        ErrorCode::BadBackup => trouble.next("use another backup; `push0 backup DIR --verify` checks one"),
        ErrorCode::DataInUse => trouble.next("stop the push0 that runs on that directory, or name another with --data"),
        ErrorCode::Unreachable => trouble.next("start `push0 up`, or name the stopped data directory with --data DIR"),
        _ => trouble,
    }
}

#[derive(Serialize)]
struct Shown {
    directory: String,
    #[serde(flatten)]
    backup: Backup,
}

impl Shown {
    fn text(&self, did: &str) -> String {
        let Backup { push0, schema, blobs, blob_bytes, database_bytes, damaged, .. } = &self.backup;
        let mut text = format!(
            "{}: {did}\n  by push0 {push0}, schema {schema}\n  {blobs} blobs, {blob_bytes} bytes; database {database_bytes} bytes",
            self.directory
        );
        if !damaged.is_empty() {
            text.push_str(&format!(
                "\n  {} blobs were damaged when it was made: {}",
                damaged.len(),
                damaged.join(", ")
            ));
        }
        text
    }
}
