//! A writer killed with `kill -9` at random moments: nothing that was acknowledged is lost, nothing is half there.
//!
//! The writer is this very program, started again with a directory in its environment.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails, and says how it went")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gantry_store::{Error, FIRST_REVISION, Options, Retention, Revision, Store, Target};
use tempfile::TempDir;

use common::{PATIENCE, events_through, list_all, put};

const DIR_VARIABLE: &str = "GANTRY_STORE_CRASH_DIR";
const WRITERS: usize = 16;
const ROUNDS: u64 = 24;

/// The key pair of a writer; both get the same value in one transaction.
fn keys(writer: usize) -> [String; 2] {
    [format!("a/{writer:02}"), format!("b/{writer:02}")]
}

fn options() -> Options {
    Options {
        // Compaction at work too, while the writer dies.
        retention: Retention { age: Duration::from_millis(60), revisions: 100 },
        ..Options::default()
    }
}

/// Not a test: the writer. It says on its standard output what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "is the child of the test in this file"]
async fn writer() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let store = gantry_store::open(&Target::Embedded(dir.into()), options()).await.unwrap();
    say("open");
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        tasks.push(tokio::spawn(async move {
            let [a, b] = keys(writer);
            let current = store.get(&a).await.unwrap().0;
            let mut n: u64 = current.map_or(0, |kv| number(&kv.value));
            loop {
                n += 1;
                let revision = store.txn(vec![put(&a, &n.to_string()), put(&b, &n.to_string())]).await.unwrap();
                say(&format!("{writer} {n} {revision}"));
            }
        }));
    }
    futures::future::join_all(tasks).await;
}

/// One write of one line, so that a killed process leaves no half of it behind another's.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("@{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}

fn spawn_writer(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--ignored", "--nocapture"])
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_a_killed_writer() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    let mut acknowledged: BTreeMap<usize, (u64, Revision)> = BTreeMap::new();
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut child = spawn_writer(&path);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = std::thread::spawn(move || {
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix('@').map(str::to_owned)).collect::<Vec<_>>()
        });
        // Pseudo-random and the same in every run: from before the store is open to well into the work.
        let delay = 20 + (round * 7919 + 13) % 180;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
            if let [writer, n, revision] = fields[..] {
                let before = acknowledged.insert(writer as usize, (n, revision));
                assert!(before.is_none_or(|(_, r)| r < revision), "revisions grow across restarts");
                total += 1;
            }
        }
        let numbers = check(&path, &acknowledged, round).await;
        // What had happened unacknowledged counts from now on.
        for (writer, (n, revision)) in numbers {
            acknowledged.insert(writer, (n, revision));
        }
    }
    assert!(total > ROUNDS * 10, "only {total} writes were acknowledged: the test shows nothing");
    println!("{total} acknowledged writes in {ROUNDS} rounds");
}

/// Checks the store against what must be in it; each writer's last number and its revision.
async fn check(
    path: &Path,
    acknowledged: &BTreeMap<usize, (u64, Revision)>,
    round: u64,
) -> BTreeMap<usize, (u64, Revision)> {
    let start = std::time::Instant::now();
    let store = gantry_store::open(&Target::Embedded(path.to_owned()), options()).await.unwrap();
    assert!(start.elapsed() < PATIENCE, "opening after a crash took {:?}", start.elapsed());
    let (items, now) = list_all(&*store, "", 0, None).await;
    let state: BTreeMap<_, _> = items.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    let mut numbers = BTreeMap::new();
    for writer in 0..WRITERS {
        let [a, b] = keys(writer).map(|key| state.get(&key));
        assert_eq!(a.is_some(), b.is_some(), "round {round}: half a transaction");
        let stored = a.map_or(0, |kv| number(&kv.value));
        let last = acknowledged.get(&writer).map_or(0, |(n, _)| *n);
        // Each writer has one transaction under way at most, which may or may not have happened.
        assert!(stored == last || stored == last + 1, "round {round}: {last} acknowledged, {stored} stored");
        if let (Some(a), Some(b)) = (a, b) {
            assert_eq!((&a.value, a.mod_revision), (&b.value, b.mod_revision), "round {round}: half a transaction");
            numbers.insert(writer, (stored, a.mod_revision));
        }
    }
    check_history(&*store, now).await;
    store.close().await.unwrap();
    numbers
}

/// The history has no hole up to the present, and its end is the present.
async fn check_history(store: &dyn Store, now: Revision) {
    let oldest = store.status().await.unwrap().oldest_revision;
    if now == oldest {
        return;
    }
    let mut watch = store.watch("", oldest).await.unwrap();
    let batches = events_through(&mut watch, now).await;
    assert!(batches.iter().map(|batch| batch.revision).eq(oldest + 1..=now));
    assert!(batches.iter().all(|batch| batch.events.len() == 2));
    assert!(oldest >= FIRST_REVISION);
}

#[tokio::test]
async fn a_second_process_is_locked_out_and_let_in_afterwards() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("store");
    let mut child = spawn_writer(&path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while !lines.next().unwrap().unwrap().ends_with("@open") {}
    let second = gantry_store::open(&Target::Embedded(path.clone()), options()).await;
    let error = second.map(drop).unwrap_err();
    assert!(matches!(&error, Error::Locked { path: locked } if locked.starts_with(&path)), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "the error names the file");
    child.kill().unwrap();
    child.wait().unwrap();
    gantry_store::open(&Target::Embedded(path), options()).await.unwrap();
}
