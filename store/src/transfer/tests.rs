//! Stores filled from others: what clients of either may have seen stays behind.

use super::*;
use futures::StreamExt;

use crate::Precondition;

fn target(dir: &tempfile::TempDir, name: &str) -> Target {
    Target::Embedded(dir.path().join(name))
}

fn record(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: value.to_owned().into(), create_revision: 2, mod_revision: 3 }
}

async fn filled(
    target: &Target,
    records: Vec<KeyValue>,
    seen: Revision,
    replace: bool,
) -> Result<Transferred, TransferError> {
    fill(target, Options::default(), futures::stream::iter([Ok::<_, Error>(records)]), seen, replace, |_| {}).await
}

#[tokio::test]
async fn revisions_go_on_from_those_that_were_seen() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir, "a");
    let done = filled(&target, vec![record("/a", "1"), record("/b", "2")], 5_000, false).await.unwrap();
    assert_eq!(done.records, 2);
    let store = crate::open(&target, Options::default()).await.unwrap();
    assert_eq!(store.current_revision().await.unwrap(), done.revision);
    let page = store.list("", None, 0, None).await.unwrap();
    assert_eq!(
        page.items.iter().map(|kv| kv.key.as_str()).collect::<Vec<_>>(),
        ["/a", "/b"],
        "its own keys are not shown"
    );
    assert!(page.items.iter().all(|kv| kv.mod_revision > 5_000 && kv.create_revision > 5_000), "{page:?}");
    for old in [1, 4_999, 5_000] {
        assert!(matches!(store.watch("", old).await, Err(Error::Compacted { oldest }) if oldest > 5_000), "{old}");
        assert!(matches!(store.list("", None, 0, Some(old)).await, Err(Error::Compacted { .. })), "{old}");
    }
    let future = store.watch("", done.revision + 7).await.unwrap_err();
    assert!(
        matches!(future, Error::FutureRevision { requested, current } if (requested, current) == (done.revision + 7, done.revision))
    );

    // It goes on as any store does.
    let mut watch = store.watch("/", done.revision).await.unwrap();
    let put = |value: &str, at| Op::Put {
        key: "/a".into(),
        value: value.to_owned().into(),
        precondition: Some(Precondition::ModRevision(at)),
    };
    let stale = store.txn(vec![put("x", 3)]).await.unwrap_err();
    let Error::Conflict { current: Some(current), .. } = stale else { panic!("{stale:?}") };
    assert_eq!(current, page.items[0]);
    let next = store.txn(vec![put("x", current.mod_revision)]).await.unwrap();
    assert_eq!(next, done.revision + 1);
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.revision, batch.events[0].kv.mod_revision), (next, next));
    assert_eq!(batch.events[0].prev, Some(current));
    assert_eq!(store.get("/a").await.unwrap().0.unwrap().mod_revision, next);
    store.compact(next).await.unwrap();
    assert_eq!(store.status().await.unwrap().oldest_revision, next);
    store.close().await.unwrap();
}

#[tokio::test]
async fn what_is_there_is_replaced_only_when_asked_and_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir, "a");
    let first = filled(&target, vec![record("/a", "1"), record("/b", "2")], 100, false).await.unwrap();
    assert!(matches!(filled(&target, vec![], 0, false).await, Err(TransferError::NotEmpty(_))));
    let second = filled(&target, vec![record("/c", "3")], 7, true).await.unwrap();
    assert!(second.revision > first.revision);
    let store = crate::open(&target, Options::default()).await.unwrap();
    let page = store.list("", None, 0, None).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert!(page.items[0].mod_revision > first.revision);
    assert!(matches!(store.watch("", first.revision).await, Err(Error::Compacted { .. })));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_transfer_that_broke_off_is_not_taken_for_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir, "a");
    let broken = futures::stream::iter([Ok(vec![record("/a", "1")]), Err(Error::Closed)]);
    let failed = fill(&target, Options::default(), broken, 10, false, |_| {}).await;
    assert!(matches!(failed, Err(TransferError::Source(_))));
    assert!(matches!(crate::open(&target, Options::default()).await, Err(Error::Incomplete)));
    filled(&target, vec![record("/a", "2")], 10, true).await.unwrap();
    let store = crate::open(&target, Options::default()).await.unwrap();
    assert_eq!(&store.get("/a").await.unwrap().0.unwrap().value[..], b"2");
    store.close().await.unwrap();
}
