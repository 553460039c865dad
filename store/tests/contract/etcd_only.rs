//! What only the etcd engine has to stand: members dying and coming back, limits of a cluster, who may use it, and other
//! users of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_store::{Error, EtcdTls, EventBatch, FIRST_REVISION, Op, Options, Revision, Store, Target};

use crate::common::etcd::{EtcdCluster, Setup};
use crate::common::{Engine, PATIENCE, events_through, list_all, next_events, put, test_options, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_the_whole_cluster_dying_under_it() {
    let Some(mut engine) = Engine::etcd().await else { return };
    engine.options.etcd.request_timeout = Duration::from_secs(2);
    let store = engine.open().await;
    let mut watch = store.watch("k", FIRST_REVISION).await.unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        for i in 0..20 {
            acknowledged.push(write(&*store, put("k", &format!("{round}/{i}"))).await);
        }
        // Some of what was written has been seen before the end, some not.
        let first = next_events(&mut watch).await.unwrap().revision;
        assert_eq!(first, acknowledged[round * 20]);
        let cluster = engine.etcd.as_mut().unwrap();
        for member in 0..3 {
            cluster.kill(member);
        }
        let during = store.txn(vec![put("other", "x")]).await;
        assert!(matches!(during, Err(Error::UnknownOutcome(_) | Error::Unavailable(_))), "{during:?}");
        // With the members the tokens are gone that the password got.
        cluster.restart_all().await;
        let items = loop {
            match store.list("k", None, 0, None).await {
                Ok(page) => break page.items,
                Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
            }
        };
        assert_eq!(Some(&items[0].mod_revision), acknowledged.last(), "an acknowledged write is there");
        let seen = events_through(&mut watch, *acknowledged.last().unwrap()).await;
        let seen: Vec<_> = seen.iter().map(|batch| batch.revision).collect();
        assert_eq!(seen, acknowledged[round * 20 + 1..], "no event lost, none twice");
    }
}

