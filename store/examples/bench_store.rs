//! `cargo xtask bench store`: durable writes a second of the embedded engine beside bare redb and beside a real etcd, on
//! one disk, taking turns; and what ten thousand, a hundred thousand and a million objects cost.
//!
//! `bench_store DIR [ROUNDS [OBJECTS]]` makes everything in a directory of its own under DIR, which names the disk, and stops
//! growing at so many objects.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its figures")]

use std::error::Error;
use std::io::{Seek, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_store::{Op, Options, Retention, Store, Target};
use tokio::task::JoinSet;

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The size of a typical pod.
const VALUE_BYTES: usize = 2_100;
const WRITERS: [usize; 3] = [1, 16, 128];
/// How long each engine writes in each turn.
const TURN: Duration = Duration::from_secs(2);
const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
/// How long latencies are taken.
const LATENCY_TIME: Duration = Duration::from_secs(5);
const LATENCY_WRITERS: usize = 16;

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let first = args.next().ok_or("usage: bench_store DIR [ROUNDS [OBJECTS]]")?;
    if first == "--inspect" {
        let (dir, objects) = (args.next().ok_or("no directory")?, args.next().ok_or("no number")?.parse()?);
        return inspect(Path::new(&dir), objects).await;
    }
    let rounds = args.next().map_or(Ok(3), |text| text.parse())?;
    let objects_max = args.next().map_or(Ok(usize::MAX), |text| text.parse())?;
    let dir = tempfile::Builder::new().prefix("bench-store-").tempdir_in(first)?;
    rates(dir.path(), rounds).await?;
    growth(dir.path(), objects_max).await
}

fn options() -> Options {
    let retention = Retention { age: Duration::from_secs(86_400), revisions: u64::MAX };
    Options { retention, ..Options::default() }
}

fn value() -> Bytes {
    // Not all the same byte, so that nothing on the way can make it small.
    (0..VALUE_BYTES).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>().into()
}

/// Writes a second, each engine in turn.
async fn rates(dir: &Path, rounds: usize) -> Result<()> {
    let embedded = gantry_store::open(&Target::Embedded(dir.join("embedded")), options()).await?;
    let etcd_process = Etcd::start(&dir.join("etcd"))?;
    let etcd = etcd_process.open().await?;
    let bare = Arc::new(redb::Database::create(dir.join("bare.redb"))?);
    println!("one write of 4 KiB and its sync take {:.2} ms here (median of 100)", sync_ms(&dir.join("sync"))?);
    println!("durable writes a second of {VALUE_BYTES} bytes, median of {rounds} turns of {TURN:?} each:");
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "writers", "embedded", "bare redb", "etcd", "to redb", "to etcd"
    );
    for writers in WRITERS {
        let (mut ours, mut redbs, mut etcds) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            ours.push(store_rate(&embedded, writers, round).await?);
            redbs.push(bare_rate(Arc::clone(&bare), writers, round).await?);
            etcds.push(store_rate(&etcd, writers, round).await?);
        }
        let (ours, redbs, etcds) = (median(ours), median(redbs), median(etcds));
        let (to_redb, to_etcd) = (ours / redbs, ours / etcds);
        println!("{writers:>8} {ours:>10.0} {redbs:>10.0} {etcds:>10.0} {to_redb:>11.2}x {to_etcd:>11.2}x");
    }
    embedded.close().await?;
    etcd.close().await?;
    Ok(())
}

/// What the disk asks for one block that the file has already, in milliseconds.
fn sync_ms(file: &Path) -> Result<f64> {
    let block = [7; 4096];
    let mut file = std::fs::File::create(file)?;
    let mut taken = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        file.rewind()?;
        file.write_all(&block)?;
        file.sync_data()?;
        taken.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(taken))
}

