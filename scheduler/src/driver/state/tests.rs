//! The driver's decisions, event by event.

use super::super::volumes::ClaimUse;
use super::*;
use crate::config::Profile;
use crate::core::spec::Operator;
use crate::core::{AffinityTerm, Budget, NodeSpec, PodDemand, PodSelector, Requirement, Resources, Scoring, Strategy};
use serde_json::json;

mod moving;
mod volumes;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn state() -> State {
    State::new(&Configuration::default())
}

fn node(name: &str, milli_cpu: i64) -> NodeSpec {
    let allocatable = Resources { milli_cpu, memory: 8 << 30, pods: 110, ..Resources::default() };
    NodeSpec { name: name.into(), allocatable, ..NodeSpec::default() }
}

fn pod(number: u128, milli_cpu: i64) -> PodFacts {
    let requests = Resources { milli_cpu, ..Resources::default() };
    let demand = PodDemand { scoring_milli_cpu: milli_cpu, requests, ..PodDemand::default() };
    PodFacts {
        key: PodKey(number),
        uid: format!("uid-{number}"),
        namespace: "default".into(),
        name: format!("pod-{number}"),
        scheduler_name: "default-scheduler".into(),
        class: ClassSpec { demand, ..ClassSpec::default() },
        ..PodFacts::default()
    }
}

fn on(node: &str, pod: PodFacts) -> PodFacts {
    PodFacts { node_name: Some(node.into()), ..pod }
}

/// Tries all that is ready; gives `pod>node` for bindings and the messages of conditions.
fn run(state: &mut State, now: Duration) -> Vec<String> {
    let mut actions = Vec::new();
    state.wake(now);
    while state.schedule_next(now, &mut actions).is_some() {}
    actions
        .into_iter()
        .filter_map(|action| match action {
            Action::Bind { pod, node, .. } => Some(format!("{}>{node}", pod.name)),
            Action::Status { condition: Some((_, message)), .. } => Some(message),
            Action::Preempt { pod, node, victims } => {
                let victims: Vec<_> = victims.into_iter().map(|victim| victim.name).collect();
                Some(format!("{} makes {} leave {node}", pod.name, victims.join(" ")))
            }
            Action::Provide { pod, node, choice } => {
                let volumes: Vec<_> = choice.bind.into_iter().map(|binding| binding.volume).collect();
                Some(format!("{} gets {} for {node}", pod.name, volumes.join(" ")))
            }
            Action::FailedEvent { .. } | Action::Status { condition: None, .. } | Action::Move(_) => None,
        })
        .collect()
}

fn bound(state: &mut State, number: u128, outcome: BindOutcome, now: Duration) -> Vec<Action> {
    let mut actions = Vec::new();
    state.bound(PodKey(number), outcome, now, &mut actions);
    actions
}

const FULL: &str = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                    1 No preemption victims found for incoming pod.";

#[test]
fn pods_are_packed_and_the_one_too_many_waits_for_a_departure() {
    let mut state = state();
    state.node_seen(node("a", 2_000));
    for number in 1..=3 {
        state.pod_seen(pod(number, 1_000), seconds(0));
    }
    assert_eq!(run(&mut state, seconds(0)), ["pod-1>a", "pod-2>a", FULL]);
    bound(&mut state, 1, BindOutcome::Bound, seconds(0));
    state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(2)), [""; 0]);

    state.pod_gone(PodKey(1));
    assert_eq!(run(&mut state, seconds(2)), ["pod-3>a"]);
    assert_eq!(state.queue_counts(), Counts::default());
}

#[test]
fn the_back_off_holds_even_when_room_comes_at_once() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
    state.pod_seen(pod(2, 1_000), seconds(0));
    run(&mut state, seconds(0));
    state.pod_gone(PodKey(1));
    assert_eq!(run(&mut state, Duration::from_millis(900)), [""; 0]);
    assert_eq!(state.next_deadline(), Some(seconds(1)));
    assert_eq!(run(&mut state, seconds(1)), ["pod-2>a"]);
}

