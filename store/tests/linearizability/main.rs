//! Concurrent clients, faults, and two judges: a linearizability checker that knows nothing of revisions, and the
//! revision order that watches tell, against which every answer and every watch is held.
//!
//! etcd's leader is killed, cut off from everybody, and cut off from the other members only, in network namespaces that the
//! test makes. `GANTRY_STORE_LINEAR_SECONDS=600` makes it longer.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails, and says how it went")]

mod checker;
#[path = "../common/mod.rs"]
mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use checker::{Action, Operation, Value};
use common::etcd::{EtcdCluster, Setup};
use common::net::Net;
use common::{Engine, events_through, put, put_if, test_options};
use gantry_store::{Error, EventBatch, FIRST_REVISION, KeyValue, Options, Precondition, Revision, Store};

const CLIENTS: u64 = 6;
const REGISTERS: usize = 4;
/// Fewer show nothing.
const OPERATIONS_MIN: usize = 300;

/// An operation, on which register, and the revision that its answer named.
#[derive(Clone, Copy, Debug)]
struct Entry {
    register: usize,
    operation: Operation,
    revision: Option<Revision>,
}

/// What the clients did.
#[derive(Clone)]
struct History {
    start: Instant,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl History {
    fn new() -> Self {
        History { start: Instant::now(), entries: Arc::default() }
    }

    fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }

    fn add(&self, register: usize, action: Action, call: u64, answer: Option<Revision>) {
        let end = answer.map(|_| self.now());
        let operation = Operation { action, call, end };
        self.entries.lock().unwrap().push(Entry { register, operation, revision: answer });
    }
}

/// A register is two keys that always change together.
fn keys(register: usize) -> [String; 2] {
    [format!("r{register}/a"), format!("r{register}/b")]
}

fn number(kv: &KeyValue) -> u64 {
    std::str::from_utf8(&kv.value).unwrap().parse().unwrap()
}

/// A client, which does one thing after another.
struct Client {
    store: Arc<dyn Store>,
    history: History,
    id: u64,
    written: u64,
    seed: u64,
    /// What it last saw of each register: the value, and since when.
    known: HashMap<usize, (u64, Revision)>,
}

impl Client {
    fn roll(&mut self, n: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % n
    }

