//! Reaching a running `up`: its address, its ports, and what it has configured.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use push0_core::chain::ChainConfig;
use push0_core::pipeline::ProverCommand;
use push0_core::{ChainId, ErrorCode, ProverName};
use push0_runtime::drive::{Catalog, Context};
use push0_runtime::http::{Client, ClientConfig, Introduction, WorkerHere};
use push0_runtime::port::{Blobs, DeadLetters, ErrorKind, PortError, Queue, SystemClock, Table};

use crate::error::{Code, Trouble};
use crate::notice::Notice;
use crate::settings;

/// How long somebody at a keyboard waits for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The address of an installation in an AWS account.
pub const AWS: &str = "aws";

/// Where to look for `up`.
#[derive(Debug, Clone, Default)]
pub struct Where {
    /// `unix:/path`, `http://host:port`, or `aws`.
    pub connect: Option<String>,
    pub token: Option<String>,
    /// The file with the token.
    pub token_file: Option<PathBuf>,
    /// The data directory whose socket is meant otherwise.
    pub data: Option<PathBuf>,
}

impl Where {
    pub fn unix(socket: &Path) -> Self {
        Self { connect: Some(format!("unix:{}", socket.display())), ..Self::default() }
    }

    pub fn address(&self) -> String {
        self.connect.clone().unwrap_or_else(|| {
            let socket = settings::socket(&settings::data_directory(self.data.as_deref()));
            format!("unix:{}", std::path::absolute(&socket).unwrap_or(socket).display())
        })
    }

    /// A client that has not tried to connect yet.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.client_with(ClientConfig::new(self.address()))
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = self.token_file.as_ref().filter(|_| self.token.is_none()) else {
            return Ok(self.token.clone());
        };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let token = text.trim();
                let is_one = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_one {
                    let what = if token.is_empty() { "is empty" } else { "holds more than one word" };
                    return Err(Trouble::usage(format!("the token file {} {what}", path.display()))
                        .next("a token file is one line, as `push0 token new` writes it: was it wrapped when it was copied?")
                        .coded(ErrorCode::FileUnusable)
                        .into());
                }
                Ok(Some(token.to_owned()))
            }
            Err(error) => Err(Trouble::usage(format!("cannot read the token in {}: {error}", path.display()))
                .next("name its file with --token-file; `push0 token new` on the owner's host makes one")
                .coded(ErrorCode::BadUsage)
                .into()),
        }
    }

    /// A worker's, which says who it is.
    pub fn client_of(&self, worker: Introduction) -> anyhow::Result<Client> {
        self.client_with(ClientConfig { introduction: Some(worker), ..ClientConfig::new(self.address()) })
    }

    fn client_with(&self, mut config: ClientConfig) -> anyhow::Result<Client> {
        if self.is_aws() {
            return Err(Trouble::usage("this command asks a `push0 up`, and --connect aws (or PUSH0_CONNECT) names none")
                .next("backups on AWS: point-in-time recovery of the table, versions of the bucket (docs/operations.md); tokens are not needed there")
                .coded(ErrorCode::BadUsage)
                .into());
        }
        config.token = self.token()?;
        Client::new(config).map_err(|error| {
            Trouble::usage(error.to_string())
                .next("--connect (or PUSH0_CONNECT) is unix:/path/push0.sock, http://HOST:PORT or aws")
                .coded(ErrorCode::BadUsage)
                .into()
        })
    }

    /// Whether an installation in an AWS account is meant.
    pub fn is_aws(&self) -> bool {
        self.connect.as_deref() == Some(AWS)
    }

    /// Connects and reads what is configured there.
    pub async fn open(&self) -> anyhow::Result<Remote> {
        if self.is_aws() {
            return self.open_aws().await;
        }
        let client =
            Arc::new(self.client_with(ClientConfig { timeout: PATIENCE, ..ClientConfig::new(self.address()) })?);
        let notice = Notice::read(&*client).await.map_err(|error| self.explain(&error))?;
        let Some(notice) = notice else {
            return Err(Trouble::failed(format!("the push0 at {} has said nothing of itself", self.address()))
                .next("is it of another version than this one? compare `push0 --version`")
                .coded(ErrorCode::OtherVersion)
                .into());
        };
        let catalog = notice.catalog();
        Ok(Remote {
            queue: client.clone(),
            table: client.clone(),
            blobs: client.clone(),
            letters: client.clone(),
            client: Some(client),
            address: self.address(),
            notice,
            catalog,
        })
    }

    #[cfg(not(feature = "aws"))]
    async fn open_aws(&self) -> anyhow::Result<Remote> {
        Err(Trouble::without_aws("--connect aws").into())
    }

    /// There is nobody to ask what is configured: the installation's own `push0.toml` says it.
    #[cfg(feature = "aws")]
    async fn open_aws(&self) -> anyhow::Result<Remote> {
        let settings = settings::Settings::read(&settings::Sources::new(None))
            .map_err(|mistakes| Trouble::of_mistakes(&mistakes))?;
        let connection = push0_runtime::aws::Connection::new(settings.aws.clone()).await;
        Ok(Remote::of_aws(&settings, &connection))
    }

    pub(crate) fn explain(&self, error: &PortError) -> Trouble {
        let address = self.address();
        let (_, message) = ErrorCode::split(error.message());
        match error.kind() {
            _ if error.code() == ErrorCode::OtherVersion => Trouble::of_port(format!("at {address}"), error),
            ErrorKind::Transient { .. } => Trouble::new(
                Code::Unreachable,
                format!("no push0 answers at {address} ({message})"),
            )
            .next(if error.may_have_happened() {
                "somebody listens there and does not answer: is it frozen (`ps -o pid,stat`: T; then `kill -CONT PID`), or the \
                 machine overloaded? `push0 doctor` looks"
            } else {
                "start it with `push0 up`, or say where it is with --data DIR or --connect unix:/path|http://host:port"
            })
            .coded(ErrorCode::Unreachable),
            ErrorKind::Fenced => {
                Trouble::failed(format!("the push0 at {address} does not let this command in: {message}"))
                    .next("use --token-file (or PUSH0_TOKEN_FILE) with an operator's token")
                    .coded(error.code())
            }
            ErrorKind::Conflict | ErrorKind::Permanent | ErrorKind::Corrupt => {
                Trouble::of_port(format!("the push0 at {address} cannot answer"), error)
            }
        }
    }
}