#[test]
fn changes_that_cannot_help_wake_nobody() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.pod_seen(pod(1, 2_000), seconds(0));
    run(&mut state, seconds(0));
    state.pod_seen(on("a", pod(2, 100)), seconds(1));
    state.pod_gone(PodKey(2));
    state.node_seen(NodeSpec { labels: [("a".into(), "b".into())].into(), ..node("a", 1_000) });
    state.wake(seconds(20));
    assert_eq!(state.queue_counts().unschedulable, 1);
    state.node_seen(node("a", 3_000));
    assert_eq!(run(&mut state, seconds(20)), ["pod-1>a"]);
}

#[test]
fn a_condition_is_written_once_and_again_when_its_message_changes() {
    let mut state = state();
    state.pod_seen(pod(1, 1_000), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["no nodes available to schedule pods"]);
    state.node_seen(node("a", 500));
    let messages = run(&mut state, seconds(5));
    assert!(messages[0].starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{messages:?}");
    assert_eq!(run(&mut state, seconds(400)), [""; 0]);
}

#[test]
fn gated_pods_are_told_so_and_start_when_ungated() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    let gated = PodFacts { gated: true, ..pod(1, 100) };
    let action = state.pod_seen(gated.clone(), seconds(0));
    assert!(matches!(action, Some(Action::Status { condition: Some((SCHEDULING_GATED, _)), .. })));
    let reported = PodFacts { not_scheduled: Some((SCHEDULING_GATED.into(), GATED_MESSAGE.into())), ..gated };
    assert_eq!(state.pod_seen(reported, seconds(1)), None);
    assert_eq!(run(&mut state, seconds(1)), [""; 0]);
    assert_eq!(state.queue_counts().gated, 1);
    state.pod_seen(pod(1, 100), seconds(2));
    assert_eq!(run(&mut state, seconds(2)), ["pod-1>a"]);
}

#[test]
fn a_refused_binding_gives_the_room_back_and_is_tried_later() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.pod_seen(pod(1, 1_000), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-1>a"]);
    let actions = bound(&mut state, 1, BindOutcome::Refused("no".into()), seconds(0));
    assert_eq!(actions.len(), 2, "condition and event");
    assert_eq!(state.cache_counts(), (1, 0, 0));
    assert_eq!(run(&mut state, Duration::from_millis(500)), [""; 0]);
    assert_eq!(run(&mut state, seconds(1)), ["pod-1>a"]);
}

#[test]
fn a_pod_bound_by_someone_else_moves_to_where_it_is() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.node_seen(node("b", 100));
    state.pod_seen(pod(1, 1_000), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-1>a"]);
    bound(&mut state, 1, BindOutcome::Elsewhere("b".into()), seconds(0));
    assert_eq!(state.engine().node_of(PodKey(1)), Some("b"));
    state.pod_seen(pod(2, 1_000), seconds(1));
    assert_eq!(run(&mut state, seconds(1)), ["pod-2>a"]);
}

#[test]
fn the_watch_may_be_faster_than_the_answer() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.pod_seen(pod(1, 1_000), seconds(0));
    run(&mut state, seconds(0));
    state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
    assert_eq!(bound(&mut state, 1, BindOutcome::Refused("late".into()), seconds(0)), []);
    assert_eq!(state.cache_counts(), (1, 1, 0));
    state.pod_gone(PodKey(1));
    assert_eq!(bound(&mut state, 1, BindOutcome::Bound, seconds(0)), []);
    assert_eq!(state.cache_counts(), (1, 0, 0));
}

#[test]
fn an_assumed_pod_keeps_its_room_through_stale_updates_of_itself() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.pod_seen(pod(1, 1_000), seconds(0));
    run(&mut state, seconds(0));
    state.pod_seen(pod(1, 1_000), seconds(1));
    state.pod_seen(pod(2, 1_000), seconds(1));
    assert_eq!(run(&mut state, seconds(1)), [FULL]);
}

