//! Random histories on a real store and on a naive model in memory: both must tell the same story.

use std::collections::BTreeMap;

use bytes::Bytes;
use gantry_store::{Error, Event, EventBatch, EventKind, FIRST_REVISION, KeyValue, Op, Precondition, Revision, Store};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::common::{Engine, events_through, list_all, try_events_through};

/// A store as simple as can be: every state there ever was, and every batch.
struct Model {
    states: BTreeMap<Revision, BTreeMap<String, KeyValue>>,
    batches: Vec<EventBatch>,
}

impl Model {
    fn new() -> Self {
        Model { states: BTreeMap::from([(FIRST_REVISION, BTreeMap::new())]), batches: Vec::new() }
    }

    fn now(&self) -> (Revision, &BTreeMap<String, KeyValue>) {
        let (revision, state) = self.states.last_key_value().unwrap();
        (*revision, state)
    }

    /// The revision, or the key in conflict and what is there.
    fn txn(&mut self, ops: &[Op]) -> Result<Revision, (String, Option<KeyValue>)> {
        let (now, state) = self.now();
        for op in ops {
            let current = state.get(op.key());
            let holds = match op.precondition() {
                None => true,
                Some(Precondition::Absent) => current.is_none(),
                Some(Precondition::Present) => current.is_some(),
                Some(Precondition::ModRevision(r)) => current.is_some_and(|kv| kv.mod_revision == r),
            };
            if !holds {
                return Err((op.key().to_owned(), current.cloned()));
            }
        }
        let revision = now + 1;
        let mut state = state.clone();
        let mut events = Vec::new();
        for op in ops {
            let prev = state.get(op.key()).cloned();
            match op {
                Op::Put { key, value, .. } => {
                    let create_revision = prev.as_ref().map_or(revision, |kv| kv.create_revision);
                    let kv =
                        KeyValue { key: key.clone(), value: value.clone(), create_revision, mod_revision: revision };
                    state.insert(key.clone(), kv.clone());
                    events.push(Event { kind: EventKind::Put, kv, prev });
                }
                Op::Delete { key, .. } => {
                    if let Some(last) = state.remove(key) {
                        let kv = KeyValue { mod_revision: revision, ..last };
                        events.push(Event { kind: EventKind::Delete, kv, prev });
                    }
                }
            }
        }
        if events.is_empty() {
            return Ok(now);
        }
        self.states.insert(revision, state);
        self.batches.push(EventBatch { revision, events });
        Ok(revision)
    }

    fn list(&self, prefix: &str, at: Revision) -> Vec<KeyValue> {
        let state = &self.states[&at];
        state.iter().filter(|(key, _)| key.starts_with(prefix)).map(|(_, kv)| kv.clone()).collect()
    }

    fn watch(&self, prefix: &str, after: Revision) -> Vec<EventBatch> {
        let mut batches: Vec<EventBatch> = self.batches.iter().filter(|b| b.revision > after).cloned().collect();
        for batch in &mut batches {
            batch.events.retain(|event| event.kv.key.starts_with(prefix));
        }
        batches.retain(|batch| !batch.events.is_empty());
        batches
    }
}

/// A step of a history; revisions are given as distances from the present, so that they mean something.
#[derive(Clone, Debug)]
enum Step {
    Txn(Vec<(usize, Option<u8>, Option<Wish>)>),
    Compact(u64),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Absent,
    Present,
    /// The key's own revision.
    Current,
    Older(u64),
}

