//! The worker under faults: calls that fail, answers that are lost, an agent that is killed anywhere, containers and sandboxes
//! that end by themselves, a clock that somebody sets. Whatever the order, some things must never be seen in the runtime's history.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;

use super::harness::{Node, UID, pod};
use crate::clock;
use crate::runtime::simulated::{Fault, Happening};

/// A generator of pseudo-random numbers that a failing case can be replayed with.
#[derive(Clone, Copy)]
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Judges a history. `excused` says whether the agent had a reason to end containers.
fn judge(history: &[Happening], excused: bool) {
    let mut running: HashMap<&str, &str> = HashMap::new();
    let mut done: HashSet<(&str, &str)> = HashSet::new();
    let mut up: HashSet<(&str, &str)> = HashSet::new();
    let mut last: HashMap<&str, u32> = HashMap::new();
    for happening in history {
        match happening {
            Happening::SandboxStarted { .. } => {
                assert!(running.is_empty(), "a new sandbox while {running:?} run in an older one");
            }
            Happening::Started { sandbox, name, attempt, .. } => {
                assert!(!running.contains_key(name.as_str()), "{name} runs twice");
                if let Some(last) = last.insert(name, *attempt) {
                    assert!(*attempt > last, "{name} {attempt} after {last}");
                }
                let needs: &[&str] = match name.as_str() {
                    "one" => &[],
                    "side" => &["one"],
                    "two" => &["one", "side"],
                    _ => &["one", "side", "two"],
                };
                for need in needs {
                    let met = if *need == "side" { &up } else { &done };
                    assert!(met.contains(&(sandbox.as_str(), *need)), "{name} started before {need} was done");
                }
                running.insert(name, sandbox);
                up.insert((sandbox, name));
            }
            Happening::Ended { sandbox, name, exit_code, asked, .. } => {
                assert!(excused || !asked, "{name} was ended without cause");
                running.remove(name.as_str());
                if *exit_code == 0 {
                    done.insert((sandbox, name));
                }
            }
        }
    }
}

async fn run(seed: u64, deleted: bool) {
    let mut rng = Rng(seed);
    clock::set_by(SignedDuration::ZERO);
    let mut node = Node::new(pod(json!({
        "initContainers": [{"name": "one"}, {"name": "side", "restartPolicy": "Always"}, {"name": "two"}],
        "containers": [{"name": "a"}, {"name": "b"}],
    })));
    let dice = Arc::new(Mutex::new(Rng(seed ^ 0x5eed)));
    let own = dice.clone();
    node.runtime.set_faults(Some(Box::new(move |_| match own.lock().unwrap().below(8) {
        0 => Fault::Refused,
        1 => Fault::LostReply,
        _ => Fault::None,
    })));
    for _ in 0..40 {
        match rng.below(9) {
            0 => node.start_agent(),
            1 => node.runtime.lose_sandbox(UID),
            2 => drop(node.runtime.end(UID, "a", 1)),
            3 => drop(node.runtime.end(UID, "side", 2)),
            4 => drop(node.runtime.end(UID, "one", i32::try_from(rng.below(2)).unwrap())),
            5 => drop(node.runtime.end(UID, "two", 0)),
            6 => clock::set_by(SignedDuration::from_hours(24 * (i64::try_from(rng.below(3)).unwrap() - 1))),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.below(4000))).await;
        node.sync();
    }
    judge(&node.runtime.happenings(), false);
    // The storm is over: the pod comes up.
    node.runtime.set_faults(None);
    for _ in 0..100 {
        node.runtime.end(UID, "one", 0);
        node.runtime.end(UID, "two", 0);
        tokio::time::sleep(Duration::from_secs(10)).await;
        node.sync();
        if node.condition("Ready") {
            break;
        }
    }
    assert!(node.condition("Ready"), "{:#?}", node.pod().and_then(|pod| pod.status));
    judge(&node.runtime.happenings(), false);
    if deleted {
        node.delete(5);
        node.start_agent();
        node.until(60, "deleted", |node| node.pod().is_none() && node.runtime.is_empty()).await;
        judge(&node.runtime.happenings(), true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_faults_breaks_the_rules(seed in any::<u64>(), deleted in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(run(seed, deleted));
    }
}
