//! Watches: complete, in order, from any revision.

use std::sync::Arc;

use futures::StreamExt;
use gantry_store::{Error, Event, EventBatch, EventKind, FIRST_REVISION, KeyValue};

use crate::common::{Engine, PATIENCE, delete, events_through, kv, list_all, next_events, put, write};

fn put_event(kv: KeyValue, prev: Option<KeyValue>) -> Event {
    Event { kind: EventKind::Put, kv, prev }
}

pub async fn changes_arrive_with_what_was_before(engine: Engine) {
    let store = engine.open().await;
    let start = store.current_revision().await.unwrap();
    let mut watch = store.watch("", start).await.unwrap();
    let r1 = write(&*store, put("a", "1")).await;
    assert_eq!(
        next_events(&mut watch).await.unwrap(),
        EventBatch { revision: r1, events: vec![put_event(kv("a", "1", r1, r1), None)] }
    );
    let r2 = store.txn(vec![put("a", "2"), put("b", "2")]).await.unwrap();
    let mut batch = next_events(&mut watch).await.unwrap();
    batch.events.sort_by(|x, y| x.kv.key.cmp(&y.kv.key));
    let expected =
        vec![put_event(kv("a", "2", r1, r2), Some(kv("a", "1", r1, r1))), put_event(kv("b", "2", r2, r2), None)];
    assert_eq!(batch, EventBatch { revision: r2, events: expected });
}

pub async fn a_deletion_carries_the_last_value(engine: Engine) {
    let store = engine.open().await;
    let r1 = write(&*store, put("a", "first")).await;
    let r2 = write(&*store, put("a", "last")).await;
    let mut live = store.watch("a", r2).await.unwrap();
    let r3 = write(&*store, delete("a")).await;
    let r4 = write(&*store, put("a", "new")).await;
    let mut replayed = store.watch("a", r2).await.unwrap();
    for watch in [&mut live, &mut replayed] {
        let gone = Event { kind: EventKind::Delete, kv: kv("a", "last", r1, r3), prev: Some(kv("a", "last", r1, r2)) };
        assert_eq!(next_events(watch).await.unwrap(), EventBatch { revision: r3, events: vec![gone] });
        let created = put_event(kv("a", "new", r4, r4), None);
        assert_eq!(next_events(watch).await.unwrap(), EventBatch { revision: r4, events: vec![created] });
    }
}

pub async fn history_is_replayed(engine: Engine) {
    let store = engine.open().await;
    let mut live = store.watch("", FIRST_REVISION).await.unwrap();
    let mut last = 0;
    for i in 0..60 {
        let key = format!("k{}", i % 4);
        let ops = if i % 5 == 4 { vec![delete(&key)] } else { vec![put(&key, &i.to_string()), put("all", "x")] };
        last = store.txn(ops).await.unwrap();
    }
    // The last deletions may have hit nothing; end on something certain.
    last = last.max(write(&*store, put("end", "x")).await);
    let seen = events_through(&mut live, last).await;
    let mut from_zero = store.watch("", 0).await.unwrap();
    assert_eq!(events_through(&mut from_zero, last).await, seen, "0 is the beginning");
    for (i, batch) in seen.iter().enumerate().step_by(7) {
        let mut watch = store.watch("", batch.revision).await.unwrap();
        if i + 1 < seen.len() {
            assert_eq!(events_through(&mut watch, last).await, seen[i + 1..]);
        }
    }
    assert!(matches!(store.watch("", last + 1).await, Err(Error::FutureRevision { .. })));
}

pub async fn only_the_prefix_is_watched(engine: Engine) {
    let store = engine.open().await;
    let mut live = store.watch("pods/", FIRST_REVISION).await.unwrap();
    let mut r = Vec::new();
    r.push(store.txn(vec![put("pods/a", "1"), put("nodes/a", "1")]).await.unwrap());
    for key in ["nodes/b", "pods", "pods0", "pod/x"] {
        write(&*store, put(key, "1")).await;
    }
    r.push(write(&*store, put("pods/b", "1")).await);
    let mut replayed = store.watch("pods/", FIRST_REVISION).await.unwrap();
    for watch in [&mut live, &mut replayed] {
        let batches = events_through(watch, r[1]).await;
        let seen: Vec<_> =
            batches.iter().flat_map(|b| b.events.iter().map(|e| (b.revision, e.kv.key.as_str()))).collect();
        assert_eq!(seen, [(r[0], "pods/a"), (r[1], "pods/b")]);
    }
}

