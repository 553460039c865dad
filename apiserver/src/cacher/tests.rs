//! The cache as its readers see it: order, indexes, limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gantry_api::codec;
use gantry_api::kinds::Catalog;
use gantry_api::selector::{FieldSelector, LabelSelector};
use gantry_store::{Event, EventKind, KeyValue};
use serde_json::json;

use super::watchers::WATCHER_QUEUE_MAX;
use super::*;

struct Fixture {
    cache: Arc<ResourceCache>,
    revision: u64,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        let catalog = Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").expect("pods are built in");
        Self { cache: Arc::new(ResourceCache::new(Arc::clone(pods))), revision: 1, now: Instant::now() }
    }

    fn event(&mut self, kind: EventKind, name: &str, node: &str, app: &str) -> u64 {
        self.revision += 1;
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "t", "labels": {"app": app}}, "spec": {"nodeName": node},
        });
        let kv = KeyValue {
            key: format!("/registry/core/pods/t/{name}"),
            value: codec::encode(&object),
            create_revision: self.revision,
            mod_revision: self.revision,
        };
        self.cache.apply(&Event { kind, kv, prev: None }, None, self.now).unwrap();
        self.revision
    }

    fn put(&mut self, name: &str, node: &str, app: &str) -> u64 {
        self.event(EventKind::Put, name, node, app)
    }

    fn watch(&self, filter: Filter, start: WatchStart) -> Result<Subscription, u64> {
        self.cache.watch("/registry/core/pods/", Arc::new(filter), start).map(|(subscription, _)| subscription)
    }
}

fn on_node(node: &str) -> Filter {
    Filter { fields: Some(FieldSelector::parse(&format!("spec.nodeName={node}")).unwrap()), ..Filter::default() }
}

fn kinds(subscription: &mut Subscription) -> Vec<(Kind, String)> {
    let mut seen = Vec::new();
    while let Ok(delivery) = subscription.queue.try_recv() {
        seen.push((delivery.kind, delivery.change.entry.facts.name.clone()));
    }
    seen
}

#[test]
fn a_move_between_nodes_is_a_departure_and_an_arrival() {
    let mut fixture = Fixture::new();
    fixture.put("p", "n1", "a");
    let mut one = fixture.watch(on_node("n1"), WatchStart::After(fixture.revision)).unwrap();
    let mut two = fixture.watch(on_node("n2"), WatchStart::After(fixture.revision)).unwrap();
    let at = fixture.put("p", "n2", "a");
    let delivery = one.queue.try_recv().unwrap();
    assert_eq!(delivery.kind, Kind::Deleted);
    let frame = delivery.change.frame(delivery.kind);
    let event: serde_json::Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(event["object"]["spec"]["nodeName"], "n1");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], at.to_string());
    assert_eq!(kinds(&mut two), [(Kind::Added, "p".to_owned())]);
}

#[test]
fn each_scope_hears_what_concerns_it() {
    let mut fixture = Fixture::new();
    let start = WatchStart::After(1);
    let labels = Filter { labels: Some(LabelSelector::parse("app=a").unwrap()), ..Filter::default() };
    let named = Filter { namespace: "t".into(), name: Some("p1".into()), ..Filter::default() };
    let elsewhere = Filter { namespace: "other".into(), ..Filter::default() };
    let mut all = fixture.watch(Filter::default(), start).unwrap();
    let mut labelled = fixture.watch(labels, start).unwrap();
    let mut named = fixture.watch(named, start).unwrap();
    let mut elsewhere = fixture.watch(elsewhere, start).unwrap();
    fixture.put("p1", "", "a");
    fixture.put("p2", "", "b");
    fixture.event(EventKind::Delete, "p1", "", "a");
    let added = |name: &str| (Kind::Added, name.to_owned());
    assert_eq!(kinds(&mut all), [added("p1"), added("p2"), (Kind::Deleted, "p1".to_owned())]);
    assert_eq!(kinds(&mut labelled), [added("p1"), (Kind::Deleted, "p1".to_owned())]);
    assert_eq!(kinds(&mut named), [added("p1"), (Kind::Deleted, "p1".to_owned())]);
    assert_eq!(kinds(&mut elsewhere), []);
    assert_eq!(fixture.cache.stats().watchers, 4);
    drop((all, labelled, named, elsewhere));
    assert_eq!(fixture.cache.stats().watchers, 0);
}

#[test]
fn a_backlog_and_a_queue_meet_without_gap_or_overlap() {
    let mut fixture = Fixture::new();
    let from = fixture.put("p1", "", "a");
    fixture.put("p2", "", "a");
    let mut watch = fixture.watch(Filter::default(), WatchStart::After(from)).unwrap();
    fixture.put("p3", "", "a");
    let backlog: Vec<u64> = watch.backlog.iter().map(|delivery| delivery.change.revision).collect();
    assert_eq!(backlog, [from + 1]);
    assert_eq!(kinds(&mut watch), [(Kind::Added, "p3".to_owned())]);
}

