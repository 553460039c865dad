//! Whatever is written, and whenever a watcher falls behind, goes away and comes back: it sees every change that concerns it
//! exactly once and in order, until it is told that it has to list again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_api::codec;
use gantry_api::kinds::Catalog;
use gantry_api::selector::{FieldSelector, LabelSelector};
use gantry_store::{Event, EventKind, KeyValue};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::mpsc::error::TryRecvError;

use super::recall::Recent;
use super::watchers::WATCHER_QUEUE_MAX;
use super::*;

const PREFIX: &str = "/registry/core/pods/";

/// What selectors can tell of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looks {
    node: u8,
    app: u8,
}

/// One change: who, at which revision, and how it looked before and after.
#[derive(Debug, Clone)]
struct Written {
    revision: u64,
    name: u8,
    before: Option<Looks>,
    after: Option<Looks>,
}

/// A store in its plainest form, with everything that ever happened in it.
struct Model {
    cache: Arc<ResourceCache>,
    objects: BTreeMap<u8, (Looks, u64)>,
    history: Vec<Written>,
    /// The same as the store tells it.
    events: Vec<Event>,
    revision: u64,
    now: Instant,
}

impl Model {
    fn new() -> Self {
        let catalog = Catalog::builtin();
        let pods = catalog.resource("", "v1", "pods").unwrap();
        let cache = Arc::new(ResourceCache::new(Arc::clone(pods)));
        Self {
            cache,
            objects: BTreeMap::new(),
            history: Vec::new(),
            events: Vec::new(),
            revision: 1,
            now: Instant::now(),
        }
    }

    /// Begins with an empty cache and what the store has: the last `kept` changes, and what is there.
    fn restart(&mut self, kept: usize) {
        let resource = self.cache.resource();
        let forgotten = self.events.len().saturating_sub(kept);
        let mut recent = Recent::after(forgotten.checked_sub(1).map_or(1, |last| self.events[last].kv.mod_revision));
        for event in &self.events[forgotten..] {
            recent.add(&resource, event, self.now);
        }
        let last = |name: &u8| {
            let key = format!("{PREFIX}t/p{name}");
            let kv = &self.events.iter().rfind(|event| event.kv.key == key).unwrap().kv;
            Entry::new(&resource, &kv.key, kv.mod_revision, &kv.value).unwrap()
        };
        let entries = self.objects.keys().map(last).collect();
        self.cache = Arc::new(ResourceCache::new(Arc::clone(&resource)));
        self.cache.replace(Snapshot { revision: self.revision, entries, unreadable: Vec::new(), recent });
    }

