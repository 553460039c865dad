//! The scheduler as it runs, against an API server whose answers get lost, whose events come late, twice and out of order
//! across kinds, while pods come and go, alone, in groups, in queues and made anew by an owner, while they preempt each other
//! and are moved, the scheduler is killed between deciding and binding, or two of them lead at once.
//!
//! Time is simulated: a round takes minutes there and milliseconds here. `GANTRY_RACE_ROUNDS` sets how many rounds there are,
//! `GANTRY_RACE_SEED` the first one's seed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../sequences/random.rs"]
mod random;
mod rules;
mod world;

use std::sync::Arc;
use std::time::Duration;

use gantry_scheduler::config::{Configuration, Profile};
use gantry_scheduler::defrag::settings::{Mode, Settings};
use gantry_scheduler::driver::queue::Delays;
use gantry_scheduler::{Metrics, Options, run};
use random::Random;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use world::{Link, Plan, World};

/// What a round is about.
#[derive(Clone, Copy)]
struct Round {
    seed: u64,
    leaders: usize,
    /// The server checks that pods fit.
    if_fits: bool,
}

/// A scheduler that can be killed.
struct Process {
    task: tokio::task::JoinHandle<Result<(), gantry_scheduler::Error>>,
}

impl Process {
    fn start(link: &Link, if_fits: bool) -> Process {
        let delays = Delays {
            backoff_initial: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
            ..Delays::default()
        };
        let profiles = vec![Profile { if_fits, ..Profile::default() }];
        let seconds = Duration::from_secs;
        let defragmentation = Settings {
            mode: Mode::Move,
            interval: seconds(15),
            wait: seconds(1),
            moves_per_hour: 100,
            cool_down: Duration::ZERO,
            ..Settings::default()
        };
        let options =
            Options { configuration: Configuration { delays, profiles, defragmentation }, ..Options::default() };
        let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
        Process { task: tokio::spawn(run(link.client(), options, metrics, || {}, CancellationToken::new())) }
    }

    /// All that it knew is lost; what it has sent may still arrive.
    async fn kill(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the scheduler ended by itself");
    }
}

/// Sizes that leave gaps, so that which pods are beside each other matters.
fn requests(random: &mut Random, gpus: bool) -> Value {
    let cpu = json!({"cpu": format!("{}m", random.pick(&[100, 300, 400, 700, 1_000]))});
    match random.below(6) {
        0 | 1 if gpus => json!({"cpu": "100m", "gantry.io/gpu-milli": random.pick(&["300", "600", "700"])}),
        2 if gpus => json!({"cpu": "100m", "nvidia.com/gpu": "1", "gantry.io/gpu-milli": "0"}),
        _ => cpu,
    }
}

fn node(world: &World, random: &mut Random, name: &str, gpus: bool) {
    let gpus = if gpus { random.within(0, 2) } else { 0 };
    world.put_node(name, random.pick(&[1_000, 1_500, 2_000]), random.pick(&[3, 5, 20]), gpus);
}

/// What there is besides pods.
struct Scene {
    gpus: bool,
    nodes: usize,
    queues: bool,
    groups: usize,
    /// Pods that have an owner, and were not made by it.
    owned: usize,
}

impl Scene {
    fn new(world: &World, random: &mut Random) -> Scene {
        let (gpus, nodes, queues) = (random.chance(1, 3), random.below(3) + 1, random.chance(1, 2));
        for index in 1..=nodes {
            node(world, random, &format!("n{index}"), gpus);
        }
        world.put_owner();
        if queues {
            let mut limit = |least: i64, most: i64| json!({"cpu": format!("{}m", random.within(least, most) * 100)});
            world.put_queue("top", &json!({"limit": limit(8, 30)}));
            world.put_queue("left", &json!({"parent": "top", "guarantee": limit(2, 8)}));
            world.put_queue("right", &json!({"parent": "top", "limit": limit(5, 20), "weight": 2}));
        }
        Scene { gpus, nodes, queues, groups: 0, owned: 0 }
    }

    fn plan(&self, random: &mut Random) -> Plan {
        let queue = (self.queues && random.chance(1, 3)).then(|| random.pick(&["left", "right"]));
        let requests = requests(random, self.gpus);
        // Of the GPUs of a node that a pod waits for the sum is kept, not each against parts of it: who wants a whole one, and
        // whoever shares them and is made anew, would take the same one in turns.
        let may_preempt = requests["nvidia.com/gpu"].is_null();
        let priority = if may_preempt && random.chance(1, 8) { 10 } else { 0 };
        Plan { requests, priority, queue, ..Plan::default() }
    }

