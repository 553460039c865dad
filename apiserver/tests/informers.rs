//! Informers that lose their connection at any moment while others write: each sees every change exactly once, and lists again
//! only when it is told to. And lists in pages while others write: each shows what there was at one moment.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Client, Server, Watch, config_map, revision};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/t/configmaps";

/// Numbers that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// What an informer was told: the revision, the kind of change and the object's name.
type Told = (u64, String, String);

/// What it was told since it last listed.
struct Stretch {
    after: u64,
    until: u64,
    told: Vec<Told>,
}

struct Informer {
    admin: Client,
    random: Random,
    /// A part of a label selector's query.
    selector: &'static str,
    view: BTreeMap<String, u64>,
    stretches: Vec<Stretch>,
    expired: u32,
    watches: u32,
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

impl Informer {
    fn new(admin: Client, seed: u64, selector: &'static str) -> Self {
        let random = Random(seed);
        Self { admin, random, selector, view: BTreeMap::new(), stretches: Vec::new(), expired: 0, watches: 0 }
    }

    fn begin(&mut self, at: u64) {
        self.stretches.push(Stretch { after: at, until: at, told: Vec::new() });
    }

    async fn list(&mut self) {
        let list = self.admin.get(&format!("{CONFIG_MAPS}?limit=500{}", self.selector)).await.expect(200);
        self.view = list["items"].as_array().unwrap().iter().map(|item| (name_of(item), revision(item))).collect();
        self.begin(revision(&list));
    }

    /// Lists through a watch, which goes on; none if the connection is lost before the end of the list.
    async fn stream(&mut self) -> Option<Watch> {
        let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut watch = self.admin.watch(&format!("{CONFIG_MAPS}?{query}{}", self.selector)).await;
        let mut view = BTreeMap::new();
        while self.random.below(40) > 0 {
            let event = watch.next().await?;
            let object = &event["object"];
            match event["type"].as_str().unwrap() {
                "ADDED" => drop(view.insert(name_of(object), revision(object))),
                "BOOKMARK" => {
                    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "{event}");
                    self.view = view;
                    self.begin(revision(object));
                    return Some(watch);
                }
                other => panic!("{other} among the initial events: {event}"),
            }
        }
        None
    }

    async fn resume(&mut self) -> Watch {
        let from = self.stretches.last().unwrap().until;
        let end = if self.random.below(3) == 0 { "&timeoutSeconds=1" } else { "" };
        let query = format!("watch=true&allowWatchBookmarks=true&resourceVersion={from}{end}{}", self.selector);
        self.watches += 1;
        self.admin.watch(&format!("{CONFIG_MAPS}?{query}")).await
    }

    /// Follows until an object of this name is made.
    async fn follow(&mut self, last: &str) {
        let mut listed = !self.stretches.is_empty();
        loop {
            let mut watch = match (listed, self.random.below(2)) {
                (true, _) => self.resume().await,
                (false, 0) => {
                    self.list().await;
                    self.resume().await
                }
                (false, _) => match self.stream().await {
                    Some(watch) => watch,
                    None => continue,
                },
            };
            listed = true;
            // The connection is lost after some events, or at once.
            for _ in 0..self.random.below(25) {
                let Some(event) = watch.next().await else { break };
                if event["type"] == "ERROR" {
                    assert_eq!(
                        (&event["object"]["code"], &event["object"]["reason"]),
                        (&json!(410), &json!("Expired"))
                    );
                    self.expired += 1;
                    listed = false;
                    break;
                }
                self.hear(&event);
                if self.view.contains_key(last) {
                    return;
                }
            }
            if self.view.contains_key(last) {
                return;
            }
        }
    }

    fn hear(&mut self, event: &Value) {
        let (object, stretch) = (&event["object"], self.stretches.last_mut().unwrap());
        let at = revision(object);
        if event["type"] == "BOOKMARK" {
            assert!(at >= stretch.until, "a bookmark goes back: {event}");
            stretch.until = at;
            return;
        }
        let (kind, name) = (event["type"].as_str().unwrap().to_owned(), name_of(object));
        assert!(at > stretch.until, "{kind} {name} at {at} comes after {}", stretch.until);
        stretch.until = at;
        match kind.as_str() {
            "ADDED" => assert!(self.view.insert(name.clone(), at).is_none(), "{name} was added twice"),
            "MODIFIED" => assert!(self.view.insert(name.clone(), at).is_some(), "{name} was not there"),
            "DELETED" => assert!(self.view.remove(&name).is_some(), "{name} was not there"),
            other => panic!("{other}"),
        }
        stretch.told.push((at, kind, name));
    }

