//! The engine against the oracle: the same feasible nodes, the same best node and devices, the same reasons
//! with the same counts, after every step of random sequences of changes.
//!
//! `GANTRY_SEQUENCES` says how many, `GANTRY_SEED` with which to start. One that fails is made as short as
//! it can be before it is shown.

mod sequences;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gantry_scheduler::core::oracle::{Oracle, Refusal};
use gantry_scheduler::core::{ClassSpec, Engine, PodKey, Reason, Standing};
use sequences::generate::{Sequence, Step, sequence};

const SEQUENCES: u64 = 100_000;

/// What is different, if something is.
type Outcome = Result<(), String>;

struct Pair {
    engine: Engine,
    oracle: Oracle,
    classes: Vec<ClassSpec>,
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, engine: &T, oracle: &T) -> Outcome {
    if engine == oracle { Ok(()) } else { Err(format!("{what}: the engine says {engine:?}, the oracle {oracle:?}")) }
}

fn key(pod: usize) -> PodKey {
    PodKey(pod as u128)
}

impl Pair {
    fn new(classes: Vec<ClassSpec>) -> Pair {
        Pair { engine: Engine::new(), oracle: Oracle::default(), classes }
    }

    fn apply(&mut self, step: &Step) -> Outcome {
        match step {
            Step::SetNode(node) => {
                self.engine.set_node(node.clone());
                self.oracle.set_node(node.clone());
            }
            Step::RemoveNode(name) => {
                self.engine.remove_node(name);
                self.oracle.remove_node(name);
            }
            Step::Place { pod, class } => self.place(*pod, *class)?,
            Step::BoundElsewhere { pod, class, node, devices } => {
                self.remove(*pod);
                let mut spec = self.classes[*class].clone();
                if devices.len() == usize::from(spec.demand.devices.count) {
                    spec.held_devices = devices.clone();
                }
                self.engine.add_pod(key(*pod), node, &spec, Standing::default());
                self.oracle.add_pod(key(*pod), node, spec, false);
            }
            Step::PodChanges { pod, class, terminating } => {
                let spec = self.classes[*class].clone();
                if let Some(node) = self.engine.node_of(key(*pod)).map(String::from) {
                    let standing = Standing { terminating: *terminating, ..Standing::default() };
                    self.engine.add_pod(key(*pod), &node, &spec, standing);
                    self.oracle.add_pod(key(*pod), &node, spec, *terminating);
                }
            }
            Step::SetNamespace(name, labels) => {
                match labels.clone() {
                    Some(labels) => self.engine.set_namespace(name, labels),
                    None => self.engine.remove_namespace(name),
                };
                self.oracle.set_namespace(name, labels.clone());
            }
            Step::RemovePod(pod) => self.remove(*pod),
            Step::Ask(class) => self.ask(*class)?,
        }
        Ok(())
    }

    fn remove(&mut self, pod: usize) {
        self.engine.remove_pod(key(pod));
        self.oracle.remove_pod(key(pod));
    }

    fn place(&mut self, pod: usize, class: usize) -> Outcome {
        self.remove(pod);
        let spec = self.classes[class].clone();
        self.oracle.learn(&spec);
        let expected = self.oracle.best(&spec);
        let id = self.engine.acquire(&spec);
        let placed = self.engine.place(id);
        let node = placed.map(|node| self.engine.node_name(node).to_string());
        same("the best node", &node, &expected.clone().map(|(name, _)| name))?;
        if let (Some(place), Some((node, devices))) = (placed, expected) {
            self.engine.assume(key(pod), id, place, 0);
            let spec = ClassSpec { held_devices: devices, ..spec };
            self.oracle.add_pod(key(pod), &node, spec, false);
            same("the devices", &self.engine.devices_of(key(pod)), &self.oracle.devices_of(key(pod)))?;
        }
        self.engine.release(id);
        Ok(())
    }

    fn ask(&mut self, class: usize) -> Outcome {
        let spec = self.classes[class].clone();
        let expected = self.oracle.verdicts(&spec);
        let id = self.engine.acquire(&spec);
        same("what nodes say", &self.explained(id), &expected.iter().map(sorted).collect())?;

        let diagnosis = self.engine.diagnose(id);
        if diagnosis.conflict.is_none() {
            let mut counts = BTreeMap::new();
            for text in expected.iter().filter_map(|(_, refusal)| refusal.as_ref()).flat_map(|one| &one.reasons) {
                *counts.entry(text.clone()).or_insert(0usize) += 1;
            }
            same("the counted reasons", &diagnosis.reasons, &counts)?;
        }
        let feasible = expected.iter().filter(|(_, refusal)| refusal.is_none()).count();
        same("how many nodes fit", &(diagnosis.nodes, diagnosis.feasible), &(expected.len(), feasible))?;

        let best = self.engine.place(id).map(|node| self.engine.node_name(node).to_string());
        self.oracle.learn(&spec);
        same("the best node", &best, &self.oracle.best_of(&spec, &expected).map(|(name, _)| name))?;
        self.engine.release(id);
        Ok(())
    }

