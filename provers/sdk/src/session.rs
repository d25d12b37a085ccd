//! The session form: one line of JSON a message, on stdin and stdout.
//!
//! A thread of its own reads the worker's lines, so that a `cancel` reaches the running task at once; tasks run one
//! after another on the calling thread. What the worker says is checked strictly: a line that is too long or is not
//! a message ends the session, since nothing after it can be trusted to line up.

use std::any::Any;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::wire::{FromProver, Task, ToProver};
use crate::{Ctx, Failure, Prover};

/// Longest line a session accepts, without its newline. A queue message is at most 64 KiB; this is far above.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Longest message in an answer, in bytes (the limit on error text in a queue message).
const MAX_MESSAGE_BYTES: usize = 4096;

/// Why a session ended before its input did.
#[derive(Debug)]
pub enum SessionError {
    /// A line of the worker was longer than [`MAX_LINE_BYTES`].
    LineTooLong,
    /// A line was not a message of the protocol: its number (from 1) and what is wrong with it.
    NotAMessage(u64, String),
    /// stdin or stdout failed.
    Io(io::Error),
}

impl std::fmt::Display for SessionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LineTooLong => write!(f, "a line on stdin is longer than {MAX_LINE_BYTES} bytes"),
            Self::NotAMessage(line, why) => {
                write!(f, "line {line} on stdin is not a message of the prover protocol: {why}")
            }
            Self::Io(error) => write!(f, "the session's stdin or stdout failed: {error}"),
        }
    }
}

impl std::error::Error for SessionError {}

/// What the reading thread hands to the running one.
#[allow(clippy::large_enum_variant, reason = "one message at a time, on its way through: none is kept")]
enum Event {
    Task(Task, Arc<AtomicBool>),
    End(Result<(), SessionError>),
}

/// Runs a session on stdin and stdout until stdin ends.
///
/// The end of stdin ends the **process**, also in the middle of a task: the worker that would have read the answer
/// is gone. A broken line does too, with a message on stderr and exit code 2.
pub fn serve(prover: impl Prover) -> ExitCode {
    let quit = |end: &Result<(), SessionError>| std::process::exit(i32::from(exit_code(end)));
    let end = run_session(prover, BufReader::new(io::stdin()), io::stdout(), quit);
    ExitCode::from(exit_code(&end))
}

/// Runs a session over any reader and writer; returns when the input has ended and the tasks it held are answered.
pub fn serve_on(
    prover: impl Prover,
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), SessionError> {
    run_session(prover, input, output, |_| {})
}

fn exit_code(end: &Result<(), SessionError>) -> u8 {
    match end {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("prover session: {error}");
            2
        }
    }
}

/// `on_end` runs on the reading thread as soon as the input ends, even while a task runs.
fn run_session(
    mut prover: impl Prover,
    input: impl BufRead + Send + 'static,
    output: impl Write + Send + 'static,
    on_end: impl FnOnce(&Result<(), SessionError>) + Send + 'static,
) -> Result<(), SessionError> {
    let output = Arc::new(Mutex::new(output));
    send(&output, &FromProver::Hello(prover.hello())).map_err(SessionError::Io)?;

    let (events, inbox) = channel();
    std::thread::spawn(move || {
        let end = read_lines(input, &events);
        on_end(&end);
        // The other side is gone only if stdout failed, and then the session is over anyway.
        let _ = events.send(Event::End(end));
    });

    for event in inbox {
        match event {
            Event::Task(task, cancelled) => answer(&mut prover, &task, cancelled, &output).map_err(SessionError::Io)?,
            Event::End(end) => return end,
        }
    }
    Ok(())
}

fn answer(
    prover: &mut impl Prover,
    task: &Task,
    cancelled: Arc<AtomicBool>,
    output: &Arc<Mutex<impl Write + Send + 'static>>,
) -> io::Result<()> {
    let id = task.id.clone();
    let reporter = Arc::clone(output);
    let ctx = Ctx::new(cancelled, move |fraction, message| {
        let message = message.map(|text| clip(text.to_owned()));
        // A worker that no longer listens is noticed when the answer is sent.
        let _ = send(&reporter, &FromProver::Progress { id: id.clone(), fraction, message });
    });
    let answer = match run_caught(prover, task, &ctx) {
        Ok(result) => FromProver::Done { id: task.id.clone(), result },
        Err(mut failure) => {
            failure.message = clip(failure.message);
            FromProver::Failed { id: task.id.clone(), failure }
        }
    };
    send(output, &answer)
}

