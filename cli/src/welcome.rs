//! What a worker is told when it comes: who it is here, and the provers of its pool. So a worker on another host needs an address, a token
//! and the provers' programs, and no configuration.

use std::collections::BTreeMap;
use std::time::Duration;

use push0_core::pipeline::ProverCommand;
use push0_core::{ErrorCode, Pool, Principal, ProverName};
use push0_runtime::drive::Catalog;
use push0_runtime::http::wire::{Failure, PROTOCOL};
use push0_runtime::http::{Caller, Client, Role};
use push0_runtime::port::{ErrorKind, PortError, PortResult};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::error::{Code, Trouble};

/// `GET` with `?pool=POOL`.
pub const ROUTE: &str = "/v1/welcome";

/// Between two tries to reach an owner that does not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Of the push0 that answers.
    pub version: String,
    pub protocol: u32,
    /// The token's name: the worker's id is this, or begins with it and a dash. None: any id goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Principal>,
    pub pool: Pool,
    /// What tasks of the pool want.
    pub provers: BTreeMap<ProverName, ProverCommand>,
}

impl Welcome {
    /// What a caller who would work for `pool` is told.
    pub fn of(caller: &Caller, pool: &Pool, catalog: &Catalog) -> PortResult<Self> {
        let is_its_pool = match &caller.role {
            Role::Operator => true,
            Role::Trusted => pool.is_trusted(),
            Role::Worker { pool: own } => own == pool,
        };
        if !is_its_pool {
            let own = match &caller.role {
                Role::Worker { pool } => pool.as_str(),
                Role::Trusted | Role::Operator => Pool::TRUSTED,
            };
            let name = caller.name.as_ref().map(Principal::as_str).unwrap_or_default();
            let what = format!("token {name} is of pool {own}, not of pool {pool}");
            return Err(PortError::fenced(ErrorCode::RoleForbids.says(what)));
        }
        let pools = catalog.pools();
        if !pools.contains(pool) {
            let known: Vec<&str> = pools.iter().map(Pool::as_str).collect();
            let what = format!("no pipeline there has tasks for pool {pool}; its pools: {}", known.join(", "));
            return Err(PortError::permanent(ErrorCode::BadRequest.says(what)));
        }
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL,
            name: caller.name.clone(),
            pool: pool.clone(),
            provers: provers(catalog, pool),
        })
    }
}

/// Those that the pool's stages name; the trusted pool also checks what others made.
fn provers(catalog: &Catalog, pool: &Pool) -> BTreeMap<ProverName, ProverCommand> {
    let mut provers = BTreeMap::new();
    for file in catalog.pipelines.values() {
        for (stage, policy) in file.pipeline.stages.iter().zip(&file.policy.stages) {
            let is_wanted = policy.pools().any(|own| own == pool) || (pool.is_trusted() && policy.check);
            if let Some(command) = file.provers.get(&stage.prover).filter(|_| is_wanted) {
                provers.insert(stage.prover.clone(), command.clone());
            }
        }
    }
    provers
}

/// Asks until somebody answers; says so once when nobody does.
pub async fn ask(client: &Client, address: &str, pool: &Pool) -> Result<Welcome, Trouble> {
    let mut pause = FIRST_PAUSE;
    let mut is_waiting = false;
    loop {
        match ask_once(client, pool).await {
            Ok(welcome) => {
                if is_waiting {
                    info!(address, "push0 answers");
                }
                if welcome.version != env!("CARGO_PKG_VERSION") {
                    info!(
                        there = welcome.version,
                        here = env!("CARGO_PKG_VERSION"),
                        "another version, the same protocol"
                    );
                }
                return Ok(welcome);
            }
            Err(error) if matches!(error.kind(), ErrorKind::Transient { .. }) => {
                if !std::mem::replace(&mut is_waiting, true) {
                    warn!(code = %ErrorCode::Unreachable, address, %error, "no push0 answers; trying on");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(refused(address, &error)),
        }
    }
}

async fn ask_once(client: &Client, pool: &Pool) -> PortResult<Welcome> {
    let request = client.request(reqwest::Method::GET, ROUTE).query(&[("pool", pool.as_str())]);
    answer_of(request.timeout(Duration::from_secs(10))).await
}

/// The JSON that one of the owner's own routes answers.
pub async fn answer_of<T: serde::de::DeserializeOwned>(request: reqwest::RequestBuilder) -> PortResult<T> {
    let network = |error: reqwest::Error| PortError::transient(chain(&error));
    let response = request.send().await.map_err(network)?;
    let status = response.status();
    let body = response.bytes().await.map_err(network)?;
    if status.is_success() {
        let unreadable =
            |error| PortError::permanent(ErrorCode::OtherVersion.says(format!("an answer of another form: {error}")));
        return serde_json::from_slice(&body).map_err(unreadable);
    }
    match serde_json::from_slice::<Failure>(&body).map(Failure::into_error) {
        Ok(Some(error)) => Err(error),
        _ if status == reqwest::StatusCode::NOT_FOUND => {
            Err(PortError::permanent(ErrorCode::OtherVersion.says("it does not know this request")))
        }
        _ => Err(PortError::transient(format!("the answer is {status}"))),
    }
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn refused(address: &str, error: &PortError) -> Trouble {
    let (_, message) = ErrorCode::split(error.message());
    let page = error.code();
    let (code, next) = match page {
        ErrorCode::TokenRefused => (
            Code::Failed,
            "give the token with --token-file FILE; `push0 token new` on the owner's host makes one, and its [[token]] table goes into the push0.toml there",
        ),
        ErrorCode::RoleForbids => (Code::Failed, "use --pool with the token's pool, or a token of that pool"),
        ErrorCode::OtherVersion => (Code::Failed, "run the same version of push0 here and there: `push0 --version`"),
        _ => (Code::Usage, "compare --pool with the pools in the pipelines of the push0 there"),
    };
    Trouble::new(code, format!("the push0 at {address} does not take this worker: {message}")).next(next).coded(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let file = push0_core::pipeline::parse(crate::init::ECHO).unwrap();
        Catalog { pipelines: [(file.pipeline.digest(), file)].into(), ..Catalog::default() }
    }

    fn caller(role: Role) -> Caller {
        Caller { name: Some("rack1".parse().unwrap()), role, is_local: false }
    }

    #[test]
    fn a_worker_is_told_its_name_and_its_pools_provers() {
        let pool: Pool = "cpu".parse().unwrap();
        let welcome = Welcome::of(&caller(Role::Worker { pool: pool.clone() }), &pool, &catalog()).unwrap();
        assert_eq!(welcome.name, Some("rack1".parse().unwrap()));
        assert_eq!(welcome.provers.len(), 1);
        let trusted = Welcome::of(&caller(Role::Trusted), &Pool::trusted(), &catalog()).unwrap();
        assert_eq!(trusted.provers.len(), 1);
    }

    #[test]
    fn another_pool_than_the_tokens_is_refused_and_one_that_nobody_uses_too() {
        let (cpu, gpu): (Pool, Pool) = ("cpu".parse().unwrap(), "gpu".parse().unwrap());
        let error = Welcome::of(&caller(Role::Worker { pool: gpu.clone() }), &cpu, &catalog()).unwrap_err();
        assert!(error.message().contains("P0-303") && error.message().contains("gpu"), "{error}");
        assert!(Welcome::of(&caller(Role::Trusted), &cpu, &catalog()).is_err());
        let error = Welcome::of(&caller(Role::Operator), &gpu, &catalog()).unwrap_err();
        assert!(error.message().contains("its pools: cpu"), "{error}");
    }
}
