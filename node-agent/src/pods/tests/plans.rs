//! The planner by table: what there is, and the step that follows.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::super::memory::{Memory, Volumes, Waiting};
use super::super::plan::{Observed, Step, plan, restarts_of_next};
use super::super::spec;
use super::harness::pod;
use crate::clock::{Moment, Now};
use crate::runtime::{ContainerRecord, ContainerState, PodRecord, SandboxRecord};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The same time by the agent's own clock.
const fn moment(second: i64) -> Moment {
    Moment::from_second(second)
}

/// When the planner is asked.
const NOW: Now = Now { wall: Timestamp::constant(20, 0), steady: moment(20) };

fn sandbox(attempt: u32, ready: bool) -> SandboxRecord {
    SandboxRecord {
        id: format!("s{attempt}"),
        attempt,
        ready,
        created_at: at(0),
        ips: vec!["10.0.0.1".parse().unwrap()],
        labels: Default::default(),
        annotations: Default::default(),
    }
}

/// A container of the planner's tables.
pub fn container(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("{name}{attempt}"),
        sandbox_id: "s0".into(),
        name: name.into(),
        attempt,
        state,
        created_at: at(0),
        started_at: Some(at(1)),
        finished_at: (state == ContainerState::Exited).then(|| at(10)),
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_id: String::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: None,
    }
}

fn step(pod: &Pod, memory: &Memory, sandboxes: Vec<SandboxRecord>, containers: Vec<ContainerRecord>) -> Option<Step> {
    let record = PodRecord { pod: spec::identity(pod), sandboxes, containers };
    let mut memory = memory.clone();
    memory.see(&record, NOW);
    plan(&Observed { pod, gone: false, record: &record, memory: &memory }, NOW.steady).step
}

fn mounted() -> Memory {
    Memory { volumes: Volumes::Mounted, ..Memory::default() }
}

fn start(name: &str, attempt: u32, after_failure: Option<Moment>) -> Option<Step> {
    Some(Step::Start { name: name.into(), attempt, after_failure })
}

use ContainerState::{Created, Exited, Running, Unknown};

#[test]
fn the_way_up() {
    let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}));
    let memory = mounted();
    let up = || vec![sandbox(0, true)];
    let first = Step::StartSandbox { attempt: 0, kill: Vec::new(), stop: Vec::new() };
    assert_eq!(step(&pod, &memory, Vec::new(), Vec::new()), Some(first));
    assert_eq!(step(&pod, &Memory::default(), up(), Vec::new()), Some(Step::MountVolumes));
    assert_eq!(step(&pod, &memory, up(), Vec::new()), start("i", 0, None));
    assert_eq!(step(&pod, &memory, up(), vec![container("i", 0, Running, 0)]), None);
    assert_eq!(step(&pod, &memory, up(), vec![container("i", 0, Exited, 0)]), start("a", 0, None));
    assert_eq!(step(&pod, &memory, up(), vec![container("i", 0, Exited, 1)]), start("i", 1, Some(moment(10))));
    let one_up = vec![container("i", 0, Exited, 0), container("a", 0, Running, 0)];
    assert_eq!(step(&pod, &memory, up(), one_up), start("b", 0, None));
    let all_up = vec![container("a", 0, Running, 0), container("b", 0, Running, 0)];
    assert_eq!(step(&pod, &memory, up(), all_up), None, "app containers prove that the pod was initialized");
}

