//! Somebody sets the machine's clock, by a day and at any time: what takes a time takes that time.

use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::json;
use tokio::time::Instant;

use super::harness::{Node, UID, pod};
use crate::clock;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Waits until `done`, and sets the clock now and then meanwhile; returns the seconds that it took.
async fn seconds_until(node: &Node, jumps: &[i64], done: impl Fn(&Node) -> bool) -> u64 {
    let began = Instant::now();
    let mut jumps = jumps.iter().cycle();
    while !done(node) {
        assert!(began.elapsed() < Duration::from_secs(3600), "not within an hour: {:?}", node.reasons());
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.sync();
        clock::set_by(DAY * i32::try_from(*jumps.next().unwrap()).unwrap());
    }
    began.elapsed().as_secs()
}

async fn crashes(jumps: &[i64]) {
    clock::set_by(SignedDuration::ZERO);
    let node = Node::new(pod(json!({"activeDeadlineSeconds": 3600, "containers": [{"name": "app"}]})));
    node.until(2, "runs", |node| node.runs() == ["app"]).await;
    for (restarts, seconds) in [(1, 0), (2, 10), (3, 20), (4, 40)] {
        node.runtime.end(UID, "app", 1);
        let took = seconds_until(&node, jumps, |node| {
            node.runs() == ["app"] && node.container("app").restart_count == restarts
        });
        let took = took.await;
        assert!((seconds..=seconds + 2).contains(&took), "restart {restarts} after {took} s with {jumps:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn a_back_off_takes_its_time(jumps in proptest::collection::vec(-2i64..=2, 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(crashes(&jumps));
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_has_its_grace() {
    for jumps in [[1, 1], [-1, -1], [1, -1]] {
        clock::set_by(SignedDuration::ZERO);
        let node = Node::new(pod(json!({"terminationGracePeriodSeconds": 60, "containers": [
            {"name": "app", "lifecycle": {"preStop": {"sleep": {"seconds": 20}}}}]})));
        node.until(2, "runs", |node| node.phase() == "Running").await;
        node.delete(60);
        let took = seconds_until(&node, &jumps, |node| node.runs().is_empty()).await;
        assert!((20..=22).contains(&took), "{took} s with {jumps:?}");
        seconds_until(&node, &jumps, |node| node.pod().is_none() && node.runtime.is_empty()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_as_far_away_as_the_pod_says() {
    for jumps in [[1, 1], [-1, -1], [1, -1]] {
        clock::set_by(SignedDuration::ZERO);
        let node = Node::new(pod(json!({"activeDeadlineSeconds": 30, "containers": [{"name": "app"}]})));
        node.until(2, "runs", |node| node.phase() == "Running").await;
        let took = seconds_until(&node, &jumps, |node| node.phase() == "Failed").await;
        assert!((28..=31).contains(&took), "{took} s with {jumps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_is_asked_for_again_when_it_is_time() {
    for jumps in [[1, 1], [-1, -1]] {
        clock::set_by(SignedDuration::ZERO);
        let node = Node::new(pod(json!({"containers": [{"name": "app", "image": "gantry.local/none:1"}]})));
        node.until(5, "back-off", |node| node.waits("app") == "ImagePullBackOff").await;
        node.runtime.add_image("gantry.local/none:1");
        let took = seconds_until(&node, &jumps, |node| node.phase() == "Running").await;
        assert!((7..=11).contains(&took), "{took} s with {jumps:?}");
    }
}

/// An agent that finds a container running knows only by the clock since when.
#[tokio::test(start_paused = true)]
async fn a_probe_waits_no_longer_than_it_says() {
    clock::set_by(SignedDuration::ZERO);
    let probe =
        json!({"tcpSocket": {"host": "127.0.0.1", "port": 1}, "initialDelaySeconds": 30, "failureThreshold": 1});
    let mut node = Node::new(pod(json!({"containers": [{"name": "app", "livenessProbe": probe}]})));
    node.until(2, "runs", |node| node.phase() == "Running").await;
    node.kill_agent();
    clock::set_by(-DAY);
    node.start_agent();
    let took = seconds_until(&node, &[-1], |node| node.container("app").restart_count == 1).await;
    assert!((29..=33).contains(&took), "{took} s");
}
