//! Lists: order, pages, snapshots.

use std::sync::Arc;

use bytes::Bytes;
use gantry_store::{Error, Op, PAGE_ITEMS_MAX};

use crate::common::{Engine, delete, list_all, put, write};

fn keys(items: &[gantry_store::KeyValue]) -> Vec<&str> {
    items.iter().map(|item| item.key.as_str()).collect()
}

/// Prefix, start after, limit: the keys, and whether there are more.
type ListCase<'a> = (&'a str, Option<&'a str>, usize, &'a [&'a str], bool);

pub async fn pages_are_in_key_order_and_say_if_there_is_more(engine: Engine) {
    let store = engine.open().await;
    for key in ["pods/b", "pods/a", "pods0", "pods", "pods/a/x", "nodes/a", "pods/~", "pods/é"] {
        write(&*store, put(key, key)).await;
    }
    let all = ["pods/a", "pods/a/x", "pods/b", "pods/~", "pods/é"];
    let cases: [ListCase<'_>; 14] = [
        ("pods/", None, 0, &all, false),
        ("pods/", None, 5, &all, false),
        ("pods/", None, 4, &all[..4], true),
        ("pods/", None, 1, &all[..1], true),
        ("pods/", Some("pods/a"), 2, &all[1..3], true),
        ("pods/", Some("pods/aa"), 0, &all[2..], false),
        ("pods/", Some("pods/é"), 0, &[], false),
        ("pods/", Some("a"), 0, &all, false),
        ("pods/", Some("zebra"), 0, &[], false),
        ("pods", None, 2, &["pods", "pods/a"], true),
        ("pods/a", None, 0, &all[..2], false),
        ("nothing", None, 0, &[], false),
        ("", None, 1, &["nodes/a"], true),
        ("", Some("pods/é"), PAGE_ITEMS_MAX + 1, &["pods0"], false),
    ];
    let now = store.current_revision().await.unwrap();
    for at in [None, Some(now)] {
        for (prefix, start_after, limit, expected, more) in cases {
            let page = store.list(prefix, start_after, limit, at).await.unwrap();
            assert_eq!((keys(&page.items), page.more), (expected.to_vec(), more), "{prefix} {start_after:?} {limit}");
            assert_eq!(page.revision, now);
        }
    }
    write(&*store, put("pods/c", "later")).await;
    for (prefix, start_after, limit, expected, more) in cases {
        let page = store.list(prefix, start_after, limit, Some(now)).await.unwrap();
        assert_eq!((keys(&page.items), page.more), (expected.to_vec(), more), "{prefix} {start_after:?} {limit}");
    }
}

pub async fn a_snapshot_does_not_move(engine: Engine) {
    let store = engine.open().await;
    for i in 0..60 {
        write(&*store, put(&format!("k/{i:03}"), "before")).await;
    }
    let (before, revision) = list_all(&*store, "k/", 0, None).await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for i in 0..60 {
                let key = format!("k/{i:03}");
                let ops = match i % 3 {
                    0 => vec![delete(&key)],
                    1 => vec![put(&key, "after"), put(&format!("{key}-new"), "after")],
                    _ => vec![delete(&key), put(&format!("j/{i}"), "outside")],
                };
                store.txn(ops).await.unwrap();
                if i % 3 == 0 {
                    write(&*store, put(&key, "back again")).await;
                }
            }
        }
    });
    let mut rounds = 0;
    while !writer.is_finished() || rounds < 2 {
        let (items, at) = list_all(&*store, "k/", 7, Some(revision)).await;
        assert_eq!((items, at), (before.clone(), revision));
        rounds += 1;
    }
    writer.await.unwrap();
}

pub async fn every_past_revision_can_be_listed(engine: Engine) {
    let store = engine.open().await;
    let mut history = Vec::new();
    for i in 0..40 {
        let key = format!("k{}", i % 5);
        let op = if i % 7 == 3 { delete(&key) } else { put(&key, &i.to_string()) };
        write(&*store, op).await;
        history.push(list_all(&*store, "k", 0, None).await);
    }
    for (items, revision) in history {
        assert_eq!(list_all(&*store, "k", 2, Some(revision)).await, (items, revision));
    }
    let current = store.current_revision().await.unwrap();
    let future = store.list("k", None, 0, Some(current + 1)).await;
    assert!(
        matches!(future, Err(Error::FutureRevision { requested, current: c }) if (requested, c) == (current + 1, current))
    );
}

pub async fn large_values_make_short_pages(engine: Engine) {
    let store = engine.open().await;
    let value = Bytes::from(vec![7; 1_200_000]);
    for i in 0..40 {
        write(&*store, Op::Put { key: format!("big/{i:02}"), value: value.clone(), precondition: None }).await;
    }
    let page = store.list("big/", None, 0, None).await.unwrap();
    assert!(page.more && page.items.len() < 40, "{} items", page.items.len());
    let (items, _) = list_all(&*store, "big/", 0, None).await;
    assert_eq!(items.len(), 40);
}