/// New keys by so many writers, each of which waits for its own.
async fn store_rate(store: &Arc<dyn Store>, writers: usize, round: usize) -> Result<f64> {
    let written = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (store, written) = (Arc::clone(store), Arc::clone(&written));
        tasks.spawn(async move {
            let value = value();
            for i in 0.. {
                if start.elapsed() >= TURN {
                    break;
                }
                let key = format!("pods/{writers}-{round}/{writer}/{i}");
                store.txn(vec![Op::Put { key, value: value.clone(), precondition: None }]).await?;
                written.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), gantry_store::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(written.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64())
}

/// The same keys and values put straight into redb, as many to a commit as there are writers: what group commit could
/// reach at best, without history, watches or preconditions, and with a start after a crash that reads the whole file.
async fn bare_rate(db: Arc<redb::Database>, writers: usize, round: usize) -> Result<f64> {
    const TABLE: redb::TableDefinition<'static, &str, &[u8]> = redb::TableDefinition::new("bare");
    tokio::task::spawn_blocking(move || {
        let (start, value, mut written) = (Instant::now(), value(), 0u64);
        for i in 0.. {
            if start.elapsed() >= TURN {
                break;
            }
            let txn = db.begin_write()?;
            {
                let mut table = txn.open_table(TABLE)?;
                for writer in 0..writers {
                    table.insert(format!("pods/{writers}-{round}/{writer}/{i}").as_str(), &value[..])?;
                    written += 1;
                }
            }
            txn.commit()?;
        }
        Ok(written as f64 / start.elapsed().as_secs_f64())
    })
    .await?
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Fills a store to each size and has a process of its own look at it.
async fn growth(dir: &Path, objects_max: usize) -> Result<()> {
    let target = dir.join("growing");
    println!("\nas objects of {VALUE_BYTES} bytes grow in number ({LATENCY_WRITERS} writers for the latencies):");
    println!(
        "{:>9} {:>8} {:>9} {:>11} {:>9} {:>9} {:>9} {:>12} {:>6}",
        "objects", "file MB", "open ms", "crashed ms", "RSS MB", "p50 ms", "p99 ms", "compacting", "ratio"
    );
    let mut stored = 0;
    for objects in SIZES.into_iter().filter(|objects| *objects <= objects_max) {
        let store = gantry_store::open(&Target::Embedded(target.clone()), options()).await?;
        fill(&store, stored..objects).await?;
        stored = objects;
        let now = store.current_revision().await?;
        store.compact(now).await?;
        store.close().await?;
        drop(store);
        let inspected = Command::new(std::env::current_exe()?)
            .args(["--inspect".as_ref(), target.as_os_str(), objects.to_string().as_ref()])
            .stderr(Stdio::inherit())
            .output()?;
        if inspected.stdout.is_empty() {
            return Err(format!("the inspection of {objects} objects failed: {}", inspected.status).into());
        }
        // It kills itself in the end, in the middle of writing; so this start is one after a crash.
        let start = Instant::now();
        let store = gantry_store::open(&Target::Embedded(target.clone()), options()).await?;
        let crashed = start.elapsed().as_secs_f64() * 1e3;
        let size = store.status().await?.size_bytes >> 20;
        store.close().await?;
        let text = String::from_utf8(inspected.stdout)?;
        let f: Vec<f64> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [open, rss, p50, p99, compacting] = f[..] else { return Err(format!("odd figures: {text:?}").into()) };
        println!(
            "{objects:>9} {size:>8} {open:>9.1} {crashed:>11.1} {rss:>9.0} {p50:>9.2} {p99:>9.2} {compacting:>12.2} {:>6.2}",
            compacting / p99
        );
    }
    Ok(())
}

fn key(i: usize) -> String {
    format!("pods/namespace-{}/pod-{i:07}", i % 97)
}

async fn fill(store: &Arc<dyn Store>, range: std::ops::Range<usize>) -> Result<()> {
    let next = Arc::new(AtomicU64::new(range.start as u64));
    let mut tasks = JoinSet::new();
    for _ in 0..256 {
        let (store, next, end) = (Arc::clone(store), Arc::clone(&next), range.end as u64);
        tasks.spawn(async move {
            let value = value();
            loop {
                let from = next.fetch_add(16, Ordering::Relaxed);
                if from >= end {
                    return Ok::<(), gantry_store::Error>(());
                }
                let put = |i| Op::Put { key: key(i as usize), value: value.clone(), precondition: None };
                store.txn((from..(from + 16).min(end)).map(put).collect()).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Opens a store in this fresh process and prints: milliseconds to open, resident megabytes after writing and reading, and
/// latencies of a write in milliseconds: p50, p99, and p99 while the history is being compacted. Then crashes.
async fn inspect(dir: &Path, objects: usize) -> Result<()> {
    let start = Instant::now();
    let store = gantry_store::open(&Target::Embedded(dir.to_owned()), options()).await?;
    store.get(&key(objects / 2)).await?;
    let open = start.elapsed().as_secs_f64() * 1e3;
    // What was left of the last compaction is not what is measured here.
    latencies(&store, objects, None).await?;
    let quiet = latencies(&store, objects, None).await?;
    // All that was written since is compacted, while more is written and compacted as soon as it is there.
    let compacting = latencies(&store, objects, Some(Duration::from_millis(50))).await?;
    let rss = resident_mb()?;
    let p = |of: &[f64], part: f64| of[((of.len() - 1) as f64 * part) as usize];
    println!("{open} {rss} {} {} {}", p(&quiet, 0.5), p(&quiet, 0.99), p(&compacting, 0.99));
    std::io::stdout().flush()?;
    let store = Arc::clone(&store);
    tokio::spawn(async move { latencies(&store, objects, None).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    // No parting words to the file: a crash.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    Err("still alive".into())
}

/// Latencies of replacing random objects, in milliseconds, sorted.
async fn latencies(store: &Arc<dyn Store>, objects: usize, compact: Option<Duration>) -> Result<Vec<f64>> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for writer in 0..LATENCY_WRITERS {
        let (store, stop) = (Arc::clone(store), Arc::clone(&stop));
        tasks.spawn(async move {
            let (value, mut taken, mut seed) = (value(), Vec::new(), writer as u64);
            while !stop.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let op =
                    Op::Put { key: key((seed >> 33) as usize % objects), value: value.clone(), precondition: None };
                let start = Instant::now();
                store.txn(vec![op]).await?;
                taken.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, gantry_store::Error>(taken)
        });
    }
    let end = Instant::now() + LATENCY_TIME;
    while Instant::now() < end {
        match compact {
            None => tokio::time::sleep_until(end.into()).await,
            Some(pause) => {
                store.compact(store.current_revision().await?).await?;
                tokio::time::sleep(pause).await;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    while let Some(taken) = tasks.join_next().await {
        all.extend(taken??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn resident_mb() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

/// A real etcd of one member with its data beside ours.
struct Etcd {
    child: Child,
    endpoint: String,
}

impl Etcd {
    fn start(dir: &Path) -> Result<Self> {
        let free = || Ok::<_, std::io::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        let (client, peer) = (free()?, free()?);
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let program = ["/usr/bin/etcd", "/usr/local/bin/etcd"].map(PathBuf::from).into_iter().find(|p| p.is_file());
        let child = Command::new(program.ok_or("etcd is not installed (Debian: etcd-server)")?)
            .args(["--name", "bench", "--data-dir"])
            .arg(dir)
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("bench={peer_url}"), "--quota-backend-bytes", "8589934592"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Etcd { child, endpoint: client })
    }

    async fn open(&self) -> Result<Arc<dyn Store>> {
        let target = Target::parse(&format!("etcd://{}", self.endpoint), Path::new(""))?;
        for _ in 0..100 {
            if std::net::TcpStream::connect(&self.endpoint).is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(gantry_store::open(&target, options()).await?)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