    /// Writes an object, or deletes it.
    fn write(&mut self, name: u8, after: Option<Looks>) {
        let before = self.objects.get(&name).map(|(looks, _)| *looks);
        if before.is_none() && after.is_none() {
            return;
        }
        // Other resources are written to as well.
        self.revision += 1 + u64::from(name % 3);
        let shown = after.or(before).unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("p{name}"), "namespace": "t", "labels": {"app": format!("a{}", shown.app)}},
            "spec": {"nodeName": format!("n{}", shown.node)},
        });
        let kv = KeyValue {
            key: format!("{PREFIX}t/p{name}"),
            value: codec::encode(&object),
            create_revision: self.revision,
            mod_revision: self.revision,
        };
        let kind = if after.is_some() { EventKind::Put } else { EventKind::Delete };
        let prev = before.and_then(|_| self.events.iter().rfind(|event| event.kv.key == kv.key));
        let event = Event { kind, prev: prev.map(|event| event.kv.clone()), kv };
        self.cache.apply(&event, None, self.now).unwrap();
        self.events.push(event);
        self.history.push(Written { revision: self.revision, name, before, after });
        match after {
            Some(looks) => drop(self.objects.insert(name, (looks, self.revision))),
            None => drop(self.objects.remove(&name)),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Wish {
    All,
    App(u8),
    Node(u8),
    Name(u8),
}

impl Wish {
    fn filter(self) -> Arc<Filter> {
        let mut filter = Filter { namespace: "t".to_owned(), ..Filter::default() };
        match self {
            Wish::All => {}
            Wish::App(app) => filter.labels = Some(LabelSelector::parse(&format!("app=a{app}")).unwrap()),
            Wish::Node(node) => {
                filter.fields = Some(FieldSelector::parse(&format!("spec.nodeName=n{node}")).unwrap());
            }
            Wish::Name(name) => filter.name = Some(format!("p{name}")),
        }
        Arc::new(filter)
    }

    fn is_met(self, name: u8, looks: Looks) -> bool {
        match self {
            Wish::All => true,
            Wish::App(app) => looks.app == app,
            Wish::Node(node) => looks.node == node,
            Wish::Name(wanted) => wanted == name,
        }
    }

    /// What a change is to who wishes this.
    fn kind_of(self, change: &Written) -> Option<Kind> {
        let met = |looks: Option<Looks>| looks.is_some_and(|looks| self.is_met(change.name, looks));
        match (met(change.before), met(change.after)) {
            (false, true) => Some(Kind::Added),
            (true, true) => Some(Kind::Modified),
            (true, false) => Some(Kind::Deleted),
            (false, false) => None,
        }
    }
}

/// A client as informers are: it lists, watches from there, and takes the watch up again where it ended.
struct Client {
    wish: Wish,
    /// Everything up to here has been seen.
    seen: u64,
    view: BTreeMap<String, u64>,
    session: Option<Session>,
    lists: u32,
    resumed: u32,
}

struct Session {
    ahead: std::collections::VecDeque<Delivery>,
    subscription: Subscription,
}

impl Client {
    fn new(wish: Wish) -> Self {
        Self { wish, seen: 0, view: BTreeMap::new(), session: None, lists: 0, resumed: 0 }
    }

    fn list(&mut self, model: &Model) {
        let page = model.cache.list(PREFIX, None, 0, &self.wish.filter());
        self.view = page.entries.iter().map(|entry| (entry.facts.name.clone(), entry.revision)).collect();
        self.seen = page.changed.max(model.revision);
        self.lists += 1;
    }

    /// A list that comes through the watch itself.
    fn stream(&mut self, model: &Model) {
        let (subscription, changed) = model.cache.watch(PREFIX, self.wish.filter(), WatchStart::Now).unwrap();
        self.view = subscription.initial.iter().map(|entry| (entry.facts.name.clone(), entry.revision)).collect();
        self.seen = changed;
        self.session = Some(Session { ahead: Default::default(), subscription });
        self.lists += 1;
    }

    fn connect(&mut self, model: &Model, stream: bool) {
        if self.seen == 0 {
            if stream {
                return self.stream(model);
            }
            self.list(model);
        }
        match model.cache.watch(PREFIX, self.wish.filter(), WatchStart::After(self.seen)) {
            Ok((mut subscription, _)) => {
                let ahead = std::mem::take(&mut subscription.backlog).into();
                self.session = Some(Session { ahead, subscription });
                self.resumed += 1;
            }
            Err(oldest) => {
                assert!(oldest > self.seen, "told to list again though nothing is missing");
                self.seen = 0;
                self.connect(model, stream);
            }
        }
    }

    /// Reads up to `most` changes; true if there was nothing more.
    fn read(&mut self, model: &Model, most: usize) -> bool {
        for _ in 0..most {
            let Some(session) = &mut self.session else { return false };
            let delivery = match session.ahead.pop_front() {
                Some(delivery) => delivery,
                None => match session.subscription.queue.try_recv() {
                    Ok(delivery) => delivery,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => {
                        self.session = None;
                        return false;
                    }
                },
            };
            self.take(model, &delivery);
        }
        false
    }

    /// What comes is the next change that concerns it, whole.
    fn take(&mut self, model: &Model, delivery: &Delivery) {
        let from = model.history.partition_point(|change| change.revision <= self.seen);
        let next = model.history[from..].iter().find_map(|change| Some((self.wish.kind_of(change)?, change)));
        let (kind, change) = next.expect("a change that nobody made, or one that was seen before");
        let got = (delivery.change.revision, delivery.kind, delivery.change.entry.facts.name.clone());
        assert_eq!(got, (change.revision, kind, format!("p{}", change.name)), "{:?} after {}", self.wish, self.seen);
        self.seen = change.revision;
        match kind {
            Kind::Deleted => assert!(self.view.remove(&got.2).is_some(), "{got:?} was not there"),
            Kind::Added => assert!(self.view.insert(got.2.clone(), got.0).is_none(), "{got:?} was there"),
            Kind::Modified => assert!(self.view.insert(got.2.clone(), got.0).is_some(), "{got:?} was not there"),
        }
    }

    fn agrees_with(&self, model: &Model) {
        let met = model.objects.iter().filter(|(name, (looks, _))| self.wish.is_met(**name, *looks));
        let wanted: BTreeMap<String, u64> = met.map(|(name, (_, revision))| (format!("p{name}"), *revision)).collect();
        assert_eq!(self.view, wanted, "{:?}", self.wish);
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Some changes, by their number and a seed.
    Write(u16, u64),
    /// Time passes, so that the log forgets what it may.
    Wait,
    /// A client reads this much.
    Read(usize, u16),
    /// A client reads what there is and is told how far that leads.
    Bookmark(usize),
    Leave(usize),
    Return(usize, bool),
    /// The server ends and comes back, with so many changes in the store's history.
    Restart(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..5_usize;
    let step = prop_oneof![
        6 => (1..40_u16, any::<u64>()).prop_map(|(count, seed)| Step::Write(count, seed)),
        1 => (100..400_u16, any::<u64>()).prop_map(|(count, seed)| Step::Write(count, seed)),
        2 => Just(Step::Wait),
        6 => (client.clone(), 1..60_u16).prop_map(|(client, most)| Step::Read(client, most)),
        3 => client.clone().prop_map(Step::Bookmark),
        3 => client.clone().prop_map(Step::Leave),
        4 => (client, any::<bool>()).prop_map(|(client, stream)| Step::Return(client, stream)),
        1 => (0..600_usize).prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

fn random_writes(model: &mut Model, count: u16, mut seed: u64) {
    for _ in 0..count {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = seed >> 33;
        let looks = Looks { node: (bits >> 4) as u8 % 3, app: (bits >> 6) as u8 % 3 };
        model.write((bits % 7) as u8, (bits >> 8 & 3 != 0).then_some(looks));
    }
}

fn clients() -> Vec<Client> {
    [Wish::All, Wish::App(1), Wish::Node(0), Wish::Name(3), Wish::All].into_iter().map(Client::new).collect()
}

fn take_step(model: &mut Model, clients: &mut [Client], step: &Step) {
    match *step {
        Step::Write(count, seed) => random_writes(model, count, seed),
        Step::Wait => model.now += Duration::from_secs(600),
        Step::Read(client, most) => drop(clients[client].read(model, usize::from(most))),
        Step::Bookmark(client) => {
            let client = &mut clients[client];
            // A bookmark carries the cache's revision, after everything up to it.
            if client.session.is_some() && client.read(model, usize::MAX) {
                client.agrees_with(model);
                client.seen = client.seen.max(model.revision);
            }
        }
        Step::Leave(client) => clients[client].session = None,
        Step::Restart(kept) => {
            model.restart(kept);
            clients.iter_mut().for_each(|client| client.session = None);
        }
        Step::Return(client, stream) => {
            if clients[client].session.is_none() {
                clients[client].connect(model, stream);
            }
        }
    }
}

fn catch_up(model: &Model, client: &mut Client) {
    loop {
        if client.session.is_none() {
            client.connect(model, false);
        }
        if client.read(model, usize::MAX) {
            return client.agrees_with(model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_watcher_sees_every_change_exactly_once(steps in steps()) {
        let mut model = Model::new();
        let mut clients = clients();
        for step in &steps {
            take_step(&mut model, &mut clients, step);
        }
        for client in &mut clients {
            catch_up(&model, client);
        }
    }
}

#[test]
fn one_that_stops_reading_is_closed_and_goes_on_where_it_stopped() {
    let mut model = Model::new();
    let mut client = Client::new(Wish::All);
    random_writes(&mut model, 50, 1);
    client.connect(&model, false);
    random_writes(&mut model, WATCHER_QUEUE_MAX as u16 + 3000, 2);
    assert!(!client.read(&model, usize::MAX), "its queue ends");
    assert!(client.session.is_none());
    catch_up(&model, &mut client);
    assert_eq!((client.lists, client.resumed), (1, 2), "nothing had to be listed again");
    // A server that comes back knows what its store does.
    client.session = None;
    random_writes(&mut model, 100, 5);
    model.restart(150);
    catch_up(&model, &mut client);
    assert_eq!((client.lists, client.resumed), (1, 3), "nothing had to be listed again");
    // What it has not seen for too long is gone.
    client.session = None;
    random_writes(&mut model, 200, 3);
    model.now += Duration::from_secs(600);
    random_writes(&mut model, 500, 4);
    catch_up(&model, &mut client);
    assert_eq!((client.lists, client.resumed), (2, 4));
}
