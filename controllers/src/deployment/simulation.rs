//! A small world in which plans are carried out, to see that roll-outs keep their promises from any state:
//! never more pods than the surge allows, never fewer available than promised, and always an end.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::json;

use super::plan::{Observed, Plan, Step, fenceposts, plan};
use super::sets::{
    DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION, REVISION_HISTORY, desired_of, new_set, replicas_of,
};
use super::status::{PROGRESSING, available, condition, reason};

struct World {
    deployment: Deployment,
    sets: Vec<SimSet>,
    now: Timestamp,
    made: u32,
}

struct SimSet {
    set: ReplicaSet,
    /// The pods that run, and how many of them are available.
    pods: i32,
    ready: i32,
}

impl World {
    fn new(replicas: i32, strategy: serde_json::Value) -> Self {
        let deployment = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1},
            "spec": {
                "replicas": replicas,
                "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 2,
                "selector": {"matchLabels": {"app": "web"}},
                "strategy": strategy,
                "template": template("v1"),
            },
        }))
        .unwrap();
        World { deployment, sets: Vec::new(), now: Timestamp::from_second(1_700_000_000).unwrap(), made: 0 }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template = serde_json::from_value(template(image)).unwrap();
        self.bump();
    }

    fn scale(&mut self, replicas: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(replicas);
        self.bump();
    }

    fn pause(&mut self, paused: bool) {
        self.deployment.spec.as_mut().unwrap().paused = Some(paused);
        self.bump();
    }

    fn bump(&mut self) {
        let generation = self.deployment.metadata.generation.get_or_insert(0);
        *generation += 1;
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(|sim| replicas_of(&sim.set)).sum()
    }

    /// What is known to be available and stays so once the sets have followed their present sizes.
    fn available(&self) -> i32 {
        self.sets.iter().map(|sim| available(&sim.set).min(replicas_of(&sim.set))).sum()
    }

    /// The Deployment was resized and the sets don't know yet, or it is paused: the next plan spreads its size over
    /// the sets, for which availability does not count.
    fn is_resized(&self) -> bool {
        if self.deployment.spec.as_ref().unwrap().paused == Some(true) {
            return true;
        }
        let desired = desired_of(&self.deployment).to_string();
        self.sets.iter().any(|sim| {
            let noted = sim.set.annotations().get(DESIRED_REPLICAS);
            replicas_of(&sim.set) > 0 && noted.is_some_and(|noted| *noted != desired)
        })
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.iter().map(|sim| Arc::new(sim.set.clone())).collect();
        let running: HashMap<String, usize> =
            self.sets.iter().map(|sim| (sim.set.uid().unwrap(), usize::try_from(sim.pods).unwrap())).collect();
        plan(Observed { deployment: &self.deployment, sets: &sets, running_pods: &running, now: self.now })
    }

    /// One round of the Deployment controller. Tells how many writes it made.
    fn round(&mut self) -> usize {
        let plan = self.plan();
        let count = plan.steps.len();
        for step in plan.steps {
            self.carry_out(step);
        }
        self.deployment.status = Some(plan.status);
        self.now += SignedDuration::from_secs(1);
        count
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Create(set) => {
                let mut set = *set;
                self.made += 1;
                set.metadata.uid = Some(format!("s{}", self.made));
                set.metadata.creation_timestamp = Some(crate::machinery::objects::time(self.now));
                set.metadata.generation = Some(1);
                self.sets.push(SimSet { set, pods: 0, ready: 0 });
            }
            Step::Change(edit) => {
                let sim = self.find(&edit.set.name_any());
                sim.set.annotations_mut().extend(edit.annotations);
                if let Some((from, to)) = edit.scale {
                    assert_eq!(replicas_of(&sim.set), from);
                    sim.set.spec.as_mut().unwrap().replicas = Some(to);
                    *sim.set.metadata.generation.get_or_insert(0) += 1;
                }
            }
            Step::Remove(set) => {
                let sim = self.find(&set.name_any());
                assert_eq!((sim.pods, replicas_of(&sim.set)), (0, 0));
                self.sets.retain(|sim| sim.set.name_any() != set.name_any());
            }
            Step::NoteRevision(revision) => {
                self.deployment.annotations_mut().insert(REVISION.into(), revision);
            }
        }
    }

    fn find(&mut self, name: &str) -> &mut SimSet {
        self.sets.iter_mut().find(|sim| sim.set.name_any() == name).unwrap()
    }

    /// The pods of one set follow its size, the unready ones going first.
    fn follow(&mut self, at: usize) {
        if let Some(sim) = self.sets.get_mut(at) {
            sim.pods = replicas_of(&sim.set);
            sim.ready = sim.ready.min(sim.pods);
        }
    }

    /// Up to `count` pods of one set become available.
    fn make_ready(&mut self, at: usize, count: i32) {
        if let Some(sim) = self.sets.get_mut(at) {
            sim.ready = (sim.ready + count).min(sim.pods);
        }
    }

    /// One set tells its state.
    fn report(&mut self, at: usize) {
        if let Some(sim) = self.sets.get_mut(at) {
            sim.set.status = Some(ReplicaSetStatus {
                replicas: sim.pods,
                ready_replicas: Some(sim.ready),
                available_replicas: Some(sim.ready),
                observed_generation: sim.set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn settle(&mut self) {
        for _ in 0..300 {
            let writes = self.round();
            for at in 0..self.sets.len() {
                self.follow(at);
                self.make_ready(at, i32::MAX / 2);
                self.report(at);
            }
            if writes == 0 && self.is_done() {
                return;
            }
        }
        panic!("no end: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<(String, i32, i32)> {
        self.sets
            .iter()
            .map(|sim| {
                let image = &sim.set.spec.as_ref().unwrap().template.as_ref().unwrap().spec;
                let image = image.as_ref().unwrap().containers[0].image.clone();
                (image.unwrap(), replicas_of(&sim.set), sim.ready)
            })
            .collect()
    }

    fn is_done(&self) -> bool {
        let status = self.deployment.status.clone().unwrap_or_default();
        let desired = desired_of(&self.deployment);
        self.total() == desired
            && status.updated_replicas.unwrap_or(0) == desired
            && condition(&status, PROGRESSING).is_some_and(|c| c.reason.as_deref() == Some(reason::NEW_SET_AVAILABLE))
    }

    fn progress_reason(&self) -> String {
        let status = self.deployment.status.clone().unwrap_or_default();
        let condition = condition(&status, PROGRESSING).unwrap();
        condition.reason.clone().unwrap()
    }
}

fn template(image: &str) -> serde_json::Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

fn rolling(surge: serde_json::Value, unavailable: serde_json::Value) -> serde_json::Value {
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn recreate() -> serde_json::Value {
    json!({"type": "Recreate"})
}

#[test]
fn a_first_rollout_makes_one_set_of_full_size() {
    let mut world = World::new(3, rolling(json!("25%"), json!("25%")));
    world.round();
    assert_eq!(world.sizes(), [("v1".to_owned(), 3, 0)]);
    let set = &world.sets[0].set;
    assert_eq!(set.annotations()[REVISION], "1");
    assert_eq!(set.annotations()[DESIRED_REPLICAS], "3");
    assert_eq!(set.annotations()[MAX_REPLICAS], "4");
    let hash = &set.labels()[HASH_LABEL];
    assert_eq!(set.name_any(), format!("web-{hash}"));
    assert_eq!(world.progress_reason(), reason::NEW_SET);
    world.settle();
    assert_eq!(world.deployment.annotations()[REVISION], "1");
}

#[test]
fn an_update_goes_step_by_step_within_surge_and_availability() {
    let mut world = World::new(4, rolling(json!(1), json!(0)));
    world.settle();
    world.set_image("v2");
    world.round();
    assert_eq!(world.sizes(), [("v1".to_owned(), 4, 4), ("v2".to_owned(), 1, 0)]);
    // Nothing moves before the new pod is available.
    world.follow(1);
    world.report(1);
    world.round();
    assert_eq!(world.total(), 5);
    world.make_ready(1, 1);
    world.report(1);
    world.round();
    assert_eq!(world.sizes()[0].1, 3);
    world.settle();
    assert_eq!(world.sizes(), [("v1".to_owned(), 0, 0), ("v2".to_owned(), 4, 4)]);
}

#[test]
fn broken_pods_of_an_old_template_go_first() {
    let mut world = World::new(4, rolling(json!(1), json!(1)));
    world.settle();
    world.set_image("broken");
    for _ in 0..4 {
        world.round();
        for at in 0..world.sets.len() {
            world.follow(at);
            world.report(at);
        }
    }
    assert_eq!(world.sizes(), [("v1".to_owned(), 3, 3), ("broken".to_owned(), 2, 0)]);
    world.set_image("v3");
    world.round();
    world.round();
    // The two broken ones make room; the three good ones stay.
    let sizes = world.sizes();
    assert_eq!(sizes[0].1, 3);
    assert!(sizes[1].1 < 2);
    world.settle();
}

#[test]
fn a_rollback_takes_the_old_set_and_moves_its_revision_on() {
    let mut world = World::new(2, rolling(json!("25%"), json!("25%")));
    world.settle();
    world.set_image("v2");
    world.settle();
    assert_eq!(world.deployment.annotations()[REVISION], "2");
    world.set_image("v1");
    world.settle();
    assert_eq!(world.sets.len(), 2);
    assert_eq!(world.sizes()[0], ("v1".to_owned(), 2, 2));
    let annotations = world.sets[0].set.annotations();
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(annotations[REVISION_HISTORY], "1");
    assert_eq!(world.deployment.annotations()[REVISION], "3");
}

#[test]
fn the_history_is_kept_short() {
    let mut world = World::new(1, rolling(json!(1), json!(0)));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.set_image(image);
        world.settle();
    }
    for _ in 0..3 {
        world.round();
    }
    let images: Vec<String> = world.sizes().into_iter().map(|(image, ..)| image).collect();
    assert_eq!(images, ["v3", "v4", "v5"]);
}

#[test]
fn a_paused_rollout_scales_but_does_not_move() {
    let mut world = World::new(3, rolling(json!(1), json!(0)));
    world.settle();
    world.pause(true);
    world.set_image("v2");
    world.round();
    world.scale(5);
    world.round();
    assert_eq!(world.sizes(), [("v1".to_owned(), 5, 3)]);
    assert_eq!(world.progress_reason(), reason::PAUSED);
    world.pause(false);
    world.round();
    assert_eq!(world.sets.len(), 2);
    world.settle();
    assert_eq!(world.sizes()[1].1, 5);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(3, recreate());
    world.settle();
    world.set_image("v2");
    world.round();
    assert_eq!(world.sizes(), [("v1".to_owned(), 0, 3)]);
    // The set says that it has none any more, but pods still terminate.
    world.sets[0].set.status = Some(ReplicaSetStatus::default());
    world.round();
    assert_eq!(world.sets.len(), 1);
    world.follow(0);
    world.round();
    assert_eq!(world.sizes()[1], ("v2".to_owned(), 3, 0));
    world.settle();
}

#[test]
fn a_rollout_that_hangs_is_called_out_after_the_deadline() {
    let mut world = World::new(2, rolling(json!(1), json!(0)));
    world.settle();
    world.set_image("broken");
    for _ in 0..4 {
        world.round();
        for at in 0..2 {
            world.follow(at);
            world.report(at);
        }
    }
    let again = world.plan().again.unwrap();
    assert!((595..=601).contains(&again.as_secs()), "{again:?}");
    world.now += SignedDuration::from_secs(602);
    world.round();
    let status = world.deployment.status.clone().unwrap();
    let progressing = condition(&status, PROGRESSING).unwrap();
    assert_eq!(progressing.status, "False");
    assert_eq!(world.progress_reason(), reason::TIMED_OUT);
    let name = world.sets[1].set.name_any();
    assert_eq!(progressing.message.as_deref(), Some(&*format!("ReplicaSet \"{name}\" has timed out progressing.")));
    assert_eq!(world.plan().again, None);
    world.set_image("good");
    world.settle();
}

#[test]
fn scaling_during_a_rollout_spreads_in_proportion() {
    let mut world = World::new(10, rolling(json!(3), json!(2)));
    world.settle();
    world.set_image("v2");
    // Until it stands at 8 old and 5 new.
    world.round();
    world.follow(1);
    world.report(1);
    world.round();
    world.round();
    assert_eq!(world.sizes().iter().map(|s| s.1).collect::<Vec<_>>(), [8, 5]);
    world.scale(15);
    world.round();
    // 5 more pods: 18 allowed of 13 before, so 8 become 11 and 5 become 7.
    assert_eq!(world.sizes().iter().map(|s| s.1).collect::<Vec<_>>(), [11, 7]);
    world.settle();
}

#[test]
fn percentages_resolve_like_kubernetes() {
    let cases = [
        (json!("25%"), json!("25%"), 10, (3, 2)),
        (json!("25%"), json!("25%"), 1, (1, 0)),
        (json!(0), json!("1%"), 10, (0, 1)),
        (json!("0%"), json!("0%"), 0, (0, 0)),
        (json!(2), json!(20), 5, (2, 5)),
    ];
    for (surge, unavailable, replicas, expected) in cases {
        let world = World::new(replicas, rolling(surge.clone(), unavailable.clone()));
        assert_eq!(fenceposts(&world.deployment), expected, "{surge} {unavailable} of {replicas}");
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Round,
    Follow(usize),
    Ready(usize, i32),
    Report(usize),
    Image(u8),
    Scale(i32),
    Pause(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => Just(Happening::Round),
        4 => (0usize..5).prop_map(Happening::Follow),
        4 => (0usize..5, 1i32..4).prop_map(|(at, n)| Happening::Ready(at, n)),
        4 => (0usize..5).prop_map(Happening::Report),
        1 => (0u8..5).prop_map(Happening::Image),
        1 => (0i32..13).prop_map(Happening::Scale),
        1 => any::<bool>().prop_map(Happening::Pause),
    ]
}

fn bound() -> impl Strategy<Value = IntOrString> {
    prop_oneof![(0i32..6).prop_map(IntOrString::Int), (0i32..=100).prop_map(|n| IntOrString::String(format!("{n}%"))),]
}

/// Sets as they might have been left by anybody: any size, any readiness, any or no annotations.
fn leftovers() -> impl Strategy<Value = Vec<(u8, i32, i32, Option<i32>, bool)>> {
    let one = (0u8..5, 0i32..9, 0i32..9, proptest::option::of(0i32..20), any::<bool>());
    proptest::collection::vec(one, 0..4)
}

fn place_leftovers(world: &mut World, leftovers: Vec<(u8, i32, i32, Option<i32>, bool)>) {
    let spec = world.deployment.spec.clone().unwrap();
    for (at, (image, size, ready, max, known)) in leftovers.into_iter().enumerate() {
        world.deployment.spec.as_mut().unwrap().template =
            serde_json::from_value(template(&format!("v{image}"))).unwrap();
        let mut set = new_set(&world.deployment, size, i64::try_from(at).unwrap(), 1);
        if world.sets.iter().any(|sim| sim.set.name_any() == set.name_any()) {
            continue;
        }
        match max {
            Some(max) => {
                set.annotations_mut().insert(MAX_REPLICAS.into(), max.to_string());
            }
            None => set.metadata.annotations = None,
        }
        world.carry_out(Step::Create(Box::new(set)));
        world.follow(at);
        let last = world.sets.len() - 1;
        world.follow(last);
        world.make_ready(last, ready);
        if known {
            world.report(last);
        }
    }
    world.deployment.spec = Some(spec);
}

fn check_round(world: &mut World) -> Result<(), TestCaseError> {
    let (surge, unavailable) = fenceposts(&world.deployment);
    let desired = desired_of(&world.deployment);
    let (total, available) = (world.total(), world.available());
    let recreates = unavailable == 0 && surge == 0 && desired > 0;
    let resized = world.is_resized();
    world.round();
    let ceiling = (desired + surge).max(total);
    prop_assert!(world.total() <= ceiling, "{} pods of at most {ceiling}", world.total());
    if !recreates && !resized {
        let floor = (desired - unavailable).min(available);
        prop_assert!(
            world.available() >= floor,
            "{} available, promised {floor}: {:?}",
            world.available(),
            world.sizes()
        );
    }
    if recreates {
        let with_pods = world.sets.iter().filter(|sim| replicas_of(&sim.set) > 0).count();
        let before = total;
        prop_assert!(with_pods <= 1 || before > desired || world.total() <= before);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rollouts_keep_their_promises_from_any_state(
        replicas in 0i32..13,
        surge in bound(),
        unavailable in bound(),
        recreates in proptest::bool::weighted(0.15),
        leftovers in leftovers(),
        happenings in proptest::collection::vec(happening(), 0..80),
    ) {
        let strategy = if recreates {
            recreate()
        } else {
            rolling(serde_json::to_value(surge).unwrap(), serde_json::to_value(unavailable).unwrap())
        };
        let mut world = World::new(replicas, strategy);
        place_leftovers(&mut world, leftovers);
        for happening in happenings {
            match happening {
                Happening::Round => check_round(&mut world)?,
                Happening::Follow(at) => world.follow(at),
                Happening::Ready(at, count) => world.make_ready(at, count),
                Happening::Report(at) => world.report(at),
                Happening::Image(image) => world.set_image(&format!("v{image}")),
                Happening::Scale(replicas) => world.scale(replicas),
                Happening::Pause(paused) => world.pause(paused),
            }
        }
        world.pause(false);
        world.settle();
    }
}
