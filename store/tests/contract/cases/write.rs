//! Transactions: order, preconditions, atomicity.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use gantry_store::{Error, FIRST_REVISION, Op, Precondition, Store, TXN_BYTES_MAX, TXN_OPS_MAX};

use crate::common::{Engine, delete, delete_if, kv, list_all, put, put_if, write};

pub async fn an_empty_store_has_a_revision(engine: Engine) {
    let store = engine.open().await;
    assert_eq!(store.current_revision().await.unwrap(), FIRST_REVISION);
    assert_eq!(store.get("a").await.unwrap(), (None, FIRST_REVISION));
    let page = store.list("", None, 0, None).await.unwrap();
    assert_eq!((page.items.len(), page.revision, page.more), (0, FIRST_REVISION, false));
    assert_eq!(store.txn(vec![]).await.unwrap(), FIRST_REVISION);
}

pub async fn values_come_back_with_their_revisions(engine: Engine) {
    let store = engine.open().await;
    let first = write(&*store, put("a", "1")).await;
    let second = write(&*store, put("a", "2")).await;
    let other = write(&*store, put("b", "1")).await;
    assert!(FIRST_REVISION < first && first < second && second < other);
    assert_eq!(store.get("a").await.unwrap(), (Some(kv("a", "2", first, second)), other));
    assert_eq!(store.current_revision().await.unwrap(), other);

    let deleted = write(&*store, delete("a")).await;
    assert_eq!(store.get("a").await.unwrap(), (None, deleted));
    let again = write(&*store, put("a", "3")).await;
    assert_eq!(store.get("a").await.unwrap().0, Some(kv("a", "3", again, again)), "created afresh");
    let same = write(&*store, put("a", "3")).await;
    assert_eq!(store.get("a").await.unwrap().0, Some(kv("a", "3", again, same)), "the same bytes are a change too");
}

pub async fn preconditions_are_judged(engine: Engine) {
    let store = engine.open().await;
    let r = write(&*store, put("there", "1")).await;
    let old = r - 1;
    let cases = [
        ("there", Precondition::Absent, false),
        ("there", Precondition::Present, true),
        ("there", Precondition::ModRevision(old), false),
        ("there", Precondition::ModRevision(u64::MAX >> 1), false),
        ("missing", Precondition::Absent, true),
        ("missing", Precondition::Present, false),
        ("missing", Precondition::ModRevision(r), false),
    ];
    for (key, precondition, holds) in cases {
        for op in [put_if(key, "2", precondition), delete_if(key, precondition)] {
            let (before, at) = store.get(key).await.unwrap();
            let outcome = store.txn(vec![op.clone()]).await;
            if holds {
                let after = outcome.unwrap();
                assert!(after > at || (before.is_none() && after == at), "{op:?}");
                // As before the case.
                write(&*store, if key == "there" { put("there", "1") } else { delete("missing") }).await;
            } else {
                let Err(Error::Conflict { key: conflicting, current }) = outcome else { panic!("{op:?}: {outcome:?}") };
                assert_eq!((conflicting.as_str(), current), (key, before), "{op:?}");
                assert_eq!(store.current_revision().await.unwrap(), at, "a conflict takes no revision");
            }
        }
    }
    let (now, _) = store.get("there").await.unwrap();
    let now = now.unwrap().mod_revision;
    let next = write(&*store, put_if("there", "3", Precondition::ModRevision(now))).await;
    assert!(store.txn(vec![put_if("there", "4", Precondition::ModRevision(now))]).await.is_err());
    write(&*store, delete_if("there", Precondition::ModRevision(next))).await;
    write(&*store, put_if("there", "5", Precondition::Absent)).await;
}

pub async fn the_first_failed_precondition_is_reported(engine: Engine) {
    let store = engine.open().await;
    let r = write(&*store, put("b", "old")).await;
    let ops = vec![
        put("a", "1"),
        put_if("c", "1", Precondition::Absent),
        put_if("b", "1", Precondition::Absent),
        put_if("d", "1", Precondition::Present),
    ];
    let Err(Error::Conflict { key, current }) = store.txn(ops).await else { panic!("no conflict") };
    assert_eq!((key.as_str(), current), ("b", Some(kv("b", "old", r, r))));
}

pub async fn a_transaction_is_all_or_nothing(engine: Engine) {
    let store = engine.open().await;
    let r1 = store.txn(vec![put("a", "1"), put("b", "1"), put("c", "1")]).await.unwrap();
    let r2 = store.txn(vec![put("a", "2"), delete("b"), put_if("d", "2", Precondition::Absent)]).await.unwrap();
    let expected = vec![kv("a", "2", r1, r2), kv("c", "1", r1, r1), kv("d", "2", r2, r2)];
    assert_eq!(list_all(&*store, "", 0, None).await, (expected.clone(), r2));
    let failed = vec![put("a", "3"), delete("c"), put_if("d", "3", Precondition::Absent), put("e", "3")];
    assert!(matches!(store.txn(failed).await, Err(Error::Conflict { .. })));
    assert_eq!(list_all(&*store, "", 0, None).await, (expected, r2));
}

