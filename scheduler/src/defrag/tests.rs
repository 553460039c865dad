//! Who may be moved, and how many.

use super::*;
use crate::config::Configuration;
use serde_json::{Value, json};

const NOW: i64 = 1_767_326_645;
const HOUR: Duration = Duration::from_secs(3_600);

fn pod(change: &[(&str, Value)]) -> k8s::Pod {
    let mut pod = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u", "annotations": {}, "ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "r", "controller": true}]},
        "spec": {"nodeName": "one", "schedulerName": "default-scheduler", "containers": [{"name": "main"}]},
        // An hour and a second ago.
        "status": {"phase": "Running", "startTime": "2026-01-02T03:04:04Z"}});
    for (path, value) in change {
        let (parent, name) = path.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[name.replace('~', "/")] = value.clone();
    }
    serde_json::from_value(pod).unwrap()
}

#[test]
fn only_pods_that_come_again_elsewhere_and_lose_nothing_may_be_moved() {
    let facts = movable(&pod(&[]), HOUR, NOW).unwrap();
    assert_eq!((facts.node_name.as_deref(), facts.started.is_some()), (Some("one"), true));
    let safe = |value: &str| ("/metadata/annotations/cluster-autoscaler.kubernetes.io~safe-to-evict", json!(value));
    let owner = |kind: &str| {
        let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o", "controller": true});
        ("/metadata/ownerReferences", json!([owner]))
    };
    let data = ("/spec/volumes", json!([{"name": "data", "emptyDir": {}}]));
    let refused: Vec<Vec<(&str, Value)>> = vec![
        vec![("/metadata/ownerReferences", json!([{"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x"}]))],
        vec![owner("DaemonSet")],
        vec![owner("Node")],
        vec![("/metadata/annotations/kubernetes.io~config.mirror", json!("x"))],
        vec![safe("false")],
        vec![data.clone()],
        vec![("/spec/volumes", json!([{"name": "data", "hostPath": {"path": "/data"}}]))],
        vec![("/spec/priorityClassName", json!("system-cluster-critical"))],
        vec![("/spec/priority", json!(2_000_000_000))],
        vec![("/metadata/deletionTimestamp", json!("2026-01-02T03:04:04Z"))],
        vec![("/status/phase", json!("Succeeded"))],
        vec![("/status/startTime", json!("2026-01-02T03:04:06Z"))],
        vec![("/status/startTime", Value::Null)],
        vec![("/spec/nodeName", json!(""))],
    ];
    for change in refused {
        assert_eq!(movable(&pod(&change), HOUR, NOW), None, "{change:?}");
    }
    assert!(movable(&pod(&[data, safe("true")]), HOUR, NOW).is_some(), "it says that nothing is lost");
    let late = ("/status/startTime", json!("2026-01-02T03:04:06Z"));
    assert!(movable(&pod(&[late]), Duration::ZERO, NOW).is_some(), "without a cool-down");
}

#[test]
fn an_hour_sees_no_more_moves_than_it_may() {
    let settings = Settings { moves_per_run: 3, moves_per_hour: 5, ..Settings::default() };
    let (mut pace, minute) = (Pace::default(), Duration::from_secs(60));
    assert_eq!(pace.left(&settings, Duration::ZERO), 3);
    pace.made(3, Duration::ZERO);
    assert_eq!(pace.left(&settings, minute), 2);
    pace.made(2, minute);
    assert_eq!(pace.left(&settings, HOUR - minute), 0);
    assert_eq!(pace.left(&settings, HOUR), 3);
    assert_eq!(pace.left(&settings, HOUR + minute), 3);
}

fn read(defragmentation: &Value) -> Result<Settings, String> {
    let document = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "defragmentation": defragmentation});
    Configuration::read(document).map(|read| read.defragmentation).map_err(|error| match error {
        crate::config::ConfigError::Form(error) => error.to_string(),
        error => error.to_string(),
    })
}

#[test]
fn the_configuration_file_says_whether_pods_are_moved() {
    assert_eq!(read(&json!({})), Ok(Settings::default()));
    let all = json!({"mode": "Move", "intervalSeconds": 5, "waitSeconds": 0, "movesPerRun": 2, "movesPerHour": 9,
        "coolDownSeconds": 0});
    let seconds = Duration::from_secs;
    let wanted = Settings {
        mode: settings::Mode::Move,
        interval: seconds(5),
        wait: seconds(0),
        moves_per_run: 2,
        moves_per_hour: 9,
        cool_down: seconds(0),
    };
    assert_eq!(read(&all), Ok(wanted));
    let wrong = read(&json!({"mode": "On"})).unwrap_err();
    assert_eq!(wrong, "defragmentation.mode: Unsupported value: \"On\": supported: Move, Off, Propose");
    let wrong = read(&json!({"movesPerRun": 33})).unwrap_err();
    assert_eq!(wrong, "defragmentation.movesPerRun: Invalid value: 33: not in valid range [1, 32]");
    let wrong = read(&json!({"interval": 3})).unwrap_err();
    assert!(wrong.contains("unknown field `interval`"), "{wrong}");
}
