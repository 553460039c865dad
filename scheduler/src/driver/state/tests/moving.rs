//! Moves from their beginning to their end: room is kept for as long as there is hope, and no other moves are looked for before
//! those that left are there again.

use tokio_util::sync::CancellationToken;

use super::*;
use crate::core::ResourceId;
use crate::fair::QueueSpec;

const WEB: u128 = 77;

fn owned(number: u128, milli_cpu: i64) -> PodFacts {
    PodFacts { maker: Some(WEB), ..pod(number, milli_cpu) }
}

/// Two nodes with half a CPU free each, and a pod that wants a whole one. One small pod is on each.
fn stranded() -> (State, Vec<PodFacts>) {
    let mut state = state();
    let small = [on("b", owned(1, 500)), on("a", owned(2, 500))];
    for name in ["a", "b"] {
        state.node_seen(node(name, 1_000));
    }
    for pod in &small {
        state.pod_seen(pod.clone(), seconds(0));
    }
    state.pod_seen(pod(3, 1_000), seconds(0));
    run(&mut state, seconds(0));
    (state, small.into())
}

/// The moves that are found for those that wait, begun.
fn begin(state: &mut State, movable: &[PodFacts], now: Duration) -> Option<Clearing> {
    let mut trial = state.trial(now);
    trial.settle();
    let pod = *trial.stranded(Duration::ZERO).first()?;
    let clearing = trial.make_room(pod, movable, 2, &mut Effort::new(CancellationToken::new())).found?;
    assert!(state.start_moves(&clearing, now, &mut Vec::new()));
    Some(clearing)
}

/// Time passes; gives the pods that wait for no node any more.
fn pass(state: &mut State, now: Duration) -> Vec<String> {
    let mut actions = Vec::new();
    state.wake(now);
    while state.schedule_next(now, &mut actions).is_some() {}
    let given_up = actions.into_iter().filter_map(|action| match action {
        Action::Status { pod, nominated: Some(None), .. } => Some(pod.name),
        _ => None,
    });
    given_up.collect()
}

#[test]
fn the_next_look_waits_for_who_was_moved_to_be_made_anew() {
    let (mut state, movable) = stranded();
    let clearing = begin(&mut state, &movable, seconds(1)).unwrap();
    assert_eq!((clearing.moves[0].pod.name.as_str(), &*clearing.node), ("pod-2", "a"));
    state.preempted(PodKey(3), &[]);
    state.pod_seen(PodFacts { terminating: true, ..movable[1].clone() }, seconds(2));
    assert_eq!(pass(&mut state, seconds(20)), [""; 0], "it has time to end");
    state.pod_gone(PodKey(2));
    assert_eq!(run(&mut state, seconds(21)), ["pod-3>a"]);
    bound(&mut state, 3, BindOutcome::Bound, seconds(21));
    state.pod_seen(on("a", pod(3, 1_000)), seconds(21));
    assert!(state.is_making_room(), "the half CPU on the other node is for one that is not there yet");
    // One that others make, one that is known already, and one that goes take nobody's place.
    state.pod_seen(PodFacts { maker: Some(78), ..pod(4, 100) }, seconds(21));
    state.pod_seen(movable[0].clone(), seconds(21));
    state.pod_seen(PodFacts { terminating: true, ..owned(5, 500) }, seconds(21));
    pass(&mut state, seconds(22));
    assert!(state.is_making_room());
    state.pod_seen(owned(6, 500), seconds(22));
    pass(&mut state, seconds(22));
    assert!(!state.is_making_room());
}

#[test]
fn a_pod_that_is_not_made_anew_is_waited_for_no_longer_than_is_sensible() {
    let (mut state, movable) = stranded();
    begin(&mut state, &movable, seconds(1)).unwrap();
    state.pod_gone(PodKey(2));
    run(&mut state, seconds(10));
    state.pod_seen(on("a", pod(3, 1_000)), seconds(10));
    pass(&mut state, seconds(39));
    assert!(state.is_making_room());
    assert_eq!(state.next_deadline(), Some(seconds(40)), "time alone ends it");
    pass(&mut state, seconds(40));
    assert!(!state.is_making_room());

    // The pod may be made anew before the old one is gone: then there is nothing to wait for.
    let (mut state, movable) = stranded();
    begin(&mut state, &movable, seconds(1)).unwrap();
    state.pod_seen(owned(6, 500), seconds(2));
    run(&mut state, seconds(2));
    state.pod_gone(PodKey(2));
    run(&mut state, seconds(10));
    state.pod_seen(on("a", pod(3, 1_000)), seconds(10));
    pass(&mut state, seconds(10));
    assert!(!state.is_making_room());
}