#[test]
fn a_watcher_that_does_not_read_is_closed_and_nobody_else() {
    let mut fixture = Fixture::new();
    let mut stuck = fixture.watch(Filter::default(), WatchStart::After(1)).unwrap();
    for _ in 0..=WATCHER_QUEUE_MAX {
        fixture.put("p", "", "a");
    }
    assert_eq!(fixture.cache.stats().watchers, 0);
    assert_eq!(kinds(&mut stuck).len(), WATCHER_QUEUE_MAX, "what was queued is still delivered");
    assert!(matches!(stuck.queue.try_recv(), Err(tokio::sync::mpsc::error::TryRecvError::Disconnected)));
}

#[test]
fn the_log_forgets_by_age_and_says_so() {
    let mut fixture = Fixture::new();
    for index in 0..150 {
        fixture.put(&format!("p{index}"), "", "a");
    }
    assert!(fixture.watch(Filter::default(), WatchStart::After(2)).is_ok());
    fixture.now += Duration::from_secs(3600);
    let last = fixture.put("late", "", "a");
    let oldest = fixture.watch(Filter::default(), WatchStart::After(2)).unwrap_err();
    assert_eq!(oldest, last - 100, "a hundred changes stay however old they are");
    assert_eq!(fixture.watch(Filter::default(), WatchStart::After(oldest)).unwrap().backlog.len(), 100);
}

#[test]
fn pages_follow_each_other() {
    let mut fixture = Fixture::new();
    for name in ["a", "b", "c", "d", "e"] {
        fixture.put(name, if name < "d" { "n1" } else { "n2" }, "x");
    }
    let prefix = "/registry/core/pods/t/";
    let first = fixture.cache.list(prefix, None, 2, &Filter::default());
    assert_eq!((first.entries.len(), first.remaining), (2, Some(3)));
    let rest = fixture.cache.list(prefix, first.more_after.as_deref(), 0, &Filter::default());
    assert_eq!(rest.entries.iter().map(|entry| entry.facts.name.as_str()).collect::<Vec<_>>(), ["c", "d", "e"]);
    let exact = fixture.cache.list(prefix, None, 3, &on_node("n1"));
    assert!(exact.more_after.is_none(), "nothing that is selected follows");
    let unknown = fixture.cache.list(prefix, None, 1, &on_node("n1"));
    assert!(unknown.more_after.is_some() && unknown.remaining.is_none());
}

#[test]
fn frames_and_objects_share_their_bytes() {
    let mut fixture = Fixture::new();
    let mut watch = fixture.watch(Filter::default(), WatchStart::After(1)).unwrap();
    fixture.put("p", "", "a");
    let delivery = watch.queue.try_recv().unwrap();
    let frame: Bytes = delivery.change.frame(delivery.kind);
    let inside = frame.as_ptr_range().contains(&delivery.change.entry.object.as_ptr());
    assert!(inside, "the object is a view into the frame");
}

#[test]
fn keys_name_their_resource() {
    assert_eq!(resource_prefix("/registry/core/pods/ns/name"), Some("/registry/core/pods/"));
    assert_eq!(resource_prefix("/registry/core/nodes/n"), Some("/registry/core/nodes/"));
    assert_eq!(resource_prefix("/registry/x"), None);
    assert_eq!(resource_prefix("/other/core/pods/x"), None);
}

#[test]
fn what_waits_for_a_node_can_be_watched_and_listed_by_that() {
    let mut fixture = Fixture::new();
    let mut waiting = fixture.watch(on_node(""), WatchStart::Now).unwrap();
    let mut placed = fixture.watch(on_node("n1"), WatchStart::Now).unwrap();
    fixture.put("a", "", "web");
    fixture.put("b", "", "web");
    fixture.put("a", "n1", "web");
    assert_eq!(
        kinds(&mut waiting),
        [(Kind::Added, "a".into()), (Kind::Added, "b".into()), (Kind::Deleted, "a".into())]
    );
    assert_eq!(kinds(&mut placed), [(Kind::Added, "a".into())]);
    let names = |filter: Filter| {
        let page = fixture.cache.list("/registry/core/pods/", None, 0, &filter);
        page.entries.iter().map(|entry| entry.facts.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(on_node("")), ["b"]);
    assert_eq!(names(on_node("n1")), ["a"]);
    assert!(names(on_node("n2")).is_empty());
}

#[test]
fn lists_of_a_node_are_what_a_look_at_everything_finds() {
    let mut fixture = Fixture::new();
    // A fixed sequence that creates, moves and deletes in no order.
    let mut number = 7_u32;
    for _ in 0..2_000 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (name, node) = (format!("p{}", number >> 28), ["", "n1", "n2"][(number >> 20) as usize % 3]);
        let kind = if (number >> 10).is_multiple_of(4) { EventKind::Delete } else { EventKind::Put };
        fixture.event(kind, &name, node, "web");
    }
    for node in ["", "n1", "n2", "n3"] {
        let listed = fixture.cache.list("/registry/core/pods/", None, 0, &on_node(node));
        let mut found = Vec::new();
        let filter = on_node(node);
        fixture.cache.for_each(|entry| {
            if filter.matches(&entry.facts) {
                found.push(entry.key.to_string());
            }
        });
        assert_eq!(listed.entries.iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>(), found, "{node}");
    }
}