#[test]
fn what_should_not_run_is_ended_first() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let memory = mounted();
    let kills = |step: Option<Step>| match step {
        Some(Step::Kill { containers }) => containers.into_iter().map(|kill| kill.id).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let twice = vec![container("a", 1, Running, 0), container("a", 0, Running, 0)];
    assert_eq!(kills(step(&pod, &memory, vec![sandbox(0, true)], twice)), ["a0"]);
    let stranger = vec![container("a", 0, Running, 0), container("x", 0, Running, 0)];
    assert_eq!(kills(step(&pod, &memory, vec![sandbox(0, true)], stranger)), ["x0"]);
    let unknown = vec![container("a", 0, Unknown, 0)];
    assert_eq!(kills(step(&pod, &memory, vec![sandbox(0, true)], unknown)), ["a0"]);
    let old = step(&pod, &memory, vec![sandbox(1, true), sandbox(0, false)], vec![container("a", 0, Running, 0)]);
    assert_eq!(kills(old), ["a0"]);
    // Never started: made anew under the same number.
    let created = step(&pod, &memory, vec![sandbox(0, true)], vec![container("a", 0, Created, 0)]);
    assert_eq!(created, Some(Step::Prune { containers: vec!["a0".into()], sandboxes: Vec::new() }));
}

#[test]
fn a_container_that_never_ran_and_does_not_go_away_is_passed_by_and_counts_as_no_restart() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = mounted();
    memory.stuck.insert("a0".into());
    let records = vec![container("a", 0, Created, 0)];
    assert_eq!(step(&pod, &memory, vec![sandbox(0, true)], records.clone()), start("a", 1, None));
    let record = PodRecord { containers: records, ..PodRecord::default() };
    assert_eq!(restarts_of_next(&record, "a", 1), 0);
    let ran = PodRecord { containers: vec![container("a", 1, Exited, 1)], ..PodRecord::default() };
    assert_eq!(restarts_of_next(&ran, "a", 2), 2);
}

#[test]
fn a_container_that_the_runtime_lost_goes_on_with_the_next_number() {
    let old = json!({"terminated": {"exitCode": 1, "containerID": "containerd://a0"}});
    let running = json!({"running": {}});
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    let cases = [
        ("it ran", running, json!({}), 1),
        ("it ended and waited for its next turn", waiting.clone(), old, 1),
        ("it was made and never started", waiting, json!({}), 0),
    ];
    for (what, state, last, attempt) in cases {
        let mut pod = pod(json!({"containers": [{"name": "a"}]}));
        let status = json!({"containerStatuses": [{
            "name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": "containerd://a0", "state": state, "lastState": last,
        }]});
        pod.status = Some(serde_json::from_value(status).unwrap());
        let step = step(&pod, &mounted(), vec![sandbox(0, true)], Vec::new());
        assert_eq!(step, start("a", attempt, None), "{what}");
    }
}

#[test]
fn restart_policies() {
    for (policy, exit_code, restarts) in
        [("Always", 0, true), ("Always", 1, true), ("OnFailure", 1, true), ("OnFailure", 0, false), ("Never", 1, false)]
    {
        let pod = pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}));
        let containers = vec![container("a", 0, Exited, exit_code), container("b", 0, Running, 0)];
        let step = step(&pod, &mounted(), vec![sandbox(0, true)], containers);
        let expected = if restarts { start("a", 1, Some(moment(10))) } else { None };
        assert_eq!(step, expected, "{policy} {exit_code}");
    }
}

#[test]
fn back_off_waits_and_says_so() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let mut memory = mounted();
    memory.restarts.bump("a", moment(9), moment(9));
    memory.restarts.bump("a", moment(9), moment(9));
    let record = PodRecord {
        pod: spec::identity(&pod),
        sandboxes: vec![sandbox(0, true)],
        containers: vec![container("a", 3, Exited, 1)],
    };
    memory.see(&record, NOW);
    let plan = plan(&Observed { pod: &pod, gone: false, record: &record, memory: &memory }, NOW.steady);
    assert_eq!((plan.step, plan.wake_at), (None, Some(moment(30))));
    assert_eq!(plan.back_off["a"].reason, "CrashLoopBackOff");
    assert!(plan.back_off["a"].message.starts_with("back-off 20s restarting failed container=a pod=web_default("));
}