pub async fn a_watch_resumes_where_another_stopped(engine: Engine) {
    let store = engine.open().await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut last = 0;
            for i in 0..200 {
                last = write(&*store, put(&format!("k{}", i % 9), &i.to_string())).await;
            }
            last
        }
    });
    let mut seen = Vec::new();
    let mut after = FIRST_REVISION;
    while seen.len() < 200 {
        let mut watch = store.watch("k", after).await.unwrap();
        for _ in 0..1 + seen.len() % 17 {
            if seen.len() == 200 {
                break;
            }
            let batch = next_events(&mut watch).await.unwrap();
            after = batch.revision;
            seen.push(batch);
        }
    }
    let last = writer.await.unwrap();
    let mut whole = store.watch("k", FIRST_REVISION).await.unwrap();
    assert_eq!(events_through(&mut whole, last).await, seen);
}

pub async fn a_list_and_its_watch_join_without_gap(engine: Engine) {
    let store = engine.open().await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for i in 0..200 {
                let key = format!("k{}", i % 9);
                let op = if i % 4 == 3 { delete(&key) } else { put(&key, &i.to_string()) };
                store.txn(vec![op]).await.unwrap();
            }
            write(&*store, put("kend", "x")).await
        }
    });
    let mut joins = Vec::new();
    while !writer.is_finished() || joins.is_empty() {
        let (items, revision) = list_all(&*store, "k", 3, None).await;
        joins.push((items, store.watch("k", revision).await.unwrap()));
    }
    let last = writer.await.unwrap();
    let (expected, _) = list_all(&*store, "k", 0, Some(last)).await;
    for (items, mut watch) in joins.into_iter().rev().take(20) {
        let mut state: std::collections::BTreeMap<_, _> = items.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
        if !state.contains_key("kend") {
            for event in events_through(&mut watch, last).await.into_iter().flat_map(|batch| batch.events) {
                let before = match event.kind {
                    EventKind::Put => state.insert(event.kv.key.clone(), event.kv),
                    EventKind::Delete => state.remove(&event.kv.key),
                };
                assert_eq!(before, event.prev);
            }
        }
        assert_eq!(state.into_values().collect::<Vec<_>>(), expected);
    }
}

pub async fn a_watcher_that_sleeps_blocks_nobody_and_misses_nothing(engine: Engine) {
    let store = engine.open().await;
    let mut asleep = store.watch("k", FIRST_REVISION).await.unwrap();
    let first = write(&*store, put("k", "first")).await;
    assert_eq!(next_events(&mut asleep).await.unwrap().revision, first);
    // More than any buffer on the way holds.
    let (writers, each) = if engine.is_etcd() { (16, 100) } else { (64, 160) };
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for i in 0..each {
                    write(&*store, put(&format!("k/{writer}"), &i.to_string())).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let last = store.current_revision().await.unwrap();
    let batches = events_through(&mut asleep, last).await;
    assert_eq!(batches.len(), writers * each);
    assert!(batches.iter().zip(first + 1..).all(|(batch, revision)| batch.revision == revision));
}

pub async fn progress_is_told(engine: Engine) {
    let store = engine.open().await;
    let mut watch = store.watch("quiet/", FIRST_REVISION).await.unwrap();
    let r = write(&*store, put("busy", "1")).await;
    match store.request_progress().await {
        Ok(()) => {}
        // An old etcd cannot tell safely, and says so.
        Err(Error::Unsupported { .. }) if engine.is_etcd() => return,
        Err(error) => panic!("{error:?}"),
    }
    loop {
        let batch = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").unwrap().unwrap();
        assert_eq!(batch.events, []);
        if batch.revision >= r {
            break;
        }
    }
    // And now and then unasked.
    let r = write(&*store, put("busy", "2")).await;
    while tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").unwrap().unwrap().revision < r {}
    let event = write(&*store, put("quiet/x", "1")).await;
    assert_eq!(next_events(&mut watch).await.unwrap().revision, event);
}