/// A running `up`, or an installation in an AWS account.
#[derive(Clone)]
pub struct Remote {
    /// To an `up`; AWS has nobody who could say who is here.
    client: Option<Arc<Client>>,
    pub queue: Arc<dyn Queue>,
    pub table: Arc<dyn Table>,
    pub blobs: Arc<dyn Blobs>,
    pub letters: Arc<dyn DeadLetters>,
    pub address: String,
    pub notice: Notice,
    pub catalog: Catalog,
}

impl Remote {
    /// The installation that `settings` names. Nothing is asked of it yet.
    #[cfg(feature = "aws")]
    pub(crate) fn of_aws(settings: &settings::Settings, connection: &push0_runtime::aws::Connection) -> Self {
        use push0_core::topology::Topology;
        use push0_runtime::aws::{Dynamo, S3Blobs, Sqs};
        use push0_runtime::port::Clock as _;

        let topology = Topology::built_in();
        let queue = Arc::new(Sqs::new(connection));
        let queues = topology.expanded_queues(&settings.catalog.pools()).into_iter().map(|queue| queue.name).collect();
        let place = settings.aws.endpoint.clone().unwrap_or_else(|| "AWS".to_owned());
        Self {
            queue: queue.clone(),
            table: Arc::new(Dynamo::new(connection)),
            blobs: Arc::new(S3Blobs::new(connection, &topology)),
            letters: queue,
            client: None,
            address: format!("{} at {place}", settings.aws.prefix),
            notice: Notice::new(&settings.catalog, queues, settings.retention, SystemClock.now()),
            catalog: settings.catalog.clone(),
        }
    }

    /// The ports as the drive loops take them, for what only reads.
    pub fn context(&self) -> Context {
        let catalog = Arc::new(self.catalog.clone());
        Context::new(self.queue.clone(), self.table.clone(), self.blobs.clone(), Arc::new(SystemClock), catalog)
    }

    /// Whether it is an installation in an AWS account.
    pub fn is_aws(&self) -> bool {
        self.client.is_none()
    }

    /// Who works for it; none where nobody can say.
    pub async fn workers(&self) -> Option<Vec<WorkerHere>> {
        self.client.as_ref()?.workers().await.ok()
    }

    /// How a prover of the pipeline with this tag is started: as the pipeline says where it is still configured, else as another
    /// configured pipeline says of a prover of the same name.
    pub fn prover(&self, tag: &str, name: &ProverName) -> Option<&ProverCommand> {
        let pipelines = &self.catalog.pipelines;
        let own = pipelines.iter().find(|(digest, _)| digest.tag() == tag).map(|(_, file)| file);
        own.into_iter().chain(pipelines.values()).find_map(|file| file.provers.get(name))
    }

    pub fn chain(&self, id: &ChainId) -> anyhow::Result<&ChainConfig> {
        self.catalog.chains.get(id).ok_or_else(|| {
            let known: Vec<String> = self.catalog.chains.keys().map(ToString::to_string).collect();
            Trouble::absent(format!("chain {id} is not configured there"))
                .next(format!("it has: {}; or add a [[chain]] to push0.toml and restart `push0 up`", known.join(", ")))
                .coded(ErrorCode::UnknownChain)
                .into()
        })
    }
}