    /// What one that was never disconnected saw is what this one saw.
    fn agrees_with(&self, witness: &[Told]) {
        for stretch in &self.stretches {
            let wanted: Vec<&Told> =
                witness.iter().filter(|(at, ..)| *at > stretch.after && *at <= stretch.until).collect();
            assert_eq!(stretch.told.iter().collect::<Vec<_>>(), wanted, "after {}", stretch.after);
        }
    }
}

/// Makes, changes, labels and deletes its own objects.
async fn write(admin: Client, writer: u64, count: u64) {
    let mut random = Random(writer + 100);
    let mut there = std::collections::BTreeSet::new();
    for _ in 0..count {
        let name = format!("w{writer}-{}", random.below(6));
        let path = format!("{CONFIG_MAPS}/{name}");
        let color = ["red", "blue"][random.below(2) as usize];
        if !there.contains(&name) {
            let mut object = config_map(&name);
            object["metadata"]["labels"] = json!({"color": color});
            admin.post(CONFIG_MAPS, &object).await.expect(201);
            there.insert(name);
        } else if random.below(4) == 0 {
            admin.delete(&path, &Value::Null).await.expect(200);
            there.remove(&name);
        } else {
            let number = random.below(1000).to_string();
            let patch = json!({"metadata": {"labels": {"color": color}}, "data": {"number": number}});
            admin.patch(&path, "merge-patch", &patch).await.expect(200);
        }
    }
    for name in there {
        admin.delete(&format!("{CONFIG_MAPS}/{name}"), &Value::Null).await.expect(200);
    }
}

/// Watches without a break until an object of this name is made.
fn witness(
    admin: &Client,
    selector: &'static str,
    from: u64,
    last: &'static str,
) -> tokio::task::JoinHandle<Vec<Told>> {
    let admin = admin.clone();
    tokio::spawn(async move {
        let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={from}{selector}")).await;
        let mut told = Vec::new();
        loop {
            let event = watch.next().await.unwrap();
            let object = &event["object"];
            told.push((revision(object), event["type"].as_str().unwrap().to_owned(), name_of(object)));
            if name_of(object) == last {
                return told;
            }
        }
    })
}

const RED: &str = "&labelSelector=color%3Dred";

/// A list that was read page by page: its revision, and the revision of each object.
type Listed = (u64, BTreeMap<String, u64>);

/// Lists in pages of any size, again and again, until it is told to stop.
fn pager(
    admin: &Client,
    selector: &'static str,
    stop: tokio_util::sync::CancellationToken,
) -> tokio::task::JoinHandle<Vec<Listed>> {
    let admin = admin.clone();
    tokio::spawn(async move {
        let mut random = Random(7);
        let mut lists = Vec::new();
        while !stop.is_cancelled() || lists.is_empty() {
            let (mut objects, mut token, mut at) = (BTreeMap::new(), String::new(), None);
            loop {
                let limit = 1 + random.below(4);
                let page =
                    admin.get(&format!("{CONFIG_MAPS}?limit={limit}&continue={token}{selector}")).await.expect(200);
                assert_eq!(*at.get_or_insert(revision(&page)), revision(&page), "a page of another snapshot");
                let items = page["items"].as_array().unwrap();
                assert!(items.len() as u64 <= limit);
                for item in items {
                    let again = objects.insert(name_of(item), revision(item));
                    assert_eq!(again, None, "{} is on two pages", name_of(item));
                }
                match page["metadata"]["continue"].as_str() {
                    Some(next) => next.clone_into(&mut token),
                    None => break,
                }
            }
            lists.push((at.unwrap(), objects));
        }
        lists
    })
}

/// Each list shows the objects there were at its revision, by what a witness saw since `from`.
fn are_snapshots(lists: &[Listed], from: &Listed, witness: &[Told]) {
    for (at, objects) in lists {
        let mut there = from.1.clone();
        for (revision, kind, name) in witness.iter().take_while(|(revision, ..)| revision <= at) {
            match kind.as_str() {
                "DELETED" => drop(there.remove(name)),
                _ => drop(there.insert(name.clone(), *revision)),
            }
        }
        assert_eq!(*objects, there, "at {at}");
    }
}