#[test]
fn the_way_down() {
    let mut pod = pod(json!({
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]}));
    pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(5)));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    let mut memory = mounted();
    let all = vec![container("s1", 0, Running, 0), container("s2", 0, Running, 0), container("a", 0, Running, 0)];
    match step(&pod, &memory, vec![sandbox(0, true)], all) {
        Some(Step::KillPod { containers, sidecars, grace_s: 7 }) => {
            assert_eq!(containers.iter().map(|kill| kill.id.as_str()).collect::<Vec<_>>(), ["a0"]);
            assert_eq!(sidecars.iter().map(|kill| kill.id.as_str()).collect::<Vec<_>>(), ["s20", "s10"]);
        }
        other => panic!("{other:?}"),
    }
    let dead = vec![container("a", 0, Exited, 0)];
    let stop = step(&pod, &memory, vec![sandbox(0, true)], dead.clone());
    assert_eq!(stop, Some(Step::StopSandboxes { ids: vec!["s0".into()] }));
    assert_eq!(step(&pod, &memory, vec![sandbox(0, false)], dead.clone()), Some(Step::CleanUp));
    memory.cleaned = true;
    assert_eq!(step(&pod, &memory, vec![sandbox(0, false)], dead), Some(Step::Finalize));
}

#[test]
fn a_rejected_or_finished_pod_starts_nothing() {
    let mut over = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    let mut memory = mounted();
    memory.cleaned = true;
    over.status.as_mut().unwrap().phase = Some("Succeeded".into());
    assert_eq!(step(&over, &memory, Vec::new(), Vec::new()), None);
    let fresh = pod(json!({"containers": [{"name": "a"}]}));
    memory.rejected = Some(Waiting { reason: "OutOfcpu".into(), message: String::new() });
    assert_eq!(step(&fresh, &memory, Vec::new(), Vec::new()), None);
}

#[test]
fn old_instances_are_pruned_but_the_last_two() {
    let pod = pod(json!({"containers": [{"name": "a"}]}));
    let containers = (0..4).map(|n| container("a", n, if n == 3 { Running } else { Exited }, 1)).collect();
    let pruned = step(&pod, &mounted(), vec![sandbox(0, true)], containers);
    let expected = Step::Prune { containers: vec!["a0".into(), "a1".into()], sandboxes: Vec::new() };
    assert_eq!(pruned, Some(expected));
    // One that was made and never ran takes the place of none that did: the next one's number and restarts go by those.
    let mut memory = mounted();
    memory.retry_at.insert("a".into(), moment(30));
    let containers = vec![container("a", 0, Exited, 1), container("a", 1, Created, 0), container("a", 2, Created, 0)];
    assert_eq!(step(&pod, &memory, vec![sandbox(0, true)], containers), None);
}

#[test]
fn a_container_that_is_lost_is_followed_by_the_next_number() {
    let lost = |status: serde_json::Value| {
        let mut pod = pod(json!({"containers": [{"name": "a"}]}));
        let list = json!([status]);
        pod.status.get_or_insert_with(Default::default).container_statuses = serde_json::from_value(list).unwrap();
        step(&pod, &mounted(), vec![sandbox(0, true)], Vec::new())
    };
    let status = |id: Option<&str>, restarts: i32, state: serde_json::Value| {
        json!({
            "name": "a", "containerID": id, "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
        })
    };
    let (running, waiting) = (json!({"running": {}}), json!({"waiting": {"reason": "ContainerCreating"}}));
    assert_eq!(lost(status(Some("containerd://x"), 1, running)), start("a", 2, None));
    // It was made and did not run.
    assert_eq!(lost(status(Some("containerd://x"), 1, waiting.clone())), start("a", 1, None));
    // The status has counted it already.
    assert_eq!(lost(status(None, 2, waiting)), start("a", 2, None));
}

