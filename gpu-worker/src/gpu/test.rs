//! Whether a device that has failed can be worked with again: NVML answers for it, the operator's command exits with 0 and the provers
//! pass their own self-tests on it, and meanwhile nothing more has happened to it.

use std::process::Stdio;
use std::sync::Arc;

use push0_core::{ErrorCode, Millis};
use push0_runtime::port::Clock;
use tracing::{info, warn};

use super::{Gpu, Rules};
use crate::ec2::{SelfTest, try_provers};
use crate::prover::{Provers, VISIBLE_DEVICES};
use crate::task::{Env, Store};

/// How long the operator's command may take.
const COMMAND: Millis = Millis(120_000);

/// Completes when the device has passed, however long that takes. The provers' sessions are ended first: they hold what was lost.
pub(crate) async fn until_passed(gpu: &mut Gpu, rules: &Rules, tests: &[SelfTest], provers: &mut Provers, env: &Env) {
    let (clock, device) = (&env.clock, Arc::clone(&gpu.device));
    let why = gpu.failure().unwrap_or_default();
    warn!(code = %ErrorCode::DeviceFailed, device = device.uuid, why, "slot out of service");
    provers.close().await;
    loop {
        clock.sleep_until(clock.now().plus(rules.again_every)).await;
        match passes(gpu, rules, tests, provers, env).await {
            Ok(failures) => {
                gpu.forgiven = failures;
                gpu.doubt = None;
                info!(device = device.uuid, "slot in service again");
                return;
            }
            Err(why) => {
                provers.close().await;
                info!(device = device.uuid, why, "device did not pass its test");
            }
        }
    }
}

/// `Ok`: the failures that are forgiven with it.
async fn passes(gpu: &Gpu, rules: &Rules, tests: &[SelfTest], provers: &mut Provers, env: &Env) -> Result<u64, String> {
    let before = answers(gpu, &*env.clock).await?;
    if let Some((program, arguments)) = rules.self_test.split_first() {
        command(program, arguments, &gpu.device.uuid, &*env.clock).await?;
    }
    if let Store::Disk(scratch) = &env.store {
        let dir = scratch.join(format!("test-of-{}", file_name(&gpu.device.uuid)));
        let tested = try_provers(tests, std::slice::from_mut(provers), &env.limits, &dir, &env.clock).await;
        let _ = std::fs::remove_dir_all(&dir);
        tested.map_err(|error| error.to_string())?;
    }
    if answers(gpu, &*env.clock).await? != before {
        return Err(format!("it failed again: {}", gpu.sight.borrow().last));
    }
    Ok(before)
}

/// The failures so far of a device that answers.
async fn answers(gpu: &Gpu, clock: &dyn Clock) -> Result<u64, String> {
    gpu.look(clock).await?;
    let sight = gpu.sight.borrow();
    if sight.answers { Ok(sight.failures) } else { Err(sight.last.clone()) }
}

async fn command(program: &str, arguments: &[String], uuid: &str, clock: &dyn Clock) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env(VISIBLE_DEVICES, uuid).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    let ended = tokio::select! {
        biased;
        ended = command.status() => ended.map_err(|error| format!("{program}: {error}"))?,
        () = clock.sleep_until(clock.now().plus(COMMAND)) => return Err(format!("{program} took more than {} ms", COMMAND.0)),
    };
    if ended.success() { Ok(()) } else { Err(format!("{program}: {ended}")) }
}

/// A UUID of a MIG device may have slashes in it.
fn file_name(uuid: &str) -> String {
    uuid.replace('/', "-")
}
