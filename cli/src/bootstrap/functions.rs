//! Lambda functions: code, settings, environment.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{
    Architecture, Environment, FunctionCode, FunctionConfiguration, LastUpdateStatus, Runtime, State,
};
use push0_core::ErrorCode;

use super::package::Package;
use super::place::Place;
use super::site::{Site, trouble};
use crate::error::{Code, Trouble};

/// How long a function may be in the making.
const PATIENCE: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(200);

/// Lambda's limit for an archive that comes with the request; larger ones come from a bucket.
const LARGEST: usize = 50 << 20;

/// What a custom runtime does not look at, and AWS wants.
const HANDLER: &str = "bootstrap";

/// Creates the function, or makes it what it should be. `inside` is the endpoint as functions reach it.
pub(super) async fn ensure(
    site: &mut Site,
    package: &Package<'_>,
    role: Option<&str>,
    inside: Option<&str>,
) -> Result<(), Trouble> {
    let client = site.lambda();
    let name = site.place.name(&package.function.name);
    let at = format!("function {name}");
    if !site.place.is_emulator() && package.archive.len() > LARGEST {
        let what = format!("{at}: its archive has {} MiB, Lambda takes 50", package.archive.len() >> 20);
        return Err(Trouble::usage(what).next("build it for release: just package").coded(ErrorCode::FileUnusable));
    }
    let mut environment = package.environment.clone();
    if let Some(endpoint) = inside {
        environment.insert("PUSH0_AWS_ENDPOINT".to_owned(), endpoint.to_owned());
    }
    match look(&client, &name, &at).await? {
        None => {
            if site.ledger.mends() {
                let role = role_for_new(&site.place, package, role)?;
                create(&client, &name, &at, package, &role, environment).await?;
            }
            site.ledger.created(&at);
        }
        Some(function) => {
            mend_code(site, &client, &name, &at, package, &function).await?;
            mend_settings(site, &client, &name, &at, package, role, environment, &function).await?;
        }
    }
    Ok(())
}

async fn look(client: &Client, name: &str, at: &str) -> Result<Option<FunctionConfiguration>, Trouble> {
    match client.get_function().function_name(name).send().await {
        Ok(answer) => Ok(answer.configuration),
        Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => Ok(None),
        Err(error) => Err(trouble(at, "GetFunction", &error)),
    }
}

fn role_for_new(place: &Place, package: &Package<'_>, role: Option<&str>) -> Result<String, Trouble> {
    match role {
        Some(role) => Ok(role.to_owned()),
        None if place.is_emulator() => Ok(place.some_role(&package.function.name)),
        None => Err(Trouble::usage(format!("function {} needs a role", place.name(&package.function.name)))
            .next("name one with --role ARN; push0 makes no roles")
            .coded(ErrorCode::BadUsage)),
    }
}

async fn create(
    client: &Client,
    name: &str,
    at: &str,
    package: &Package<'_>,
    role: &str,
    environment: BTreeMap<String, String>,
) -> Result<(), Trouble> {
    let spec = package.function;
    let call = client
        .create_function()
        .function_name(name)
        .runtime(Runtime::Providedal2023)
        .handler(HANDLER)
        .role(role)
        .architectures(package.architecture.clone())
        .timeout(whole(spec.timeout_s))
        .memory_size(whole(spec.memory_mib))
        .environment(as_environment(environment))
        .code(FunctionCode::builder().zip_file(Blob::new(package.archive.clone())).build());
    call.send().await.map_err(|error| trouble(at, "CreateFunction", &error))?;
    settled(client, name, at).await
}