#[test]
fn an_ephemeral_container_starts_once_whatever_the_others_do() {
    let pod = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "debug", "targetContainerName": "a"}]}));
    let memory = mounted();
    let up = || vec![sandbox(0, true)];
    assert_eq!(step(&pod, &memory, up(), vec![container("i", 0, Running, 0)]), start("debug", 0, None));
    let all =
        |debug| vec![container("i", 0, Exited, 0), container("a", 0, Running, 0), container("debug", 0, debug, 1)];
    assert_eq!(step(&pod, &memory, up(), all(Running)), None);
    // However it ended, it is not started again.
    assert_eq!(step(&pod, &memory, up(), all(Exited)), None);
    // Nor if nothing but the pod's status tells that it ran.
    let mut told = pod.clone();
    let ran = json!([{"name": "debug", "containerID": "containerd://x", "image": "", "imageID": "", "ready": false, "restartCount": 0}]);
    let status = told.status.get_or_insert_with(Default::default);
    status.ephemeral_container_statuses = serde_json::from_value(ran).unwrap();
    let others = vec![container("i", 0, Exited, 0), container("a", 0, Running, 0)];
    assert_eq!(step(&told, &memory, up(), others), None);
    let ephemeral = spec::ephemeral_containers(&pod).remove(0);
    assert_eq!((ephemeral.target.as_deref(), ephemeral.container.name.as_str()), (Some("a"), "debug"));
}

#[test]
fn a_pod_has_its_devices_before_anything_of_it_is_made() {
    let asking = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"a.b/c": "1"}}}]}));
    let plain = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}));
    let sandbox_first = Some(Step::StartSandbox { attempt: 0, kill: Vec::new(), stop: Vec::new() });
    assert_eq!(step(&asking, &Memory::default(), Vec::new(), Vec::new()), Some(Step::Claim));
    assert_eq!(step(&plain, &Memory::default(), Vec::new(), Vec::new()), sandbox_first);
    let claimed = Memory { claimed: true, ..Memory::default() };
    assert_eq!(step(&asking, &claimed, Vec::new(), Vec::new()), sandbox_first);
    // What runs since an agent before this one has them.
    let runs = vec![container("a", 0, Running, 0)];
    let again = step(&asking, &Memory::default(), vec![sandbox(0, false)], runs);
    assert!(matches!(again, Some(Step::StartSandbox { attempt: 1, .. })), "{again:?}");
    // What ran before the machine was started again has to have them still.
    assert_eq!(step(&asking, &Memory::default(), vec![sandbox(0, false)], Vec::new()), Some(Step::Claim));
    let again = step(&asking, &claimed, vec![sandbox(0, false)], Vec::new());
    assert!(matches!(again, Some(Step::StartSandbox { attempt: 1, .. })), "{again:?}");
    let refused = Memory { rejected: Some(Waiting { reason: "r".into(), message: "m".into() }), ..Memory::default() };
    assert_eq!(step(&asking, &refused, Vec::new(), Vec::new()), Some(Step::CleanUp));
}

#[test]
fn a_clock_that_is_set_ends_no_pod_and_no_wait() {
    let pod = pod(json!({"activeDeadlineSeconds": 60, "containers": [{"name": "a"}]}));
    let mut record = PodRecord {
        pod: spec::identity(&pod),
        sandboxes: vec![sandbox(0, true)],
        containers: vec![container("a", 0, Running, 0)],
    };
    for day in [-86_400, 86_400] {
        let mut memory = mounted();
        memory.see(&record, NOW);
        memory.restarts.bump("a", moment(20), moment(20));
        // It is set, and shortly after that the container ends.
        let now = Now { wall: at(25 + day), steady: moment(25) };
        record.containers[0] = container("a", 0, Exited, 1);
        record.containers[0].finished_at = Some(at(24 + day));
        memory.see(&record, now);
        let plan = plan(&Observed { pod: &pod, gone: false, record: &record, memory: &memory }, now.steady);
        assert_eq!((plan.step, plan.wake_at), (None, Some(moment(34))), "{day}");
        assert_eq!(memory.active_since, Some(moment(20)));
        // The other way about: it ended by the clock before.
        let mut memory = Memory { looked_at: Some(moment(20)), ..mounted() };
        record.containers[0].finished_at = Some(at(24));
        memory.see(&record, now);
        let ended = memory.ended["a0"];
        assert!(ended >= moment(20) && ended <= moment(25), "{day} {ended:?}");
        record.containers[0] = container("a", 0, Running, 0);
    }
}
