//! What the machine itself costs: below these no design can go that needs them.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::report::{Measure, Samples};

const FLOOR: &str = "floor";

/// Every floor once; `count` samples each.
pub async fn measure(under: &Path, count: usize) -> anyhow::Result<Vec<Measure>> {
    let mut file = tempfile::tempfile_in(under)?;
    let hop = thread_hop(count);
    Ok(vec![
        sync(&mut file, count)?.measure(FLOOR, "fdatasync of 4 KiB appended"),
        write(&mut file, count)?.measure(FLOOR, "write(2) of 4 KiB"),
        loopback(count).await?.measure(FLOOR, "TCP loopback round trip of 256 bytes, tokio tasks"),
        hop.measure(FLOOR, "hop: a thread wakes a parked thread"),
        task_hop(count).await?.measure(FLOOR, "hop: a thread wakes an idle tokio task"),
    ])
}

fn sync(file: &mut File, count: usize) -> anyhow::Result<Samples> {
    let page = [7u8; 4096];
    let mut samples = Samples::new();
    for _ in 0..count {
        let begun = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        samples.add(begun.elapsed());
    }
    Ok(samples)
}

fn write(file: &mut File, count: usize) -> anyhow::Result<Samples> {
    let page = [7u8; 4096];
    let mut samples = Samples::new();
    for _ in 0..count {
        let begun = Instant::now();
        file.write_all(&page)?;
        samples.add(begun.elapsed());
    }
    Ok(samples)
}

async fn loopback(count: usize) -> anyhow::Result<Samples> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut message = [0; 256];
        while stream.read_exact(&mut message).await.is_ok() {
            stream.write_all(&message).await?;
        }
        anyhow::Ok(())
    });
    // Both ends as tasks: a client in `block_on` would be woken by another path than a worker is.
    let asking = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut message = [0; 256];
        let mut samples = Samples::new();
        for _ in 0..count {
            let begun = Instant::now();
            stream.write_all(&message).await?;
            stream.read_exact(&mut message).await?;
            samples.add(begun.elapsed());
        }
        anyhow::Ok(samples)
    });
    let samples = asking.await??;
    echo.abort();
    Ok(samples)
}

fn thread_hop(count: usize) -> Samples {
    let (there, arrivals) = std::sync::mpsc::channel::<Instant>();
    let (back, answers) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        for sent in arrivals {
            if back.send(sent.elapsed()).is_err() {
                return;
            }
        }
    });
    let mut samples = Samples::new();
    for _ in 0..count {
        // Time to park.
        std::thread::sleep(std::time::Duration::from_micros(200));
        if there.send(Instant::now()).is_err() {
            break;
        }
        if let Ok(took) = answers.recv() {
            samples.add(took);
        }
    }
    drop(there);
    // It ends with its channel.
    let _ = other.join();
    samples
}

async fn task_hop(count: usize) -> anyhow::Result<Samples> {
    let (there, mut arrivals) = mpsc::unbounded_channel::<Instant>();
    let (back, answers) = std::sync::mpsc::channel();
    tokio::spawn(async move {
        while let Some(sent) = arrivals.recv().await {
            if back.send(sent.elapsed()).is_err() {
                return;
            }
        }
    });
    let waking = tokio::task::spawn_blocking(move || {
        let mut samples = Samples::new();
        for _ in 0..count {
            std::thread::sleep(std::time::Duration::from_micros(200));
            if there.send(Instant::now()).is_err() {
                break;
            }
            if let Ok(took) = answers.recv() {
                samples.add(took);
            }
        }
        samples
    });
    Ok(waking.await?)
}
