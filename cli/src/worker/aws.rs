//! A worker of an installation in an AWS account: SQS, S3, and the EC2 instance it runs on.

use std::path::Path;
use std::sync::Arc;

use push0_core::topology::Topology;
use push0_core::{Class, ErrorCode, Millis, Pool};
use push0_gpu_worker::Limits;
use push0_gpu_worker::ec2::{AutoScaling, Group, Instance, LifecycleHooks, NoGroup, Rules, self_tests};
use push0_runtime::aws::{Connection, InstanceMetadata, S3Blobs, Sqs, http_client};
use push0_runtime::port::{Clock as _, Imds, PortResult, SystemClock};
use push0_runtime::settings::Ec2Mode;
use tracing::warn;

use super::{Backend, Here};
use crate::error::Trouble;
use crate::settings::Settings;

/// Between two tries of what must be known before anything else.
const AGAIN: Millis = Millis(2_000);

/// The tag in which a group leaves its name on its instances.
const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// The account's queues and blobs; the lease thread has connections of its own, that nothing else can starve.
pub(super) async fn backend(settings: &Settings, pool: &Pool) -> Backend {
    let topology = Topology::built_in();
    let (connection, own) = (connection(settings, pool).await, connection(settings, pool).await);
    let sqs = Sqs::new(&connection);
    let ending = sqs.clone();
    Backend {
        poll: Limits::poll_on_sqs(Class::ALL.len()),
        polls_ended: Box::pin(async move { ending.polls_ended().await }),
        lease_client: (Arc::new(sqs.over(&own)), Arc::new(S3Blobs::new(&own, &topology))),
        queue: Arc::new(sqs),
        blobs: Arc::new(S3Blobs::new(&connection, &topology)),
    }
}

/// A connection of its own, as a worker of the pool.
async fn connection(settings: &Settings, pool: &Pool) -> Connection {
    Connection::new(settings.aws.clone()).await.acting_as(&format!("worker/{pool}"))
}

/// The instance this is, where it is to be heeded. Waits for its metadata for as long as they cannot be read: who does not know its
/// instance takes no work on it.
pub(super) async fn here(settings: &Settings, pool: &Pool, on_aws: bool) -> anyhow::Result<Option<Here>> {
    let is_heeded = match settings.ec2.mode {
        Ec2Mode::On => true,
        Ec2Mode::Off => false,
        Ec2Mode::Auto => on_aws && is_ec2(),
    };
    if !is_heeded {
        return Ok(None);
    }
    let http = http_client();
    let imds = InstanceMetadata::new(http, None).map_err(|error| Trouble::failed(error.to_string()))?;
    let Some(id) = known(|| imds.instance_id()).await else {
        return Err(Trouble::failed("there are instance metadata here, but no instance id among them")
            .next("is this an EC2 instance? --ec2 off works without one")
            .coded(ErrorCode::MetadataUnreadable)
            .into());
    };
    let group = match &settings.ec2.group {
        Some(group) => Some(group.clone()),
        None => known(|| imds.tag(GROUP_TAG)).await,
    };
    let hooks: Arc<dyn LifecycleHooks> = match &group {
        Some(name) => {
            let connection = connection(settings, pool).await;
            let group = Group {
                name: name.clone(),
                instance: id.clone(),
                launch_hook: settings.ec2.launch_hook.clone(),
                termination_hook: settings.ec2.termination_hook.clone(),
            };
            Arc::new(AutoScaling::new(&connection, group))
        }
        None => {
            if known(|| imds.target_state()).await.is_some() {
                let what = "the instance belongs to an Auto Scaling group whose name is not known here: its lifecycle hooks are not answered. Set [ec2] group, or allow tags in its metadata";
                warn!(code = %ErrorCode::HookNotCompleted, "{what}");
            }
            Arc::new(NoGroup)
        }
    };
    let rules = Rules {
        has_group: group.is_some(),
        leaves_on_rebalance: settings.ec2.leaves_on_rebalance,
        drain: settings.ec2.drain,
        ..Rules::default()
    };
    let self_tests = self_tests(settings.catalog.pipelines.values(), pool);
    Ok(Some(Here { id, instance: Instance { imds: Arc::new(imds), hooks, self_tests, rules } }))
}

/// What the metadata say, as soon as they say anything.
async fn known<T, F>(read: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = PortResult<Option<T>>>,
{
    let mut is_told = false;
    loop {
        match read().await {
            Ok(answer) => return answer,
            Err(error) => {
                if !is_told {
                    warn!(code = %ErrorCode::MetadataUnreadable, %error, "waiting for the instance metadata: no work is taken");
                    is_told = true;
                }
            }
        }
        SystemClock.sleep_until(SystemClock.now().plus(AGAIN)).await;
    }
}

/// Whether this machine says of itself that it is one of EC2's. Asks nobody, so that it takes no time elsewhere.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html>
fn is_ec2() -> bool {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("AWS_EC2_METADATA_DISABLED").eq_ignore_ascii_case("true") {
        return false;
    }
    !variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").is_empty() || machine_is_ec2(Path::new("/sys"))
}

fn machine_is_ec2(sys: &Path) -> bool {
    let begins = |file: &str, with: &str| {
        std::fs::read_to_string(sys.join(file)).is_ok_and(|text| text.to_ascii_lowercase().starts_with(with))
    };
    // Nitro's instance id; Xen's UUID.
    begins("devices/virtual/dmi/id/board_asset_tag", "i-") || begins("hypervisor/uuid", "ec2")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_ec2_s_where_its_own_files_say_so() {
        let cases = [
            ("devices/virtual/dmi/id/board_asset_tag", "i-0af01c0123456789a\n", true),
            ("devices/virtual/dmi/id/board_asset_tag", "Not Specified\n", false),
            ("hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n", true),
            ("hypervisor/uuid", "4a0e1916-9099-7caf-fd21-012345abcdef\n", false),
            ("something/else", "i-0af01c0123456789a\n", false),
        ];
        for (file, text, wanted) in cases {
            let sys = tempfile::tempdir().unwrap();
            let path = sys.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            assert_eq!(machine_is_ec2(sys.path()), wanted, "{file}: {text}");
        }
    }
}