    fn explained(&mut self, id: gantry_scheduler::core::ClassId) -> Vec<(String, Option<Refusal>)> {
        let explanation = self.engine.explain(id);
        let text = |reason: &Reason| reason.text(|resource| self.engine.resource_name(resource).to_owned());
        let nodes = explanation.nodes.iter().map(|(name, verdict)| {
            let refusal = verdict.as_ref().map(|verdict| Refusal {
                reasons: verdict.reasons.iter().map(text).collect(),
                unresolvable: verdict.unresolvable,
            });
            sorted(&(name.to_string(), refusal))
        });
        nodes.collect()
    }
}

/// In the order of texts: that in which they are found means nothing.
fn sorted((name, refusal): &(String, Option<Refusal>)) -> (String, Option<Refusal>) {
    let mut refusal = refusal.clone();
    if let Some(refusal) = &mut refusal {
        refusal.reasons.sort();
    }
    (name.clone(), refusal)
}

/// Plays a sequence, at its end asks about every class, and tells the first difference.
fn play(sequence: &Sequence) -> Outcome {
    let played = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut pair = Pair::new(sequence.classes.clone());
        for (number, step) in sequence.steps.iter().enumerate() {
            pair.apply(step).map_err(|what| format!("step {number}: {what}"))?;
        }
        (0..sequence.classes.len())
            .try_for_each(|class| pair.ask(class).map_err(|what| format!("class {class}: {what}")))
    }));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned())).unwrap_or_else(|| "a panic".to_owned()))
    })
}

/// The sequence without all steps that it fails without as well.
fn shrink(mut sequence: Sequence, fails: impl Fn(&Sequence) -> bool) -> Sequence {
    let mut size = sequence.steps.len();
    while size > 0 {
        let mut start = 0;
        let mut went = false;
        while start < sequence.steps.len() {
            let mut shorter = sequence.clone();
            shorter.steps.drain(start..(start + size).min(shorter.steps.len()));
            if fails(&shorter) {
                sequence = shorter;
                went = true;
            } else {
                start += size;
            }
        }
        // What could not go before may be able to now that others are gone.
        size = if went && size == 1 { 1 } else { size / 2 };
    }
    sequence
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn engine_equals_oracle() {
    let (first, count) = (number("GANTRY_SEED", 1), number("GANTRY_SEQUENCES", SEQUENCES));
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let found = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let sequence = sequence(seed);
                    if play(&sequence).is_err() && !failed.swap(true, Ordering::Relaxed) {
                        *found.lock().unwrap() = Some((seed, shrink(sequence, |one| play(one).is_err())));
                    }
                }
            });
        }
    });
    if let Some((seed, Sequence { classes, steps })) = found.into_inner().unwrap() {
        let shown: Vec<_> = steps.iter().map(|step| format!("  {step:?}\n")).collect();
        let what = play(&Sequence { classes: classes.clone(), steps }).unwrap_err();
        panic!("sequence {seed} fails: {what}\nclasses: {classes:#?}\nsteps:\n{}", shown.concat());
    }
}

#[test]
fn a_failing_sequence_is_shown_with_no_step_too_many() {
    // As if the engine forgot all pods when a node goes, and one that is removed then were missed.
    let fails = |sequence: &Sequence| {
        let gone = sequence.steps.iter().position(|step| matches!(step, Step::RemoveNode(_)));
        let later = |from| sequence.steps[from..].iter().any(|step| matches!(step, Step::RemovePod(_)));
        gone.is_some_and(later)
    };
    let long = (1..1_000).map(sequence).filter(|sequence| sequence.steps.len() > 20 && fails(sequence));
    for sequence in long.take(10) {
        let shortest = shrink(sequence, fails);
        assert!(matches!(&shortest.steps[..], [Step::RemoveNode(_), Step::RemovePod(_)]), "{:?}", shortest.steps);
    }
}
