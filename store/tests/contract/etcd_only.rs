//! What only the etcd engine has to stand: etcd dying and coming back, and other users of the same cluster.

use std::time::Duration;

use gantry_store::{Error, FIRST_REVISION, Options, Target};

use crate::common::{Engine, events_through, list_all, next_events, put, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_etcd_dying_under_it() {
    let Some(mut engine) = Engine::etcd().await else { return };
    let store = engine.open().await;
    let mut watch = store.watch("k", FIRST_REVISION).await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        for i in 0..20 {
            acknowledged.push(write(&*store, put("k", &format!("{round}/{i}"))).await);
        }
        // Some of what was written has been seen before the end, some not.
        let first = next_events(&mut watch).await.unwrap().revision;
        assert_eq!(first, acknowledged[round * 20]);
        let process = engine.etcd.as_mut().unwrap();
        process.kill();
        let during = store.txn(vec![put("other", "x")]).await;
        assert!(matches!(during, Err(Error::UnknownOutcome(_) | Error::Unavailable(_))), "{during:?}");
        process.restart().await;
        let (items, _) = tokio::time::timeout(Duration::from_secs(20), list_all(&*store, "k", 0, None)).await.unwrap();
        assert_eq!(Some(&items[0].mod_revision), acknowledged.last(), "an acknowledged write is there");
        let seen = events_through(&mut watch, *acknowledged.last().unwrap()).await;
        let seen: Vec<_> = seen.iter().map(|batch| batch.revision).collect();
        assert_eq!(seen, acknowledged[round * 20 + 1..], "no event lost, none twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_prefix_see_each_other_and_others_do_not() {
    let Some(mut engine) = Engine::etcd().await else { return };
    let one = engine.open().await;
    let two = engine.open().await;
    engine.options.etcd.key_prefix = "/gantry2".to_owned();
    let stranger = engine.open().await;
    let mut watch = one.watch("", FIRST_REVISION).await.unwrap();
    let r1 = write(&*two, put("a", "1")).await;
    write(&*stranger, put("a", "stranger")).await;
    let r2 = write(&*two, put("a", "2")).await;
    assert!(r2 > r1 + 1, "one order for all");
    let seen: Vec<_> = events_through(&mut watch, r2).await.iter().map(|batch| batch.revision).collect();
    assert_eq!(seen, [r1, r2]);
    assert_eq!(one.get("a").await.unwrap().0.unwrap().mod_revision, r2);
    assert_eq!(&stranger.get("a").await.unwrap().0.unwrap().value[..], b"stranger");
    assert_eq!(list_all(&*stranger, "", 0, None).await.0.len(), 1);
}

#[tokio::test]
async fn large_transactions_come_whole_through_a_watch() {
    let Some(engine) = Engine::etcd().await else { return };
    let store = engine.open().await;
    let value = "x".repeat(14_000);
    let mut last = 0;
    for i in 0..12 {
        last = store.txn((0..100).map(|k| put(&format!("k{k}"), &format!("{i}{value}"))).collect()).await.unwrap();
    }
    // Sixteen megabytes at once, with what was before: more than etcd sends in one message.
    let mut watch = store.watch("k", FIRST_REVISION).await.unwrap();
    let batches = events_through(&mut watch, last).await;
    assert_eq!(batches.len(), 12);
    assert!(batches.iter().all(|batch| batch.events.len() == 100));
}

#[tokio::test]
async fn nobody_there_is_an_error_in_time() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut options = Options::default();
    options.etcd.request_timeout = Duration::from_millis(300);
    let opened = gantry_store::open(&Target::Etcd(vec![format!("http://{free}")]), options).await;
    assert!(matches!(opened.map(drop), Err(Error::Unavailable(_))));
}
