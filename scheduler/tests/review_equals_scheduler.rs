#![allow(clippy::unwrap_used)]
//! What a placement review says is what the scheduler then does: the same node for each pod, the same victims, the same
//! words, on random clusters. The review is asked as in earnest, through the API (one in memory) and the watches that
//! it follows; the scheduler's state is told the same objects, and then lets happen what the review was asked about.
//!
//! `GANTRY_CLUSTERS` says how many, `GANTRY_SEED` with which to start.

#[path = "clusters/mod.rs"]
mod clusters;
#[path = "sequences/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clusters::scheduler::{Fate, Scheduler, configuration};
use clusters::{Cluster, api::Api, generate};
use gantry_scheduler::review::Reviewer;
use gantry_scheduler::review::api::{Origin, Spec, Status};
use tokio_util::sync::CancellationToken;

const CLUSTERS: u64 = 1_000;

fn fates(status: &Status) -> BTreeMap<String, Fate> {
    let told = status.placements.iter().filter(|one| one.origin != Origin::Waiting);
    let fate = |one: &gantry_scheduler::review::api::Placement| Fate {
        node: one.node.clone(),
        victims: one.victims.iter().map(|victim| victim.name.clone()).collect(),
        message: one.message.clone(),
    };
    told.map(|one| (one.name.clone(), fate(one))).collect()
}

async fn review(cluster: &Cluster) -> Status {
    let client = kube::Client::new(Api::router(cluster), "default");
    let stop = CancellationToken::new();
    let reviewer = Reviewer::new(client.clone(), configuration(), stop.clone());
    let spec: Spec = serde_json::from_value(cluster.question()).unwrap();
    let status = reviewer.answer(spec, &client).await.unwrap();
    stop.cancel();
    status
}

/// The first difference, if there is one; and how much there was to compare.
fn compare(seed: u64, runtime: &tokio::runtime::Runtime) -> Result<Seen, String> {
    let cluster = generate(seed);
    let told = fates(&runtime.block_on(review(&cluster)));
    let mut scheduler = Scheduler::new(&cluster);
    scheduler.run();
    // Some time later.
    scheduler.now += Duration::from_secs(10);
    scheduler.follow(&cluster);
    let mut seen = Seen::default();
    for (name, fate) in &told {
        let done = scheduler.fates.get(name).cloned().unwrap_or_default();
        if *fate != done {
            return Err(format!("{name}: the review says {fate:#?}\nthe scheduler does {done:#?}\nin {cluster:#?}"));
        }
        seen.placed += usize::from(fate.node.is_some());
        seen.refused += usize::from(fate.message.is_some());
        seen.victims += fate.victims.len();
    }
    seen.displaced += told.keys().filter(|name| name.starts_with("pod-")).count();
    Ok(seen)
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    placed: usize,
    refused: usize,
    victims: usize,
    displaced: usize,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn what_a_review_says_is_what_the_scheduler_does() {
    let (first, count) = (number("GANTRY_SEED", 1), number("GANTRY_CLUSTERS", CLUSTERS));
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Ok(Seen::default()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || sum.lock().unwrap().is_err() {
                        return;
                    }
                    let found = compare(seed, &runtime);
                    let mut sum = sum.lock().unwrap();
                    match (found, &mut *sum) {
                        (Ok(seen), Ok(sum)) => {
                            sum.placed += seen.placed;
                            sum.refused += seen.refused;
                            sum.victims += seen.victims;
                            sum.displaced += seen.displaced;
                        }
                        (Err(why), Ok(_)) => *sum = Err(format!("cluster {seed}: {why}")),
                        (_, Err(_)) => {}
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap().unwrap_or_else(|why| panic!("{why}"));
    println!("{count} clusters: {sum:?}");
    // Clusters in which nothing happens would show nothing.
    let enough = usize::try_from(count / 10).unwrap();
    assert!(
        sum.placed > enough && sum.refused > enough && sum.victims > enough / 4 && sum.displaced > enough,
        "{sum:?}"
    );
}