/// Runs a task; a panic is a retryable failure: it may be the machine's, and the collector counts attempts.
pub(crate) fn run_caught(prover: &mut impl Prover, task: &Task, ctx: &Ctx) -> Result<crate::TaskResult, Failure> {
    let run = || if task.check { prover.check(task, ctx) } else { prover.run(task, ctx) };
    catch_unwind(AssertUnwindSafe(run))
        .unwrap_or_else(|panic| Err(Failure::retryable(format!("the prover panicked: {}", panic_text(&*panic)))))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Cuts a text to [`MAX_MESSAGE_BYTES`] at a character's boundary.
fn clip(mut text: String) -> String {
    if text.len() > MAX_MESSAGE_BYTES {
        let end = (0..=MAX_MESSAGE_BYTES).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Writes one message as one line, in one write, and flushes it.
fn send(output: &Mutex<impl Write>, message: &FromProver) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(&line)?;
    output.flush()
}

fn read_lines(mut input: impl BufRead, events: &Sender<Event>) -> Result<(), SessionError> {
    let mut in_hand: Option<(String, Arc<AtomicBool>)> = None;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(SessionError::Io)?;
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && line.len() > MAX_LINE_BYTES {
            return Err(SessionError::LineTooLong);
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(ToProver::Task(task)) => {
                let cancelled = Arc::new(AtomicBool::new(false));
                in_hand = Some((task.id.clone(), Arc::clone(&cancelled)));
                if events.send(Event::Task(task, cancelled)).is_err() {
                    break;
                }
            }
            // A cancel that crosses the answer names a task no longer in hand, and has nothing left to do.
            Ok(ToProver::Cancel { id }) => match &in_hand {
                Some((task, cancelled)) if *task == id => cancelled.store(true, Ordering::Relaxed),
                _ => {}
            },
            Err(error) => return Err(SessionError::NotAMessage(number, error.to_string())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{Hello, Kind, TaskResult, hello};

    struct Script;

    impl Prover for Script {
        fn hello(&self) -> Hello {
            hello("script", "0").stage("any", Kind::Map)
        }

        fn run(&mut self, task: &Task, ctx: &Ctx) -> Result<TaskResult, Failure> {
            match task.id.as_str() {
                "panic" => panic!("out of luck"),
                "permanent" => Err(Failure::permanent("x".repeat(10_000))),
                "wait" => {
                    ctx.progress(f64::NAN, "waiting");
                    let start = Instant::now();
                    while !ctx.cancelled() && start.elapsed() < Duration::from_secs(30) {
                        std::thread::yield_now();
                    }
                    ctx.check()?;
                    Ok(TaskResult::default())
                }
                _ => {
                    ctx.progress(0.5, "");
                    Ok(TaskResult::split(3, "ab".repeat(32), None))
                }
            }
        }
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn task(id: &str) -> String {
        format!(
            r#"{{"type":"task","id":"{id}","stage":"any","kind":"map","inputs":[],"output":"/o","new":1,
            "block":{{"chain":"c","number":1,"hash":"h"}}}}"#
        )
        .replace('\n', "")
            + "\n"
    }

    fn session(input: String) -> (Result<(), SessionError>, Vec<FromProver>) {
        let sink = Sink::default();
        let end = serve_on(Script, Cursor::new(input.into_bytes()), sink.clone());
        let bytes = sink.0.lock().unwrap().clone();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        (end, lines.map(|line| serde_json::from_slice(line).unwrap()).collect())
    }

    #[test]
    fn hello_comes_first_then_each_task_is_answered() {
        let (end, said) = session(task("a") + "\n" + &task("b"));
        assert!(end.is_ok());
        assert!(matches!(&said[0], FromProver::Hello(hello) if hello.name == "script" && hello.protocol == 1));
        assert!(matches!(&said[1], FromProver::Progress { id, fraction: Some(_), message: None } if id == "a"));
        assert!(matches!(&said[2], FromProver::Done { id, result } if id == "a" && result.segments == Some(3)));
        assert!(matches!(&said[4], FromProver::Done { id, .. } if id == "b"));
        assert_eq!(said.len(), 5);
    }

    #[test]
    fn a_panic_is_a_retryable_failure_and_the_session_goes_on() {
        let (end, said) = session(task("panic") + &task("permanent") + &task("a"));
        assert!(end.is_ok());
        let FromProver::Failed { failure, .. } = &said[1] else { panic!("{said:?}") };
        assert_eq!(failure.kind, crate::FailureKind::Retryable);
        assert!(failure.message.contains("out of luck"), "{}", failure.message);
        let FromProver::Failed { failure, .. } = &said[2] else { panic!("{said:?}") };
        assert_eq!((failure.kind, failure.message.len()), (crate::FailureKind::Permanent, MAX_MESSAGE_BYTES));
        assert!(matches!(said.last(), Some(FromProver::Done { .. })));
    }

    #[test]
    fn cancel_reaches_the_running_task_and_no_other() {
        let (end, said) = session(
            task("wait") + r#"{"type":"cancel","id":"other"}"# + "\n" + r#"{"type":"cancel","id":"wait"}"# + "\n",
        );
        assert!(end.is_ok());
        assert!(matches!(&said[1], FromProver::Progress { fraction: None, message: Some(_), .. }));
        assert!(matches!(&said[2], FromProver::Failed { failure, .. } if failure.message == "cancelled"));
    }

    #[test]
    fn garbled_unknown_and_oversized_lines_end_the_session() {
        for bad in ["{not json}\n".to_owned(), r#"{"type":"dance"}"#.to_owned()] {
            let (end, said) = session(task("a") + &bad);
            assert!(matches!(end, Err(SessionError::NotAMessage(2, _))), "{end:?}");
            assert_eq!(said.len(), 3, "the task before it is answered");
        }
        let (end, _) = session("x".repeat(MAX_LINE_BYTES + 1));
        assert!(matches!(end, Err(SessionError::LineTooLong)), "{end:?}");
    }
}
