//! A cold start: settings, clients and context once, then invocations until Lambda ends the process.
//!
//! The settings are those of everywhere: `PUSH0_CONFIG` names the file, which without it is `push0.toml` beside the program
//! (`LAMBDA_TASK_ROOT`), and the environment overrides it. Nothing is asked of AWS before the first event.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, Runtime, service_fn};
use push0_core::topology::Topology;
use push0_core::{ErrorCode, Millis};
use push0_runtime::aws::{self, Connection};
use push0_runtime::drive::Context;
use push0_runtime::host::Function;
use push0_runtime::metrics::{Metered, Metric};
use push0_runtime::port::{Clock as _, SystemClock};
use push0_runtime::settings::{FILE, Settings, Sources};
use tracing_subscriber::EnvFilter;

use super::{Host, Reaping};
use crate::{Collector, Dispatcher};

/// Runs a function of the topology, by its name, until Lambda ends it. What is in the way of that is said, and is an exit code.
pub fn run(name: &'static str) -> ExitCode {
    let began = SystemClock.now();
    start_log();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Error::from).and_then(|runtime| runtime.block_on(serve(name, began)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = ErrorCode::find(&error.to_string()).unwrap_or(ErrorCode::HelperFailed);
            tracing::error!(%code, function = name, %error, "the function cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn serve(name: &'static str, began: Millis) -> Result<(), Error> {
    let settings = settings()?;
    let context = context(&settings, name).await;
    let function: Arc<dyn Function> = match name {
        "dispatcher" => Arc::new(Dispatcher::new(context.clone())),
        "collector" => Arc::new(Collector::new(context.clone())),
        "reaper" => {
            started(&context, name, began);
            return serve_reaper(Reaping::new(context, settings.retention, settings.aws)).await;
        }
        _ => return Err(ErrorCode::BadUsage.says(format!("there is no function {name}")).into()),
    };
    started(&context, name, began);
    let host = Host::new(name, function, context, settings.aws);
    let handler = service_fn(async |event: LambdaEvent<SqsEvent>| {
        let answer = host.handle(event.payload, Millis(event.context.deadline)).await;
        write_lines(&host.measured());
        // An error fails the whole batch.
        answer.map_err(Error::from)
    });
    Runtime::new(handler).run().await
}

async fn serve_reaper(reaping: Reaping) -> Result<(), Error> {
    // Whatever the event is, it is time.
    let handler = service_fn(async |event: LambdaEvent<serde_json::Value>| {
        let turn = reaping.turn(Millis(event.context.deadline)).await;
        write_lines(&reaping.measured());
        Ok::<_, Error>(turn)
    });
    Runtime::new(handler).run().await
}

fn started(context: &Context, name: &str, began: Millis) {
    context.metrics.observe(Metric::ColdStart, &[name], context.clock.now().since(began).0);
}

fn settings() -> Result<Settings, Error> {
    let root = std::env::var_os("LAMBDA_TASK_ROOT").map_or_else(PathBuf::new, PathBuf::from);
    let mut sources = Sources::new(None);
    sources.file = Some(root.join(sources.file.unwrap_or_else(|| PathBuf::from(FILE))));
    Settings::read(&sources).map_err(|mistakes| ErrorCode::BadConfiguration.says(mistakes.0.join("; ")).into())
}

/// The ports on AWS, with what is sent being counted.
async fn context(settings: &Settings, name: &str) -> Context {
    let connection = Connection::new(settings.aws.clone()).await;
    let connection = connection.intercepted(aws::without_lineage(&settings.aws)).acting_as(name);
    let ports = aws::ports(&connection, &Topology::built_in());
    let catalog = Arc::new(settings.catalog.clone());
    let mut context = Context::new(ports.queue, ports.table, ports.blobs, Arc::new(SystemClock), catalog);
    context.queue = Arc::new(Metered::new(context.queue.clone(), context.metrics.clone()));
    context
}

/// Metrics go to standard output, a line each; Lambda's log takes it as it takes the log itself.
fn write_lines(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        // Nobody to tell if that fails.
        let _ = writeln!(out, "{line}");
    }
    let _ = out.flush();
}

fn start_log() {
    let filter = std::env::var("PUSH0_LOG").ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(filter.as_deref().unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_current_span(false)
        .with_span_list(false)
        .init();
}