    async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Acquire) {
            let register = self.roll(REGISTERS as u64) as usize;
            match self.roll(5) {
                0 => self.list(register).await,
                1 => self.get(register).await,
                2 => self.write(register, false).await,
                _ => self.write(register, true).await,
            }
            let pause = self.roll(6);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn saw(&mut self, register: usize, call: u64, found: Option<&KeyValue>, revision: Revision) {
        let value = found.map(number);
        match found {
            Some(kv) => self.known.insert(register, (number(kv), kv.mod_revision)),
            None => self.known.remove(&register),
        };
        self.history.add(register, Action::Read(value), call, Some(revision));
    }

    async fn get(&mut self, register: usize) {
        let call = self.history.now();
        match self.store.get(&keys(register)[1]).await {
            Ok((found, revision)) => self.saw(register, call, found.as_ref(), revision),
            Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
        }
    }

    async fn list(&mut self, register: usize) {
        let call = self.history.now();
        match self.store.list(&format!("r{register}/"), None, 0, None).await {
            Ok(page) => {
                let seen: HashSet<_> = page.items.iter().map(|kv| (number(kv), kv.mod_revision)).collect();
                assert!([0, 2].contains(&page.items.len()) && seen.len() <= 1, "half a transaction: {page:?}");
                self.saw(register, call, page.items.first(), page.revision);
            }
            Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
        }
    }

    /// Writes a new value, perhaps only if the register is as it was when last seen.
    async fn write(&mut self, register: usize, only_if: bool) {
        self.written += 1;
        let value = self.id * 1_000_000 + self.written;
        let [a, b] = keys(register);
        let text = value.to_string();
        let known = self.known.get(&register).copied();
        let precondition = known.map_or(Precondition::Absent, |(_, revision)| Precondition::ModRevision(revision));
        let first = if only_if { put_if(&a, &text, precondition) } else { put(&a, &text) };
        let expected: Value = known.map(|(value, _)| value);
        let action = if only_if { Action::Swap(expected, Some(value)) } else { Action::Write(Some(value)) };
        let call = self.history.now();
        match self.store.txn(vec![first, put(&b, &text)]).await {
            Ok(revision) => {
                self.known.insert(register, (value, revision));
                self.history.add(register, action, call, Some(revision));
            }
            Err(Error::Conflict { current, .. }) => {
                let found = current.as_ref().map(number);
                // A conflict does not tell at which revision it was: at the found one at least.
                let since = current.as_ref().map_or(FIRST_REVISION, |kv| kv.mod_revision);
                self.history.add(register, Action::SwapFailed(expected, found), call, Some(since));
                match current {
                    Some(kv) => self.known.insert(register, (number(&kv), kv.mod_revision)),
                    None => self.known.remove(&register),
                };
            }
            Err(Error::UnknownOutcome(_)) => self.history.add(register, action, call, None),
            // It did not happen.
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A watch that is followed to the end, made anew by its user every `renew` batches.
async fn follow(
    store: Arc<dyn Store>,
    renew: usize,
    mut last: tokio::sync::watch::Receiver<Revision>,
) -> Vec<EventBatch> {
    let mut seen: Vec<EventBatch> = Vec::new();
    let mut watch = None;
    loop {
        let end = *last.borrow_and_update();
        if end > 0 && seen.last().is_some_and(|batch| batch.revision >= end) {
            return seen;
        }
        let after = seen.last().map_or(FIRST_REVISION, |batch| batch.revision);
        let current = match &mut watch {
            Some(watch) => watch,
            None => match store.watch("r", after).await {
                Ok(made) => watch.insert(made),
                Err(error) => {
                    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
                    continue;
                }
            },
        };
        tokio::select! {
            batch = next_events_patiently(current) => seen.push(batch),
            _ = last.changed() => continue,
        }
        if seen.len().is_multiple_of(renew) {
            watch = None;
        }
    }
}

/// The next batch with events, however long it takes: faults take their time.
async fn next_events_patiently(watch: &mut gantry_store::Watch) -> EventBatch {
    loop {
        let batch = futures::StreamExt::next(watch).await.unwrap().unwrap();
        if !batch.events.is_empty() {
            return batch;
        }
    }
}

/// The clients and watchers of a run, around whatever `faults` does meanwhile.
async fn run(stores: &[Arc<dyn Store>], history: &History, faults: impl Future<Output = ()>) -> Vec<EventBatch> {
    let stop = Arc::new(AtomicBool::new(false));
    let (end, ended) = tokio::sync::watch::channel(0);
    let store = |i: usize| Arc::clone(&stores[i % stores.len()]);
    let watchers: Vec<_> = [usize::MAX, 50, 7]
        .into_iter()
        .enumerate()
        .map(|(i, renew)| tokio::spawn(follow(store(i), renew, ended.clone())))
        .collect();
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|id| {
            let (store, history) = (store(id as usize), history.clone());
            let client = Client { store, history, id, written: 0, seed: id, known: HashMap::new() };
            tokio::spawn(client.run(Arc::clone(&stop)))
        })
        .collect();
    faults.await;
    stop.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    // One last write, which ends the watches.
    let last = loop {
        let ops = keys(0).iter().map(|key| put(key, "0")).collect();
        match store(0).txn(ops).await {
            Ok(revision) => break revision,
            Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
        }
    };
    end.send_replace(last);
    let mut whole = store(0).watch("r", FIRST_REVISION).await.unwrap();
    let truth = events_through(&mut whole, last).await;
    for watcher in watchers {
        let seen = tokio::time::timeout(Duration::from_secs(60), watcher).await.expect("a watch in time").unwrap();
        assert!(
            seen == truth,
            "a watch lost, doubled or reordered something: {} of {} batches",
            seen.len(),
            truth.len()
        );
    }
    truth
}

/// Holds the history against both judges.
fn judge(history: &History, truth: &[EventBatch]) {
    let entries = history.entries.lock().unwrap().clone();
    let known = entries.iter().filter(|entry| entry.revision.is_some()).count();
    println!("{} operations, {} of unknown outcome; {} revisions", entries.len(), entries.len() - known, truth.len());
    for register in 0..REGISTERS {
        let operations: Vec<Operation> =
            entries.iter().filter(|entry| entry.register == register).map(|entry| entry.operation).collect();
        checker::check(None, &operations).unwrap_or_else(|what| panic!("register {register}: {what}"));
    }
    judge_by_revisions(&entries, truth);
}

/// Every answer agrees with the revision order, and the order with time.
fn judge_by_revisions(entries: &[Entry], truth: &[EventBatch]) {
    let mut states: Vec<BTreeMap<Revision, u64>> = vec![BTreeMap::new(); REGISTERS];
    let mut values = HashMap::new();
    for batch in truth {
        assert_eq!(batch.events.len(), 2, "half a transaction: {batch:?}");
        let register: usize = batch.events[0].kv.key[1..2].parse().unwrap();
        let value = number(&batch.events[0].kv);
        assert_eq!(value, number(&batch.events[1].kv));
        for event in &batch.events {
            let before = states[register].last_key_value().map(|(revision, value)| (*value, *revision));
            assert_eq!(event.prev.as_ref().map(|kv| (number(kv), kv.mod_revision)), before, "{event:?}");
        }
        states[register].insert(batch.revision, value);
        assert!(values.insert(value, batch.revision).is_none(), "{value} was written twice");
    }
    for Entry { register, operation, revision } in entries {
        let Some(revision) = *revision else { continue };
        let state = states[*register].range(..=revision).next_back().map(|(_, value)| *value);
        match operation.action {
            Action::Read(value) | Action::SwapFailed(_, value) => {
                assert_eq!(value, state, "{operation:?} at {revision}")
            }
            Action::Write(value) | Action::Swap(_, value) => {
                assert_eq!(values.get(&value.unwrap()), Some(&revision), "{operation:?} was acknowledged");
            }
        }
    }
    let mut ends: Vec<(u64, Revision)> =
        entries.iter().filter_map(|entry| Some((entry.operation.end?, entry.revision?))).collect();
    ends.sort_unstable();
    let mut calls: Vec<&Entry> = entries.iter().filter(|entry| entry.revision.is_some()).collect();
    calls.sort_by_key(|entry| entry.operation.call);
    let (mut ended, mut seen) = (ends.into_iter().peekable(), 0);
    for entry in calls {
        while let Some((_, revision)) = ended.next_if(|(end, _)| *end < entry.operation.call) {
            seen = seen.max(revision);
        }
        let revision = entry.revision.unwrap();
        match entry.operation.action {
            Action::Read(_) => assert!(revision >= seen, "{entry:?} is stale: {seen} had been told before"),
            Action::Write(_) | Action::Swap(..) => assert!(revision > seen, "{entry:?} is older than {seen}"),
            Action::SwapFailed(..) => {}
        }
    }
}

fn seconds(usual: u64) -> u64 {
    let asked = std::env::var("GANTRY_STORE_LINEAR_SECONDS").ok();
    asked.map_or(usual, |text| text.parse().expect("a number of seconds"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_engine_is_linearizable() {
    let store = Engine::embedded().open().await;
    let history = History::new();
    let truth = run(&[store], &history, async {
        while history.start.elapsed() < Duration::from_secs(seconds(3)) || history.len() < OPERATIONS_MIN {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    judge(&history, &truth);
}

#[test]
fn etcd_is_linearizable_whatever_happens_to_its_leader() {
    Net::inside(async {
        let setup = Setup { namespaces: true, election: 1_000, ..Setup::default() };
        let Some(mut cluster) = EtcdCluster::start(setup).await else { return };
        let mut options = Options { etcd: cluster.options(), ..test_options() };
        options.etcd.request_timeout = Duration::from_secs(2);
        // Two processes' worth: nothing is shared between them but etcd.
        let mut stores = Vec::new();
        for _ in 0..2 {
            stores.push(gantry_store::open(&cluster.target(), options.clone()).await.unwrap());
        }
        let end = Instant::now() + Duration::from_secs(seconds(12));
        let history = History::new();
        let truth = run(&stores, &history, async {
            let mut round = 0;
            while Instant::now() < end || round < 3 || history.len() < OPERATIONS_MIN {
                fault(&mut cluster, round).await;
                round += 1;
            }
            assert!(cluster.wait_ready().await, "the cluster is whole again");
        })
        .await;
        judge(&history, &truth);
    });
}

/// Does something to the leader, and undoes it after another one leads.
async fn fault(cluster: &mut EtcdCluster, round: usize) {
    let leader = cluster.leader().await;
    match round % 3 {
        0 => cluster.net.as_ref().unwrap().cut_from_peers(leader, true),
        1 => cluster.kill(leader),
        _ => cluster.net.as_ref().unwrap().isolate(leader, true),
    }
    // Long enough for the others to find out and for a client that still talks to the old leader to be answered by it.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    match round % 3 {
        0 => cluster.net.as_ref().unwrap().cut_from_peers(leader, false),
        1 => cluster.restart(leader),
        _ => cluster.net.as_ref().unwrap().isolate(leader, false),
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

/// The second judge is not blind either.
#[test]
fn wrong_answers_are_found_by_the_revision_order() {
    let event = |key: &str, value: &str, revision, prev| gantry_store::Event {
        kind: gantry_store::EventKind::Put,
        kv: common::kv(key, value, 2, revision),
        prev,
    };
    let batch = |value: &str, revision, prev: Option<(&str, Revision)>| {
        let prev = |key: &str| prev.map(|(value, revision)| common::kv(key, value, 2, revision));
        let events = keys(0).iter().map(|key| event(key, value, revision, prev(key))).collect();
        EventBatch { revision, events }
    };
    let truth = [batch("1", 2, None), batch("2", 3, Some(("1", 2)))];
    let entry = |action, call, end, revision| Entry {
        register: 0,
        operation: Operation { action, call, end: Some(end) },
        revision: Some(revision),
    };
    let write = entry(Action::Write(Some(1)), 0, 1, 2);
    let again = entry(Action::Write(Some(2)), 2, 3, 3);
    let fails = |entries: Vec<Entry>, truth: Vec<EventBatch>| {
        std::panic::catch_unwind(move || judge_by_revisions(&entries, &truth)).is_err()
    };
    assert!(!fails(vec![write, again, entry(Action::Read(Some(2)), 4, 5, 3)], truth.to_vec()));
    assert!(fails(vec![write, again, entry(Action::Read(Some(1)), 4, 5, 3)], truth.to_vec()), "a wrong value");
    assert!(fails(vec![write, again, entry(Action::Read(Some(1)), 4, 5, 2)], truth.to_vec()), "a stale read");
    assert!(fails(vec![write, entry(Action::Write(Some(9)), 2, 3, 3)], truth.to_vec()), "a lost write");
    let swapped = [entry(Action::Write(Some(2)), 0, 1, 3), entry(Action::Write(Some(1)), 2, 3, 2)];
    assert!(fails(swapped.to_vec(), truth.to_vec()), "revisions against time");
    assert!(fails(vec![], vec![truth[0].clone(), batch("1", 3, Some(("1", 2)))]), "a write done twice");
    assert!(fails(vec![], vec![truth[0].clone(), batch("2", 3, Some(("7", 2)))]), "a wrong value before");
}
