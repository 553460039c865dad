//! Backups of a store at work, read back whole, and every kind of damage found.

use futures::TryStreamExt;

use super::*;
use crate::{Op, Options, Target};

async fn store(dir: &std::path::Path, keys: usize) -> Arc<dyn Store> {
    let store = crate::open(&Target::Embedded(dir.join("store")), Options::default()).await.unwrap();
    let put = |n: usize| Op::Put {
        key: format!("/registry/k{n:05}"),
        value: Bytes::from(vec![b'a' + (n % 26) as u8; 900]),
        precondition: None,
    };
    for some in (0..keys).collect::<Vec<_>>().chunks(100) {
        store.txn(some.iter().map(|n| put(*n)).collect()).await.unwrap();
    }
    store
}

async fn bytes_of(store: &Arc<dyn Store>) -> Vec<u8> {
    snapshot(Arc::clone(store)).try_collect::<Vec<_>>().await.unwrap().concat()
}

fn read(bytes: &[u8]) -> Result<(Header, Vec<KeyValue>), BackupError> {
    let (mut reader, header) = Reader::open(bytes)?;
    let mut all = Vec::new();
    while let Some(records) = reader.next_chunk()? {
        all.extend(records);
    }
    Ok((header, all))
}

#[tokio::test]
async fn a_backup_reads_back_as_the_snapshot_it_is_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1_200).await;
    let page = store.list("", None, 0, None).await.unwrap();
    let mut stream = std::pin::pin!(snapshot(Arc::clone(&store)));
    let mut bytes = stream.try_next().await.unwrap().unwrap().to_vec();
    store.txn(vec![Op::Delete { key: "/registry/k00100".into(), precondition: None }]).await.unwrap();
    store.txn(vec![Op::Put { key: "/registry/later".into(), value: Bytes::new(), precondition: None }]).await.unwrap();
    while let Some(part) = stream.try_next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    let (header, records) = read(&bytes).unwrap();
    assert_eq!((header.revision, header.engine.as_str()), (page.revision, "embedded"));
    assert_eq!(records, page.items);
    store.close().await.unwrap();
}

#[tokio::test]
async fn every_changed_or_missing_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 3).await;
    let bytes = bytes_of(&store).await;
    read(&bytes).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(read(&changed).is_err(), "byte {at} changed");
        assert!(read(&bytes[..at]).is_err(), "cut to {at}");
    }
    assert!(read(&[bytes.as_slice(), b"x"].concat()).is_err(), "something behind the end");
    assert!(matches!(read(b"not a backup at all, but long enough"), Err(BackupError::NotABackup)));
    let mut newer = bytes.clone();
    newer[8] = 9;
    assert!(matches!(read(&newer), Err(BackupError::Version(9))));
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_gets_its_name_only_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 10).await;
    let path = dir.path().join("b.backup");
    let (header, records) = write_file(snapshot(Arc::clone(&store)), &path, |_| {}).await.unwrap();
    assert_eq!((header.revision, records), (store.current_revision().await.unwrap(), 10));
    let whole = std::fs::read(&path).unwrap();
    let torn = futures::stream::iter([Ok::<_, Error>(Bytes::copy_from_slice(&whole[..whole.len() - 1]))]);
    assert!(matches!(write_file(torn, &path, |_| {}).await, Err(BackupError::Truncated { .. })));
    let failing = futures::stream::iter([Ok(Bytes::from_static(b"x")), Err(Error::Closed)]);
    assert!(matches!(write_file(failing, &path, |_| {}).await, Err(BackupError::Source(_))));
    assert_eq!(std::fs::read(&path).unwrap(), whole, "what was there is still there");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    store.close().await.unwrap();
}