#[test]
fn a_relist_forgets_what_is_gone() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.node_seen(node("b", 1_000));
    state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
    state.pod_seen(pod(2, 5_000), seconds(0));
    run(&mut state, seconds(0));
    state.pods_relist();
    state.pod_seen(pod(3, 1_000), seconds(1));
    state.pods_listed();
    state.nodes_relist();
    state.node_seen(node("b", 1_000));
    state.nodes_listed();
    assert_eq!(run(&mut state, seconds(1)), ["pod-3>b"]);
    assert_eq!(state.cache_counts(), (1, 1, 1));
    assert_eq!(state.queue_counts(), Counts::default());
}

#[test]
fn ended_terminating_and_foreign_pods_are_not_placed() {
    let mut state = state();
    state.node_seen(node("a", 1_000));
    state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
    state.pod_seen(PodFacts { finished: true, ..on("a", pod(1, 1_000)) }, seconds(0));
    assert_eq!(state.cache_counts().1, 0, "an ended pod holds nothing");
    state.pod_seen(PodFacts { terminating: true, ..pod(2, 100) }, seconds(0));
    state.pod_seen(PodFacts { scheduler_name: "other".into(), ..pod(3, 100) }, seconds(0));
    state.pod_seen(pod(4, 100), seconds(0));
    state.pod_seen(PodFacts { terminating: true, ..pod(4, 100) }, seconds(0));
    assert_eq!(run(&mut state, seconds(0)), [""; 0]);
}

#[test]
fn a_deleted_node_keeps_its_pods_accounted_and_takes_no_more() {
    let mut state = state();
    state.node_seen(node("a", 2_000));
    state.pod_seen(on("a", pod(1, 1_000)), seconds(0));
    state.node_gone(&"a".to_owned());
    state.pod_seen(pod(2, 1_500), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["no nodes available to schedule pods"]);
    state.node_seen(node("a", 2_000));
    assert!(run(&mut state, seconds(5))[0].starts_with("0/1 nodes are available: 1 Insufficient cpu."));
    state.pod_gone(PodKey(1));
    assert_eq!(run(&mut state, seconds(20)), ["pod-2>a"]);
}

fn near_web(number: u128, namespaces: PodSelector) -> PodFacts {
    let labels = Some(vec![Requirement { key: "app".into(), operator: Operator::In, values: vec!["web".into()] }]);
    let selector = PodSelector { labels, ..namespaces };
    let mut pod = pod(number, 100);
    pod.class.pod_affinity.required = vec![AffinityTerm { selector, topology_key: "zone".into() }];
    pod
}

fn web(number: u128) -> PodFacts {
    let mut pod = pod(number, 100);
    pod.class.namespace = "default".into();
    pod.class.labels = [("app".to_owned(), "web".to_owned())].into();
    pod
}

fn in_zone(node: NodeSpec) -> NodeSpec {
    NodeSpec { labels: [("zone".to_owned(), "z".to_owned())].into(), ..node }
}

#[test]
fn a_pod_that_wants_company_is_tried_when_it_comes() {
    let mut state = state();
    state.node_seen(in_zone(node("a", 1_000)));
    let here = PodSelector { namespaces: ["default".to_owned()].into(), ..PodSelector::default() };
    state.pod_seen(near_web(1, here), seconds(0));
    assert!(run(&mut state, seconds(0))[0].contains("1 node(s) didn't match pod affinity rules."));
    state.pod_seen(on("a", pod(2, 100)), seconds(5));
    state.wake(seconds(5));
    assert_eq!(state.queue_counts().unschedulable, 1, "another's coming does not help");
    state.pod_seen(on("a", web(3)), seconds(5));
    assert_eq!(run(&mut state, seconds(5)), ["pod-1>a"]);
}

#[test]
fn a_pod_is_tried_when_a_placed_one_changes_its_labels() {
    let mut state = state();
    state.node_seen(in_zone(node("a", 1_000)));
    state.pod_seen(on("a", pod(2, 100)), seconds(0));
    let here = PodSelector { namespaces: ["default".to_owned()].into(), ..PodSelector::default() };
    state.pod_seen(near_web(1, here), seconds(0));
    run(&mut state, seconds(0));
    state.pod_seen(on("a", web(2)), seconds(5));
    assert_eq!(run(&mut state, seconds(5)), ["pod-1>a"]);
}