pub async fn nobody_sees_half_a_transaction(engine: Engine) {
    let store = engine.open().await;
    let keys = ["pair/a", "pair/b", "pair/c"];
    store.txn(keys.iter().map(|key| put(key, "0")).collect()).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, done) = (Arc::clone(&store), Arc::clone(&done));
        async move {
            for i in 1..=150 {
                store.txn(keys.iter().map(|key| put(key, &i.to_string())).collect()).await.unwrap();
            }
            done.store(true, Ordering::Release);
        }
    });
    let mut lists = 0;
    while !done.load(Ordering::Acquire) || lists < 5 {
        let page = store.list("pair/", None, 0, None).await.unwrap();
        assert_eq!(page.items.len(), 3);
        for item in &page.items {
            assert_eq!((&item.value, item.mod_revision), (&page.items[0].value, page.items[0].mod_revision));
            assert!(item.mod_revision <= page.revision);
        }
        lists += 1;
    }
    writer.await.unwrap();
}

pub async fn deleting_what_is_not_there_changes_nothing(engine: Engine) {
    let store = engine.open().await;
    let r = write(&*store, put("a", "1")).await;
    assert_eq!(write(&*store, delete("missing")).await, r);
    assert_eq!(store.current_revision().await.unwrap(), r);
    let next = store.txn(vec![delete("missing"), put("b", "1")]).await.unwrap();
    assert!(next > r);
    assert_eq!(store.get("b").await.unwrap().0, Some(kv("b", "1", next, next)));
}

pub async fn impossible_requests_are_refused(engine: Engine) {
    let store = engine.open().await;
    let r = store.current_revision().await.unwrap();
    let invalid = [
        vec![put("", "1")],
        vec![put("a", "1"), put("a", "2")],
        vec![put("a", "1"), delete("b"), delete("a")],
        vec![put_if("a", "1", Precondition::ModRevision(0))],
        (0..=TXN_OPS_MAX).map(|i| put(&format!("k{i}"), "1")).collect(),
    ];
    for ops in invalid {
        assert!(matches!(store.txn(ops.clone()).await, Err(Error::Invalid { .. })), "{ops:?}");
    }
    let huge = Op::Put { key: "a".to_owned(), value: Bytes::from(vec![0; TXN_BYTES_MAX + 1]), precondition: None };
    assert!(matches!(store.txn(vec![huge]).await, Err(Error::TooLarge { .. })));
    assert!(matches!(store.txn(vec![put(&"k".repeat(5_000), "1")]).await, Err(Error::TooLarge { .. })));
    assert!(matches!(store.get("").await, Err(Error::Invalid { .. })));
    assert_eq!(store.current_revision().await.unwrap(), r);
    store.txn((0..TXN_OPS_MAX).map(|i| put(&format!("k{i}"), "1")).collect()).await.unwrap();
}

pub async fn concurrent_writers_get_one_order(engine: Engine) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let store = engine.open().await;
    write(&*store, put("counter", "0")).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            let mut revisions = Vec::new();
            for i in 0..EACH {
                revisions.push(increment(&*store).await);
                let own = write(&*store, put(&format!("own/{writer}"), &i.to_string())).await;
                let (read, at) = store.get(&format!("own/{writer}")).await.unwrap();
                assert_eq!(read.unwrap().mod_revision, own, "a write is seen by the read after it");
                assert!(at >= own);
                revisions.push(own);
            }
            assert!(revisions.is_sorted(), "one writer's revisions grow");
            revisions
        }));
    }
    let mut all = HashSet::new();
    for writer in writers {
        for revision in writer.await.unwrap() {
            assert!(all.insert(revision), "revision {revision} twice");
        }
    }
    let (counter, _) = store.get("counter").await.unwrap();
    assert_eq!(&counter.unwrap().value[..], (WRITERS * EACH).to_string().as_bytes(), "no lost update");
}

/// Adds one to the counter, again and again until nobody came between.
async fn increment(store: &dyn Store) -> u64 {
    loop {
        let (counter, _) = store.get("counter").await.unwrap();
        let counter = counter.unwrap();
        let value: u64 = std::str::from_utf8(&counter.value).unwrap().parse().unwrap();
        let op = put_if("counter", &(value + 1).to_string(), Precondition::ModRevision(counter.mod_revision));
        match store.txn(vec![op]).await {
            Ok(revision) => return revision,
            Err(Error::Conflict { current, .. }) => {
                assert!(current.unwrap().mod_revision > counter.mod_revision, "a conflict shows something newer");
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub async fn values_of_any_bytes_and_a_megabyte_are_kept(engine: Engine) {
    let store = engine.open().await;
    let megabyte: Vec<u8> = (0..1_000_000u32).map(|i| (i * 31) as u8).collect();
    let values = [vec![], vec![0], vec![0xff, 0, 0xfe], megabyte];
    for (i, value) in values.iter().enumerate() {
        let key = format!("ключ/{i}");
        let op = Op::Put { key: key.clone(), value: Bytes::from(value.clone()), precondition: None };
        write(&*store, op).await;
        assert_eq!(store.get(&key).await.unwrap().0.unwrap().value, value);
    }
    assert_eq!(list_all(&*store, "ключ/", 0, None).await.0.len(), values.len());
}