#[test]
fn a_pod_that_never_ends_does_not_hold_up_other_moves() {
    let (mut state, mut movable) = stranded();
    movable[1].grace = Some(seconds(100));
    let clearing = begin(&mut state, &movable, seconds(1)).unwrap();
    assert_eq!(clearing.moves[0].pod.key, PodKey(2));
    state.preempted(PodKey(3), &[]);
    state.pod_seen(PodFacts { terminating: true, ..movable[1].clone() }, seconds(2));
    // The one that takes its place has the room that was meant for it.
    state.pod_seen(owned(6, 500), seconds(3));
    assert_eq!(run(&mut state, seconds(3)), ["pod-6>b"]);
    state.pod_seen(on("b", owned(6, 500)), seconds(3));
    assert_eq!(pass(&mut state, seconds(130)), [""; 0], "its own time and half a minute");
    assert!(state.is_making_room());
    assert_eq!(pass(&mut state, seconds(131)), ["pod-3"], "its room is not kept for the pod any more");
    assert!(!state.is_making_room());

    // What it has is not free: room is made elsewhere, where those that can go have somewhere to go to.
    state.node_seen(node("c", 1_000));
    state.pod_seen(on("c", pod(7, 100)), seconds(140));
    run(&mut state, seconds(140));
    movable[1].terminating = true;
    let anew = [movable[0].clone(), movable[1].clone(), PodFacts { maker: Some(8), ..on("c", pod(7, 100)) }];
    let clearing = begin(&mut state, &anew, seconds(150)).unwrap();
    assert_eq!((clearing.moves[0].pod.key, &*clearing.node, &*clearing.moves[0].to), (PodKey(7), "c", "a"));
}

#[test]
fn a_pod_that_could_not_be_evicted_is_not_waited_for() {
    let (mut state, movable) = stranded();
    begin(&mut state, &movable, seconds(1)).unwrap();
    state.preempted(PodKey(3), &[PodKey(2)]);
    assert_eq!(pass(&mut state, seconds(20)), ["pod-3"]);
    assert!(!state.is_making_room());
}

#[test]
fn a_trial_sees_room_kept_however_long_it_thinks() {
    let (mut state, movable) = stranded();
    begin(&mut state, &movable, seconds(1)).unwrap();
    state.pod_seen(PodFacts { terminating: true, ..movable[1].clone() }, seconds(2));
    let mut trial = state.trial(seconds(2));
    trial.pause();
    for _ in 0..20 {
        trial.pause();
        trial.add_pod(pod(9, 500));
        trial.settle();
    }
    assert_eq!(trial.outcome(PodKey(9)).unwrap().node.as_deref(), Some("b"), "on a the room is another's");
    assert!(trial.state.is_making_room());
}

#[test]
fn pods_whose_queue_holds_others_back_stay() {
    let limit = |milli_cpu: i64| [(ResourceId::CPU, milli_cpu)].into();
    for (held_in, found) in [(None, true), (Some("mine"), false), (Some("beside"), false), (Some("other"), true)] {
        let mut state = state();
        for name in ["a", "b"] {
            state.node_seen(node(name, 1_000));
        }
        // The one beside has nothing to say here; the one above both has.
        let queues = [
            ("top", None, if held_in == Some("beside") { 1_000 } else { 9_000 }),
            ("mine", Some("top"), if held_in == Some("mine") { 1_000 } else { 9_000 }),
            ("beside", Some("top"), 9_000),
            ("other", None, 100),
        ];
        for (name, parent, most) in queues {
            let parent = parent.map(str::to_owned);
            let spec = QueueSpec { parent, weight: 1, limit: limit(most), ..QueueSpec::default() };
            state.queue.fair.set(name, Some(spec));
        }
        let small = [("a", 1), ("b", 2)].map(|(node, number)| {
            let pod = PodFacts { queue: Some("mine".into()), ..owned(number, 500) };
            on(node, pod)
        });
        for pod in &small {
            state.pod_seen(pod.clone(), seconds(0));
        }
        if let Some(queue) = held_in {
            state.pod_seen(PodFacts { queue: Some(queue.into()), ..pod(4, 400) }, seconds(0));
        }
        state.pod_seen(pod(3, 1_000), seconds(0));
        let told = run(&mut state, seconds(0));
        assert_eq!(told.iter().any(|told| told.contains("is at its limit")), held_in.is_some(), "{told:?}");
        assert_eq!(begin(&mut state, &small, seconds(1)).is_some(), found, "{held_in:?}");
    }
}