    /// A group comes, with its pods before or after it.
    fn group(&mut self, world: &World, random: &mut Random) {
        self.groups += 1;
        let (name, min) = (format!("g{}", self.groups), random.below(3) + 2);
        let plan = Plan { group: Some(name.clone()), ..self.plan(random) };
        let is_first = random.chance(1, 2);
        if is_first {
            world.put_group(&name, min);
        }
        for index in 0..min + random.below(2) {
            world.put_pod(&format!("{name}-{index}"), &plan);
        }
        if !is_first {
            world.put_group(&name, min);
        }
    }
}

/// One change of the world.
fn happens(world: &World, random: &mut Random, scene: &mut Scene) {
    let pods = world.pods();
    match random.below(24) {
        20 | 21 if scene.groups < 6 => scene.group(world, random),
        22 if pods.iter().filter(|pod| pod.starts_with("web")).count() < 6 => {
            scene.owned += 1;
            let plan = Plan { is_owned: true, ..scene.plan(random) };
            world.put_pod(&format!("web{}", scene.owned), &plan);
        }
        0..=12 => {
            // Names are used again: who means the pod that had it before must not meet this one.
            let name = format!("p{}", random.below(30));
            if pods.contains(&name) {
                world.remove_pod(&name);
            } else {
                world.put_pod(&name, &scene.plan(random));
            }
        }
        13 | 14 if !pods.is_empty() => world.finish(&random.pick(&pods)),
        15 | 16 if !pods.is_empty() => world.remove_pod(&random.pick(&pods)),
        17 if scene.nodes < 5 => {
            scene.nodes += 1;
            node(world, random, &format!("n{}", scene.nodes), scene.gpus);
        }
        _ => {}
    }
}

/// What there was to see in a round.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    bound: usize,
    whole: usize,
}

async fn play(round: Round) -> Result<Seen, String> {
    let random = &mut Random::new(round.seed);
    let (world, calm) = (World::new(), Arc::new(watch::Sender::new(false)));
    let mut scene = Scene::new(&world, random);
    world.objects.lock().unwrap().is_alone = round.leaders == 1 && !round.if_fits;
    let links: Vec<Link> = (0..round.leaders).map(|_| Link::new(&world, random.next(), &calm)).collect();
    let mut leaders: Vec<Process> = links.iter().map(|link| Process::start(link, round.if_fits)).collect();
    for _ in 0..random.within(30, 80) {
        happens(&world, random, &mut scene);
        if random.chance(1, 20) {
            let index = random.below(leaders.len());
            leaders.swap_remove(index).kill().await;
            world.disturb_all();
            if !round.if_fits {
                // The next one leads when the lease has expired: longer than a request is on its way.
                tokio::time::sleep(Duration::from_secs(15)).await;
            }
            leaders.push(Process::start(&links[random.below(links.len())], round.if_fits));
        }
        tokio::time::sleep(Duration::from_millis(random.within(0, 400).unsigned_abs())).await;
        if !world.violations().is_empty() {
            break;
        }
    }
    calm.send_replace(true);
    // Well below the five minutes after which all is tried again whether or not there is hope.
    tokio::time::sleep(Duration::from_secs(90)).await;
    for leader in leaders {
        leader.kill().await;
    }
    let mut wrong = world.violations();
    wrong.extend(world.forgotten());
    if round.leaders == 1 {
        wrong.extend(world.in_part());
    }
    let seen = Seen { bound: world.bound(), whole: world.whole() };
    if wrong.is_empty() { Ok(seen) } else { Err(format!("{}\n{}", world.history(), wrong.join("\n"))) }
}

fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn rounds(leaders: usize, if_fits: bool) {
    let (first, count) = (setting("GANTRY_RACE_SEED", 1), setting("GANTRY_RACE_ROUNDS", 60));
    let mut sum = Seen::default();
    for seed in first..first + count {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        match runtime.block_on(play(Round { seed, leaders, if_fits })) {
            Ok(seen) => (sum.bound, sum.whole) = (sum.bound + seen.bound, sum.whole + seen.whole),
            Err(wrong) => panic!("seed {seed}, leaders {leaders}, checked by the server: {if_fits}\n{wrong}"),
        }
    }
    // Where two lead, hardly any group is bound without a conflict.
    let enough = if leaders == 1 { usize::try_from(count / 30).unwrap() } else { 0 };
    assert!(sum.bound > 0 && sum.whole >= enough, "{sum:?} shows little");
}

#[test]
fn one_leader_never_binds_beyond_capacity_and_forgets_no_pod() {
    rounds(1, false);
}

#[test]
fn two_leaders_never_bind_beyond_capacity_where_the_server_checks() {
    rounds(2, true);
}

#[test]
fn a_leader_that_starts_while_the_last_ones_requests_are_under_way_is_held_to_capacity_by_the_server() {
    rounds(1, true);
}
