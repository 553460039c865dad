//! Compaction, closing, reopening.

use futures::StreamExt;
use gantry_store::{Error, FIRST_REVISION};

use crate::common::{Engine, PATIENCE, delete, events_through, list_all, next_events, put, write};

pub async fn compacted_history_is_refused(engine: Engine) {
    let store = engine.open().await;
    let mut revisions = Vec::new();
    for i in 0..10 {
        revisions.push(write(&*store, put("k", &i.to_string())).await);
    }
    revisions.push(write(&*store, delete("k")).await);
    let untouched = write(&*store, put("other", "x")).await;
    let (middle, last) = (revisions[5], untouched);
    let kept = list_all(&*store, "", 0, Some(middle)).await;
    let mut watch = store.watch("", middle).await.unwrap();
    let kept_events = events_through(&mut watch, last).await;

    assert!(matches!(store.compact(last + 1).await, Err(Error::FutureRevision { .. })));
    store.compact(middle).await.unwrap();
    for before in [FIRST_REVISION, revisions[4]] {
        let list = store.list("", None, 0, Some(before)).await;
        assert!(matches!(list, Err(Error::Compacted { oldest }) if oldest == middle), "{list:?}");
        let watch = store.watch("", before).await.err();
        assert!(matches!(watch, Some(Error::Compacted { oldest }) if oldest == middle), "{watch:?}");
    }
    assert_eq!(list_all(&*store, "", 0, Some(middle)).await, kept, "the compaction's own revision stays");
    let mut watch = store.watch("", middle).await.unwrap();
    assert_eq!(events_through(&mut watch, last).await, kept_events);
    assert_eq!(store.status().await.unwrap().oldest_revision, middle);

    store.compact(middle).await.unwrap();
    store.compact(revisions[2]).await.unwrap();
    assert_eq!(store.status().await.unwrap().oldest_revision, middle, "compaction never goes back");
    store.compact(last).await.unwrap();
    let (now, revision) = list_all(&*store, "", 0, None).await;
    assert_eq!((now.len(), revision), (1, last), "the present stays");
    assert_eq!(list_all(&*store, "", 0, Some(last)).await.0, now);
    let mut watch = store.watch("", last).await.unwrap();
    let next = write(&*store, put("k", "again")).await;
    assert_eq!(next_events(&mut watch).await.unwrap().revision, next);
}

pub async fn a_sleeping_watcher_is_told_when_history_is_gone(engine: Engine) {
    let store = engine.open().await;
    let mut watch = store.watch("k", FIRST_REVISION).await.unwrap();
    let mut expected = write(&*store, put("k", "0")).await;
    assert_eq!(next_events(&mut watch).await.unwrap().revision, expected);
    let value = "x".repeat(20_000);
    for chunk in 0..40 {
        let writes = (0..64).map(|i| store.txn(vec![put(&format!("k/{chunk}/{i}"), &value)]));
        futures::future::try_join_all(writes).await.unwrap();
    }
    let last = store.current_revision().await.unwrap();
    store.compact(last).await.unwrap();
    // Whatever still comes is complete up to the error, if there is one.
    loop {
        match next_events(&mut watch).await {
            Ok(batch) => {
                expected += 1;
                assert_eq!(batch.revision, expected);
                if expected == last {
                    break;
                }
            }
            Err(Error::Lagged { oldest }) => {
                assert_eq!(oldest, last);
                assert!(watch.next().await.is_none(), "an error is the end");
                break;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub async fn a_reopened_store_goes_on(engine: Engine) {
    let store = engine.open().await;
    for i in 0..20 {
        write(&*store, put(&format!("k{}", i % 6), &i.to_string())).await;
    }
    write(&*store, delete("k1")).await;
    let mid = store.current_revision().await.unwrap();
    store.compact(mid - 10).await.unwrap();
    let last = write(&*store, put("k2", "last")).await;
    let before = list_all(&*store, "", 0, None).await;
    let old = list_all(&*store, "", 0, Some(mid)).await;
    let mut watch = store.watch("", mid - 5).await.unwrap();
    let events = events_through(&mut watch, last).await;
    drop(watch);
    store.close().await.unwrap();
    drop(store);

    let store = engine.open().await;
    assert_eq!(list_all(&*store, "", 0, None).await, before);
    assert_eq!(list_all(&*store, "", 0, Some(mid)).await, old);
    let mut watch = store.watch("", mid - 5).await.unwrap();
    assert_eq!(events_through(&mut watch, last).await, events);
    assert!(matches!(store.watch("", mid - 11).await, Err(Error::Compacted { .. })));
    assert!(write(&*store, put("k", "new")).await > last);
}

pub async fn a_closed_store_says_so(engine: Engine) {
    let store = engine.open().await;
    let r = write(&*store, put("a", "1")).await;
    let mut watch = store.watch("", r).await.unwrap();
    let waiting = tokio::spawn(async move { tokio::time::timeout(PATIENCE, next_events(&mut watch)).await.unwrap() });
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed)));
    assert!(matches!(store.txn(vec![put("a", "2")]).await, Err(Error::Closed)));
    assert!(matches!(store.get("a").await, Err(Error::Closed)));
    assert!(matches!(store.list("", None, 0, None).await, Err(Error::Closed)));
    assert!(matches!(store.watch("", r).await, Err(Error::Closed)));
    assert!(matches!(store.current_revision().await, Err(Error::Closed)));
    assert!(matches!(store.compact(r).await, Err(Error::Closed)));
    assert!(matches!(store.status().await, Err(Error::Closed)));
    assert_eq!(engine.open().await.current_revision().await.unwrap(), r, "it can be opened again at once");
}

pub async fn status_tells_size_and_revisions(engine: Engine) {
    let store = engine.open().await;
    let r = write(&*store, put("a", "1")).await;
    let status = store.status().await.unwrap();
    assert_eq!(status.engine, if engine.is_etcd() { "etcd" } else { "embedded" });
    assert_eq!((status.revision, status.oldest_revision), (r, FIRST_REVISION));
    assert!(status.size_bytes > 0);
}