#[test]
fn a_pod_is_tried_when_a_namespace_gets_the_label_it_looks_for() {
    let mut state = state();
    state.node_seen(in_zone(node("a", 1_000)));
    state.namespace_seen("default".into(), BTreeMap::new());
    state.pod_seen(on("a", web(2)), seconds(0));
    let team = Requirement { key: "team".into(), operator: Operator::Exists, values: Vec::new() };
    let by_label = PodSelector { namespace_selector: Some(vec![team]), ..PodSelector::default() };
    state.pod_seen(near_web(1, by_label), seconds(0));
    run(&mut state, seconds(0));
    assert_eq!(state.queue_counts().unschedulable, 1);
    state.namespace_seen("default".into(), [("team".to_owned(), "x".to_owned())].into());
    assert_eq!(run(&mut state, seconds(5)), ["pod-1>a"]);
}

#[test]
fn a_pod_kept_away_is_tried_when_the_other_goes() {
    let mut state = state();
    state.node_seen(in_zone(node("a", 1_000)));
    let here = PodSelector { namespaces: ["default".to_owned()].into(), ..PodSelector::default() };
    let mut loner = near_web(1, here);
    loner.class.pod_affinity.anti_required = std::mem::take(&mut loner.class.pod_affinity.required);
    state.pod_seen(on("a", web(2)), seconds(0));
    state.pod_seen(loner, seconds(0));
    assert!(run(&mut state, seconds(0))[0].contains("1 node(s) didn't match pod anti-affinity rules."));
    state.pod_gone(PodKey(2));
    assert_eq!(run(&mut state, seconds(5)), ["pod-1>a"]);
}

#[test]
fn the_profile_of_a_pod_says_how_nodes_are_compared() {
    let least = Scoring {
        strategy: Strategy::LeastAllocated,
        resources: vec![("cpu".to_owned(), 1), ("memory".to_owned(), 1)],
    };
    let mut configuration = Configuration::default();
    configuration.profiles.push(Profile { scheduler_name: "spread".into(), scoring: least, ..Profile::default() });
    let mut state = State::new(&configuration);
    state.node_seen(node("a", 2_000));
    state.node_seen(node("b", 2_000));
    state.pod_seen(on("a", pod(1, 500)), seconds(0));
    state.pod_seen(PodFacts { scheduler_name: "spread".into(), ..pod(2, 100) }, seconds(0));
    state.pod_seen(pod(3, 100), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-2>b", "pod-3>a"]);
}

fn equal(key: &str, value: &str) -> Requirement {
    Requirement { key: key.into(), operator: Operator::In, values: vec![value.into()] }
}

#[test]
fn pods_of_one_owner_are_spread_over_hosts_and_lone_ones_are_packed() {
    let mut state = state();
    for name in ["a", "b", "c"] {
        let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())].into();
        state.node_seen(NodeSpec { labels, ..node(name, 4_000) });
    }
    for number in 1..=3 {
        state.pod_seen(web(number), seconds(0));
    }
    assert_eq!(run(&mut state, seconds(0)), ["pod-1>a", "pod-2>a", "pod-3>a"]);
    // The owner may become known after its pods.
    let owned = |number| PodFacts { controller: Some((OwnerKind::ReplicaSet, "web".into())), ..web(number) };
    for number in 4..=7 {
        state.pod_seen(owned(number), seconds(1));
    }
    state.owners().seen(OwnerKind::ReplicaSet, ("default".into(), "web".into()), Some(vec![equal("app", "web")]));
    assert_eq!(run(&mut state, seconds(1)), ["pod-4>b", "pod-5>c", "pod-6>b", "pod-7>c"]);
}

fn of_priority(priority: i32, pod: PodFacts) -> PodFacts {
    PodFacts { priority, ..pod }
}