const KEYS: [&str; 8] = ["a", "a/", "a/b", "a/b/c", "a0", "b", "é", "~"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "a/b", "b", "zz"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wish = prop_oneof![
        5 => Just(None),
        1 => Just(Some(Wish::Absent)),
        1 => Just(Some(Wish::Present)),
        2 => Just(Some(Wish::Current)),
        1 => (0..4u64).prop_map(|n| Some(Wish::Older(n))),
    ];
    let value = prop_oneof![3 => any::<u8>().prop_map(Some), 1 => Just(None)];
    let op = (0..KEYS.len(), value, wish);
    let step = prop_oneof![
        30 => proptest::collection::vec(op, 1..5).prop_map(Step::Txn),
        1 => (0..15u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

fn ops_of(model: &Model, wishes: &[(usize, Option<u8>, Option<Wish>)]) -> Vec<Op> {
    let (now, state) = model.now();
    let mut ops: Vec<Op> = Vec::new();
    for (key, value, wish) in wishes {
        let key = KEYS[*key].to_owned();
        if ops.iter().any(|op| op.key() == key) {
            continue;
        }
        let precondition = wish.map(|wish| match wish {
            Wish::Absent => Precondition::Absent,
            Wish::Present => Precondition::Present,
            Wish::Current => Precondition::ModRevision(state.get(&key).map_or(now, |kv| kv.mod_revision)),
            Wish::Older(n) => Precondition::ModRevision(now.saturating_sub(n).max(1)),
        });
        ops.push(match value {
            Some(value) => Op::Put { key, value: Bytes::from(vec![*value; usize::from(*value)]), precondition },
            None => Op::Delete { key, precondition },
        });
    }
    ops
}

/// etcd gives the events of one transaction in the order of its operations, as the model does; sort to be sure.
fn sorted(mut batches: Vec<EventBatch>) -> Vec<EventBatch> {
    for batch in &mut batches {
        batch.events.sort_by(|x, y| x.kv.key.cmp(&y.kv.key));
    }
    batches
}

async fn play(engine: &Engine, steps: &[Step]) {
    let mut store = engine.open().await;
    let mut model = Model::new();
    let mut oldest = FIRST_REVISION;
    let mut live_after = FIRST_REVISION;
    let mut live = store.watch("a", live_after).await.unwrap();
    for step in steps {
        match step {
            Step::Txn(wishes) => {
                let ops = ops_of(&model, wishes);
                let expected = model.txn(&ops);
                let got = match store.txn(ops.clone()).await {
                    Ok(revision) => Ok(revision),
                    Err(Error::Conflict { key, current }) => Err((key, current)),
                    Err(error) => panic!("{ops:?}: {error:?}"),
                };
                assert_eq!(got, expected, "{ops:?}");
                let (now, _) = model.now();
                for key in KEYS {
                    let got = store.get(key).await.unwrap();
                    assert_eq!(got, (model.now().1.get(key).cloned(), now));
                }
            }
            Step::Compact(back) => {
                let before = model.now().0.saturating_sub(*back).max(1);
                store.compact(before).await.unwrap();
                oldest = oldest.max(before);
            }
            Step::Reopen => {
                let expected = model.watch("a", live_after);
                if let Some(last) = expected.last() {
                    match try_events_through(&mut live, last.revision).await {
                        Ok(events) => assert_eq!(sorted(events), sorted(expected)),
                        Err(Error::Lagged { .. }) if oldest > live_after => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                store.close().await.unwrap();
                store = engine.open().await;
                assert_eq!(list_all(&*store, "", 3, None).await.0, model.list("", model.now().0));
                live_after = oldest;
                live = store.watch("a", live_after).await.unwrap();
            }
        }
    }
    check_history(&*store, &model, oldest).await;
    store.close().await.unwrap();
}

/// Every revision's list and the watch from it.
async fn check_history(store: &dyn Store, model: &Model, oldest: Revision) {
    let (now, _) = model.now();
    for revision in oldest..=now {
        for prefix in PREFIXES {
            let (items, _) = list_all(store, prefix, 2, Some(revision)).await;
            assert_eq!(items, model.list(prefix, revision), "{prefix:?} at {revision}");
        }
    }
    for after in (oldest..=now).step_by(5) {
        for prefix in PREFIXES {
            let expected = model.watch(prefix, after);
            let mut watch = store.watch(prefix, after).await.unwrap();
            if let Some(last) = expected.last() {
                assert_eq!(
                    sorted(events_through(&mut watch, last.revision).await),
                    sorted(expected),
                    "{prefix:?} after {after}"
                );
            }
        }
    }
    if oldest > FIRST_REVISION {
        let error = store.list("", None, 0, Some(oldest - 1)).await;
        assert!(matches!(error, Err(Error::Compacted { oldest: o }) if o == oldest), "{error:?}");
    }
}

#[test]
fn embedded_agrees_with_the_model() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(play(&Engine::embedded(), &steps));
            Ok(())
        })
        .unwrap();
}

/// Each history has an etcd to itself, which takes a while to start; so a few, and long ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_agrees_with_the_model() {
    let mut runner = TestRunner::deterministic();
    let mut histories = Vec::new();
    for _ in 0..3 {
        let mut history = Vec::new();
        while history.len() < 60 {
            history.extend(steps().new_tree(&mut runner).unwrap().current());
        }
        histories.push(tokio::spawn(async move {
            if let Some(engine) = Engine::etcd().await {
                play(&engine, &history).await;
            }
        }));
    }
    for history in histories {
        history.await.unwrap();
    }
}