/// Writes until told to stop; the revisions of what was acknowledged.
async fn write_on(store: Arc<dyn Store>, name: &str, stop: Arc<std::sync::atomic::AtomicBool>) -> Vec<Revision> {
    let mut acknowledged = Vec::new();
    for i in 0.. {
        if stop.load(std::sync::atomic::Ordering::Acquire) {
            break;
        }
        match store
            .txn(vec![put(&format!("k/{name}/a"), &i.to_string()), put(&format!("k/{name}/b"), &i.to_string())])
            .await
        {
            Ok(revision) => acknowledged.push(revision),
            Err(Error::UnknownOutcome(_) | Error::Unavailable(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_when_leaders_die() {
    let setup = Setup { election: 1_000, tls: true, auth: true, ..Setup::default() };
    let Some(mut engine) = Engine::etcd_with(setup).await else { return };
    engine.options.etcd.request_timeout = Duration::from_secs(3);
    let store = engine.open().await;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = ["one", "two"]
        .map(|name| tokio::spawn(write_on(Arc::clone(&store), name, Arc::clone(&stop))))
        .into_iter()
        .collect();
    let mut steady = store.watch("k/", FIRST_REVISION).await.unwrap();
    let mut seen: Vec<EventBatch> = Vec::new();
    let mut resumed: Vec<EventBatch> = Vec::new();
    for round in 1..=3 {
        // One watch that is never made anew by its user, one that is made anew all the time.
        let after = resumed.last().map_or(FIRST_REVISION, |batch| batch.revision);
        let mut again = open_watch(&*store, after).await;
        while seen.len() < round * 60 {
            seen.push(next_events(&mut steady).await.unwrap());
            resumed.push(next_events(&mut again).await.unwrap());
        }
        drop(again);
        let cluster = engine.etcd.as_mut().unwrap();
        let leader = cluster.leader().await;
        cluster.kill(leader);
        cluster.leader().await;
        cluster.restart(leader);
    }
    stop.store(true, std::sync::atomic::Ordering::Release);
    let mut acknowledged: Vec<Revision> = Vec::new();
    for writer in writers {
        acknowledged.extend(tokio::time::timeout(PATIENCE, writer).await.unwrap().unwrap());
    }
    engine.etcd.as_mut().unwrap().wait_ready().await;
    let store = engine.open().await;
    let last = write(&*store, put("k/end", "x")).await;
    let mut again = store.watch("k/", resumed.last().unwrap().revision).await.unwrap();
    seen.extend(events_through(&mut steady, last).await);
    resumed.extend(events_through(&mut again, last).await);
    let mut whole = store.watch("k/", FIRST_REVISION).await.unwrap();
    let expected = events_through(&mut whole, last).await;
    assert_eq!(seen, expected, "no event lost, none twice");
    assert_eq!(resumed, expected, "no event lost, none twice, across watches");
    for revision in acknowledged {
        assert!(
            expected.binary_search_by_key(&revision, |batch| batch.revision).is_ok(),
            "{revision} was acknowledged"
        );
    }
}

async fn open_watch(store: &dyn Store, after: Revision) -> gantry_store::Watch {
    loop {
        match store.watch("k/", after).await {
            Ok(watch) => return watch,
            Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_prefix_see_each_other_and_others_do_not() {
    let Some(mut engine) = Engine::etcd_with(Setup::default()).await else { return };
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

async fn open(cluster: &EtcdCluster, change: impl FnOnce(&mut Options)) -> Result<Arc<dyn Store>, Error> {
    let mut options = Options { etcd: cluster.options(), ..test_options() };
    options.etcd.request_timeout = Duration::from_secs(2);
    change(&mut options);
    gantry_store::open(&cluster.target(), options).await
}

/// An error with its causes.
fn text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_right_certificate_is_told_so() {
    let Some(cluster) = EtcdCluster::start(Setup { members: 1, tls: true, ..Setup::default() }).await else { return };
    write(&*open(&cluster, |_| ()).await.unwrap(), put("a", "1")).await;
    let tls = |client| Some(EtcdTls { ca_file: cluster.certs().ca.clone(), client });
    let error = open(&cluster, |options| options.etcd.tls = tls(None)).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable(_)) && text(&error).contains(cluster.endpoint(0)), "{}", text(&error));
    assert!(text(&error).to_lowercase().contains("certificate"), "{}", text(&error));
    let stranger = tempfile::tempdir().unwrap();
    let ca_file = crate::common::certs::Certs::make(stranger.path()).ca;
    let client = tls(None).and_then(|tls| tls.client);
    let error = open(&cluster, |options| options.etcd.tls = Some(EtcdTls { ca_file, client })).await.err().unwrap();
    assert!(text(&error).contains("invalid peer certificate"), "{}", text(&error));
    let error = open(&cluster, |options| options.etcd.tls = None).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    let nowhere = tls(Some(("/nowhere/client.pem".into(), "/nowhere/client.key".into())));
    let error = open(&cluster, |options| options.etcd.tls = nowhere).await.err().unwrap();
    assert!(matches!(&error, Error::Io { path, .. } if path == Path::new("/nowhere/client.pem")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_right_password_is_told_so() {
    let Some(cluster) = EtcdCluster::start(Setup { auth: true, ..Setup::default() }).await else { return };
    let store = open(&cluster, |_| ()).await.unwrap();
    write(&*store, put("a", "1")).await;
    let wrong = cluster.dir.path().join("wrong");
    std::fs::write(&wrong, "guess").unwrap();
    let error =
        open(&cluster, |options| options.etcd.login.as_mut().unwrap().password_file = wrong).await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    // Whoever does not log in is let in by etcd, but not to any key; the first one is read when the store is opened.
    let error = open(&cluster, |options| options.etcd.login = None).await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    let error = open(&cluster, |options| options.etcd.key_prefix = "/elsewhere".to_owned()).await.err().unwrap();
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
}

#[tokio::test]
async fn what_is_too_large_for_this_etcd_is_refused_as_that() {
    let flags = ["--max-request-bytes", "100000"].map(str::to_owned).to_vec();
    let Some(cluster) = EtcdCluster::start(Setup { members: 1, flags, ..Setup::default() }).await else { return };
    let store = open(&cluster, |_| ()).await.unwrap();
    // The first is refused by etcd, the second already by its gRPC server.
    for size in [200_000, 1_400_000] {
        let put = Op::Put { key: "a".to_owned(), value: Bytes::from(vec![b'x'; size]), precondition: None };
        let refused = store.txn(vec![put]).await;
        assert!(
            matches!(refused, Err(Error::TooLarge { size: told, limit: None, .. }) if told == size + 1),
            "{refused:?}"
        );
    }
    assert_eq!(store.get("a").await.unwrap(), (None, FIRST_REVISION));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_stops_writes_and_keeps_reads() {
    let flags = ["--quota-backend-bytes", "4000000"].map(str::to_owned).to_vec();
    let Some(cluster) = EtcdCluster::start(Setup { members: 1, flags, ..Setup::default() }).await else { return };
    let store = open(&cluster, |_| ()).await.unwrap();
    let value = "x".repeat(500_000);
    let mut watch = store.watch("k", FIRST_REVISION).await.unwrap();
    let mut last = 0;
    let error = loop {
        match store.txn(vec![put("k", &value)]).await {
            Ok(revision) => last = revision,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::NoSpace(_)), "{error:?}");
    // The write that fills etcd, and races with others of its size, is done and refused.
    let found = store.get("k").await.unwrap().0.unwrap().mod_revision;
    assert!((last..=last + 1).contains(&found), "{found} after {last}");
    last = found;
    events_through(&mut watch, last).await;
    // What an administrator does then.
    store.compact(last).await.unwrap();
    let mut admin = cluster.admin(0).await.unwrap();
    admin.defragment().await.unwrap();
    let member = admin.status().await.unwrap().header().unwrap().member_id();
    let mut options = etcd_client::AlarmOptions::new();
    options.with_member(member);
    let (action, alarm) = (etcd_client::AlarmAction::Deactivate, etcd_client::AlarmType::Nospace);
    admin.alarm(action, alarm, Some(options)).await.unwrap();
    assert!(write(&*store, put("k", "small")).await > last);
}