/// Two nodes, each full with one pod: on `a` of priority 1, on `b` of priority 2.
fn full() -> State {
    let mut state = state();
    for (number, name) in [(1, "a"), (2, "b")] {
        state.node_seen(node(name, 1_000));
        state.pod_seen(on(name, of_priority(number as i32, pod(number, 1_000))), seconds(0));
    }
    state
}

const NO_ROOM: &str = "0/2 nodes are available: 2 Insufficient cpu.";

#[test]
fn the_least_important_makes_room_and_the_node_is_kept_for_who_waits() {
    let mut state = full();
    state.pod_seen(of_priority(9, pod(3, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-3 makes pod-1 leave a", NO_ROOM]);
    // Tried again before the other has gone, it waits and does no more harm.
    state.pod_gone(PodKey(99));
    state.node_seen(NodeSpec { unschedulable: true, ..node("c", 10) });
    assert_eq!(
        run(&mut state, seconds(2)),
        [
            "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: not eligible due to a \
         terminating pod on the nominated node.",
        ]
    );
    state.pod_gone(PodKey(1));
    // The room is free, and who matters less does not get it.
    state.pod_seen(of_priority(8, pod(4, 1_000)), seconds(2));
    let told = run(&mut state, seconds(2));
    assert_eq!(told[0], "pod-4 makes pod-2 leave b");
    assert_eq!(run(&mut state, seconds(20)), ["pod-3>a"]);
}

#[test]
fn a_pod_whose_room_another_took_when_it_was_free_tries_again() {
    let mut state = full();
    state.pod_seen(of_priority(9, pod(3, 1_000)), seconds(0));
    assert!(run(&mut state, seconds(0))[0].starts_with("pod-3 makes pod-1 leave a"));
    // A rival has bound it there, and then the one that had to go is gone.
    state.pod_seen(on("a", of_priority(1, pod(4, 1_000))), seconds(5));
    state.preempted(PodKey(3), &[]);
    state.pod_gone(PodKey(1));
    let told = run(&mut state, seconds(10));
    assert!(told[0].starts_with("pod-3 makes pod-4 leave a"), "{told:?}");
}

#[test]
fn who_matters_more_takes_the_node_that_another_waits_for() {
    let mut state = full();
    state.pod_seen(of_priority(5, pod(3, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-3 makes pod-1 leave a", NO_ROOM]);
    state.pod_gone(PodKey(1));
    state.pod_seen(of_priority(7, pod(4, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-4>a"], "the room is free to it");
    assert!(run(&mut state, seconds(20)).contains(&"pod-3 makes pod-2 leave b".to_owned()));
}

#[test]
fn pods_that_never_preempt_wait_and_so_do_those_that_it_does_not_help() {
    let mut state = full();
    state.pod_seen(PodFacts { never_preempts: true, ..of_priority(9, pod(3, 1_000)) }, seconds(0));
    let never = format!("{NO_ROOM} preemption: not eligible due to preemptionPolicy=Never.");
    assert_eq!(run(&mut state, seconds(0)), [never]);
    state.pod_seen(of_priority(2, pod(4, 1_000)), seconds(0));
    state.pod_seen(on("a", of_priority(2, pod(1, 1_000))), seconds(0));
    let none = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert_eq!(run(&mut state, seconds(0)), [format!("{NO_ROOM} {none}")]);
    // Once a pod of lower priority is there instead, it does help.
    state.pod_gone(PodKey(1));
    state.pod_seen(on("a", of_priority(1, pod(5, 1_000))), seconds(1));
    assert_eq!(run(&mut state, seconds(20)), ["pod-4 makes pod-5 leave a", NO_ROOM]);
}

#[test]
fn a_pod_whose_victims_could_not_be_told_tries_again() {
    let mut state = full();
    state.pod_seen(of_priority(9, pod(3, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-3 makes pod-1 leave a", NO_ROOM]);
    state.preempted(PodKey(3), &[PodKey(1)]);
    assert_eq!(run(&mut state, seconds(2)), ["pod-3 makes pod-1 leave a"]);
}

#[test]
fn room_that_was_kept_for_a_pod_is_for_others_when_it_goes_elsewhere() {
    let mut state = state();
    let here: BTreeMap<String, String> = [("here".to_owned(), "yes".to_owned())].into();
    state.node_seen(NodeSpec { labels: here.clone(), ..node("a", 1_000) });
    state.pod_seen(on("a", of_priority(1, pod(1, 1_000))), seconds(0));
    state.pod_seen(of_priority(9, pod(3, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0))[0], "pod-3 makes pod-1 leave a");
    // Room comes, and another elsewhere; someone else takes some of the first.
    let soon = Duration::from_millis(500);
    state.pod_gone(PodKey(1));
    state.pod_seen(on("a", pod(5, 300)), soon);
    state.node_seen(node("c", 1_000));
    let mut small = pod(4, 500);
    small.class.node_selector = here;
    state.pod_seen(small, soon);
    let told = run(&mut state, soon);
    assert!(told.len() == 1 && told[0].contains("1 Insufficient cpu"), "what is left is kept: {told:?}");
    assert_eq!(run(&mut state, seconds(1)), ["pod-3>c"]);
    assert_eq!(run(&mut state, seconds(3)), ["pod-4>a"]);
}

#[test]
fn a_restart_finds_who_waits_where_in_the_status() {
    let mut state = full();
    let waiting = PodFacts { nominated: Some("b".into()), ..of_priority(9, pod(3, 1_000)) };
    state.pod_seen(waiting.clone(), seconds(0));
    let going = PodFacts { terminating: true, preempted: true, ..of_priority(2, pod(2, 1_000)) };
    state.pod_seen(on("b", going), seconds(0));
    let told = run(&mut state, seconds(0));
    assert!(told[0].ends_with("not eligible due to a terminating pod on the nominated node."), "{told:?}");
    // The node goes, and who waited for it looks elsewhere.
    state.node_gone(&"b".to_owned());
    let told = run(&mut state, seconds(20));
    assert_eq!(told[0], "pod-3 makes pod-1 leave a");
}

#[test]
fn a_budget_says_who_goes_first() {
    let mut state = full();
    let web = |number: u128, node: &str| {
        let mut pod = on(node, pod(number, 1_000));
        pod.class.namespace = "default".into();
        pod.class.labels = [("app".to_owned(), "web".to_owned())].into();
        of_priority(1, pod)
    };
    state.pod_seen(web(1, "a"), seconds(0));
    let selector = vec![Requirement { key: "app".into(), operator: Operator::Exists, values: Vec::new() }];
    let budget = Budget { selector: Some(selector), allowed: 0, ..Budget::default() };
    let key = ("default".to_owned(), "web".to_owned());
    state.budget_seen(key.clone(), budget);
    state.pod_seen(of_priority(9, pod(3, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0))[0], "pod-3 makes pod-2 leave b");
    state.budgets_relist();
    state.budgets_listed();
    state.pod_seen(of_priority(9, pod(4, 1_000)), seconds(0));
    assert_eq!(run(&mut state, seconds(0))[0], "pod-4 makes pod-1 leave a");
}

fn read<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn with_claim(number: u128, claim: &str) -> PodFacts {
    let claims = vec![ClaimUse { name: claim.into(), ephemeral: false }];
    let claimant = Claimant { namespace: "default".into(), name: format!("pod-{number}"), uid: "u".into(), claims };
    PodFacts { claimant: Some(claimant), ..pod(number, 100) }
}

/// A class that waits for pods, a volume on node `b`, and the claims `one` and `two`.
fn with_volumes() -> State {
    let mut state = state();
    for name in ["a", "b"] {
        let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())].into();
        state.node_seen(NodeSpec { labels, ..node(name, 4_000) });
    }
    let class = json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"});
    state.storage().class_seen(&read(class));
    state.storage().volume_seen(&read(local_volume(None)));
    for name in ["one", "two"] {
        state.storage().claim_seen(&read(local_claim(name, None)));
    }
    state
}

fn local_volume(claim: Option<&str>) -> serde_json::Value {
    let expression = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]});
    let mut volume = json!({"metadata": {"name": "disk", "resourceVersion": "5"}, "status": {"phase": "Available"},
        "spec": {"storageClassName": "local", "capacity": {"storage": "1Gi"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}});
    if let Some(claim) = claim {
        volume["spec"]["claimRef"] = json!({"namespace": "default", "name": claim, "uid": format!("uid-{claim}")});
    }
    volume
}

fn local_claim(name: &str, volume: Option<&str>) -> serde_json::Value {
    let mut claim = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}});
    if let Some(volume) = volume {
        claim["spec"]["volumeName"] = json!(volume);
        claim["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    }
    claim
}

const NO_VOLUMES: &str = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. \
                          preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";

#[test]
fn a_pod_gets_its_volume_with_its_node_and_is_bound_when_it_has_it() {
    let mut state = with_volumes();
    state.pod_seen(with_claim(1, "one"), seconds(0));
    state.pod_seen(with_claim(2, "two"), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-1 gets disk for b", NO_VOLUMES]);
    assert_eq!(state.next_deadline(), Some(seconds(300)), "the other pod's next look");
    let mut actions = Vec::new();
    state.provided(PodKey(1), Ok(()), seconds(1), &mut actions);
    assert_eq!((actions.len(), run(&mut state, seconds(1))), (0, Vec::new()));
    state.storage().volume_seen(&read(local_volume(Some("one"))));
    state.storage().claim_seen(&read(local_claim("one", Some("disk"))));
    assert_eq!(run(&mut state, seconds(2)), ["pod-1>b"]);
    // The next volume is for the next pod.
    let mut more = local_volume(None);
    more["metadata"]["name"] = json!("more");
    state.storage().volume_seen(&read(more));
    assert_eq!(run(&mut state, seconds(20)), ["pod-2 gets more for b"]);
}

#[test]
fn a_pod_whose_volume_is_lost_to_another_or_never_comes_is_tried_afresh() {
    let mut state = with_volumes();
    state.pod_seen(with_claim(1, "one"), seconds(0));
    assert_eq!(run(&mut state, seconds(0)), ["pod-1 gets disk for b"]);
    let mut actions = Vec::new();
    state.provided(PodKey(1), Err("binding volumes: no".into()), seconds(0), &mut actions);
    assert_eq!((actions.len(), state.cache_counts().2), (2, 0), "condition and event");
    assert_eq!(run(&mut state, seconds(1)), ["pod-1 gets disk for b"]);
    assert_eq!(state.next_deadline(), Some(seconds(601)));
    let told = run(&mut state, seconds(601));
    assert_eq!(told, ["binding volumes: context deadline exceeded", "pod-1 gets disk for b"]);
    state.pod_gone(PodKey(1));
    state.pod_seen(with_claim(2, "two"), seconds(604));
    assert_eq!(run(&mut state, seconds(604)), ["pod-2 gets disk for b"], "what the other had is free");
}

#[test]
fn a_pod_waits_for_its_claims_and_goes_where_their_volumes_are() {
    let mut state = with_volumes();
    state.pod_seen(with_claim(1, "three"), seconds(0));
    let told = run(&mut state, seconds(0));
    assert_eq!(
        told,
        ["0/2 nodes are available: persistentvolumeclaim \"three\" not found. preemption: 0/2 nodes are available: \
          2 Preemption is not helpful for scheduling."]
    );
    state.storage().claim_seen(&read(local_claim("three", Some("disk"))));
    assert_eq!(run(&mut state, seconds(20)), ["pod-1>b"]);
    // Two claims that each could have the one volume cannot both have it.
    let both = with_claim(2, "one");
    let mut claimant = both.claimant.clone().unwrap();
    claimant.claims.push(ClaimUse { name: "two".into(), ephemeral: false });
    state.pod_seen(PodFacts { claimant: Some(claimant), ..both }, seconds(20));
    assert_eq!(run(&mut state, seconds(20)), [NO_VOLUMES]);
}