/// Lambda refuses a change while another one is under way.
async fn settled(client: &Client, name: &str, at: &str) -> Result<(), Trouble> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let function = look(client, name, at).await?;
        let state = function.as_ref().and_then(|function| function.state.clone());
        let update = function.as_ref().and_then(|function| function.last_update_status.clone());
        let reason = |text: Option<&str>| {
            let what = format!("{at}: {}", text.unwrap_or("Lambda could not make it, and does not say why"));
            Err(Trouble::failed(what).coded(ErrorCode::DeploymentDiffers))
        };
        match (state, update) {
            (Some(State::Failed), _) => return reason(function.as_ref().and_then(|function| function.state_reason())),
            (_, Some(LastUpdateStatus::Failed)) => {
                return reason(function.as_ref().and_then(|function| function.last_update_status_reason()));
            }
            (Some(State::Pending), _) | (_, Some(LastUpdateStatus::InProgress)) => {}
            _ => return Ok(()),
        }
        if tokio::time::Instant::now() > until {
            let what = format!("{at} is not usable after {} s", PATIENCE.as_secs());
            return Err(Trouble::new(Code::Timeout, what).next("run it again").coded(ErrorCode::NotInTime));
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

async fn mend_code(
    site: &mut Site,
    client: &Client,
    name: &str,
    at: &str,
    package: &Package<'_>,
    function: &FunctionConfiguration,
) -> Result<(), Trouble> {
    let architectures = |list: &[Architecture]| list.iter().map(Architecture::as_str).collect::<Vec<_>>().join(", ");
    let pairs = [
        ("code", function.code_sha256().map(str::to_owned), package.sha256.clone()),
        (
            "architecture",
            Some(architectures(function.architectures())),
            architectures(std::slice::from_ref(&package.architecture)),
        ),
    ];
    let differing: Vec<_> = pairs.into_iter().filter(|(_, is, should)| is.as_ref() != Some(should)).collect();
    if differing.is_empty() {
        return Ok(());
    }
    if site.ledger.mends() {
        let archive = Blob::new(package.archive.clone());
        let call = client.update_function_code().function_name(name).zip_file(archive);
        let update = call.architectures(package.architecture.clone()).send().await;
        update.map_err(|error| trouble(at, "UpdateFunctionCode", &error))?;
        settled(client, name, at).await?;
    }
    for (attribute, is, should) in differing {
        site.ledger.changed(at, attribute, is, should);
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "one function's everything")]
async fn mend_settings(
    site: &mut Site,
    client: &Client,
    name: &str,
    at: &str,
    package: &Package<'_>,
    role: Option<&str>,
    environment: BTreeMap<String, String>,
    function: &FunctionConfiguration,
) -> Result<(), Trouble> {
    let spec = package.function;
    let mut differing: Vec<(String, Option<String>, String)> = Vec::new();
    let mut compare = |attribute: &str, is: Option<String>, should: String| {
        if is.as_ref() != Some(&should) {
            differing.push((attribute.to_owned(), is, should));
        }
    };
    compare("runtime", function.runtime().map(|is| is.as_str().to_owned()), Runtime::Providedal2023.to_string());
    compare("timeout", function.timeout().map(|is| is.to_string()), spec.timeout_s.to_string());
    compare("memory", function.memory_size().map(|is| is.to_string()), spec.memory_mib.to_string());
    if let Some(role) = role {
        compare("role", function.role().map(str::to_owned), role.to_owned());
    }
    // Variables that somebody added stay.
    let variables = function.environment().and_then(|environment| environment.variables());
    let mut wanted: BTreeMap<String, String> = variables.into_iter().flatten().map(owned).collect();
    for (variable, should) in environment {
        compare(&variable, wanted.get(&variable).cloned(), should.clone());
        wanted.insert(variable, should);
    }
    if differing.is_empty() {
        return Ok(());
    }
    if site.ledger.mends() {
        let call = client
            .update_function_configuration()
            .function_name(name)
            .runtime(Runtime::Providedal2023)
            .timeout(whole(spec.timeout_s))
            .memory_size(whole(spec.memory_mib))
            .environment(as_environment(wanted))
            .set_role(role.map(str::to_owned));
        call.send().await.map_err(|error| trouble(at, "UpdateFunctionConfiguration", &error))?;
        settled(client, name, at).await?;
    }
    for (attribute, is, should) in differing {
        site.ledger.changed(at, attribute, is, should);
    }
    Ok(())
}

fn owned((name, value): (&String, &String)) -> (String, String) {
    (name.clone(), value.clone())
}

fn as_environment(variables: BTreeMap<String, String>) -> Environment {
    let variables: HashMap<String, String> = variables.into_iter().collect();
    Environment::builder().set_variables(Some(variables)).build()
}

/// Checked by the topology's loader to be small.
fn whole(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
