//! A `nats-server` of this process's own, on loopback, with its files in a directory that goes with it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::process::{Child, Command};

pub struct Server {
    _child: Child,
    pub address: String,
    _dir: tempfile::TempDir,
}

pub async fn version() -> anyhow::Result<String> {
    let said = Command::new("nats-server").arg("--version").output().await.context("there is no nats-server here")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(text.trim().trim_start_matches("nats-server:").trim().trim_start_matches('v').to_owned())
}

impl Server {
    pub async fn start(under: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("push0-bench-nats-").tempdir_in(under)?;
        // Free when it was asked for; the server fails if somebody else took it since.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut child = Command::new("nats-server")
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start nats-server")?;
        let address = format!("127.0.0.1:{port}");
        for _ in 0..200 {
            if let Some(ended) = child.try_wait()? {
                bail!("nats-server ended at once: {ended}");
            }
            if tokio::net::TcpStream::connect(&address).await.is_ok() {
                return Ok(Self { _child: child, address, _dir: dir });
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Err(anyhow!("nats-server does not listen"))
    }

    /// A connection of its own, as a process would have.
    pub async fn connect(&self) -> anyhow::Result<async_nats::jetstream::Context> {
        let client = async_nats::connect(&self.address).await?;
        Ok(async_nats::jetstream::new(client))
    }
}