/// What there is, with its revision.
async fn everything(admin: &Client, selector: &str) -> Listed {
    let list = admin.get(&format!("{CONFIG_MAPS}?limit=500{selector}")).await.expect(200);
    let objects = list["items"].as_array().unwrap().iter().map(|item| (name_of(item), revision(item))).collect();
    (revision(&list), objects)
}

/// What there is, and of that what is red.
async fn start(admin: &Client) -> (Listed, Listed) {
    (everything(admin, "").await, everything(admin, RED).await)
}

/// Writers and informers at once, compared with those who watch `from` there on; ends with an object called `last`.
async fn round(
    admin: &Client,
    (from, from_red): (Listed, Listed),
    mut informers: Vec<Informer>,
    writes: u64,
    last: &'static str,
) -> Vec<Informer> {
    let (all, red) = (witness(admin, "", from.0, last), witness(admin, RED, from_red.0, last));
    let stop = tokio_util::sync::CancellationToken::new();
    let (pages, red_pages) = (pager(admin, "", stop.clone()), pager(admin, RED, stop.clone()));
    let followers: Vec<_> = informers
        .drain(..)
        .map(|mut informer| {
            tokio::spawn(async move {
                informer.follow(last).await;
                informer
            })
        })
        .collect();
    let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(write(admin.clone(), writer, writes))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    stop.cancel();
    let (pages, red_pages) = (pages.await.unwrap(), red_pages.await.unwrap());
    let mut end = config_map(last);
    end["metadata"]["labels"] = json!({"color": "red"});
    admin.post(CONFIG_MAPS, &end).await.expect(201);
    let (all, red) = (all.await.unwrap(), red.await.unwrap());
    are_snapshots(&pages, &from, &all);
    are_snapshots(&red_pages, &from_red, &red);
    for follower in followers {
        let informer = follower.await.unwrap();
        // Those of an earlier round were compared then.
        let seen = if informer.selector.is_empty() { &all } else { &red };
        informer.agrees_with(seen);
        assert_eq!(informer.view.keys().filter(|name| name.starts_with('w')).count(), 0, "{:?}", informer.view);
        informers.push(informer);
    }
    informers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informers_that_are_cut_off_again_and_again_miss_nothing_and_see_nothing_twice() {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    let selectors = ["", "", RED, RED];
    let informers = selectors.iter().zip(1..).map(|(selector, seed)| Informer::new(admin.clone(), seed, selector));
    let first = round(&admin, start(&admin).await, informers.collect(), 60, "end-1");
    let informers = tokio::time::timeout(Duration::from_secs(240), first).await.expect("the first round ends");
    for informer in &informers {
        assert_eq!(informer.expired, 0, "everything was there still");
        assert!(informer.watches > 1, "nothing was resumed");
    }

    // A new process knows what happened before it.
    let from = start(&admin).await;
    admin.post(CONFIG_MAPS, &config_map("unheard-of")).await.expect(201);
    let server = Server::start_in(server.stop().await).await;
    let admin = server.admin();
    let second = round(&admin, from, moved(informers, &admin), 40, "end-2");
    let informers = tokio::time::timeout(Duration::from_secs(240), second).await.expect("the second round ends");
    for informer in &informers {
        assert_eq!(informer.expired, 0, "everything is kept by the store still");
    }

    // What the store forgets is gone, and whoever asks for it is told to list again.
    admin.post(CONFIG_MAPS, &config_map("forgotten")).await.expect(201);
    admin.post("/gantry/store/compact", &Value::Null).await.expect(200);
    let server = Server::start_in(server.stop().await).await;
    let admin = server.admin();
    let third = round(&admin, start(&admin).await, moved(informers, &admin), 40, "end-3");
    let informers = tokio::time::timeout(Duration::from_secs(240), third).await.expect("the third round ends");
    for informer in &informers {
        assert_eq!(informer.expired, 1, "each had to list again, once");
    }
    server.stop().await;
}

/// Informers whose server has come back. What they were told before has been compared; where they stood then stays.
fn moved(informers: Vec<Informer>, admin: &Client) -> Vec<Informer> {
    let goes_on = |mut informer: Informer| {
        informer.admin = admin.clone();
        let until = informer.stretches.last().unwrap().until;
        informer.stretches = vec![Stretch { after: until, until, told: Vec::new() }];
        informer
    };
    informers.into_iter().map(goes_on).collect()
}
