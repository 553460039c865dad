//! How much trouble each zone is in, and how fast its nodes may be emptied because of it. Pure.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::time::Instant;

use super::plan::ready_of;

/// How much of the cluster is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disruption {
    /// Some nodes are ready.
    None,
    /// No node of any zone is ready: more likely it is this side that is cut off, so nothing is evicted.
    Everything,
}

/// The settings for [`Zones`].
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Nodes a second in a healthy zone, and in one that is wholly down.
    pub normal: f64,
    /// Nodes a second in a large zone with many unhealthy nodes; small ones stop.
    pub reduced: f64,
    /// The share of unhealthy nodes from which on a zone is unhealthy.
    pub unhealthy_share: f64,
    /// Zones with more nodes than this are large.
    pub large: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ready: usize,
    unready: usize,
}

/// What is known of all zones.
#[derive(Debug, Default)]
pub struct Zones {
    counts: HashMap<String, Count>,
    /// What each zone may still spend, and when that was reckoned.
    allowance: HashMap<String, (f64, Instant)>,
}

/// The zone of a node.
pub fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.labels().get(name).cloned().unwrap_or_default();
    format!("{}:{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

impl Zones {
    /// Counts anew.
    pub fn count<'a>(&mut self, nodes: impl Iterator<Item = &'a Node>) {
        self.counts.clear();
        for node in nodes {
            let count = self.counts.entry(zone_of(node)).or_default();
            if ready_of(node) == "True" {
                count.ready += 1;
            } else {
                count.unready += 1;
            }
        }
        let counts = &self.counts;
        self.allowance.retain(|zone, _| counts.contains_key(zone));
    }

    /// How much of the cluster is in trouble.
    pub fn disruption(&self) -> Disruption {
        let down = |count: &Count| count.ready == 0 && count.unready > 0;
        if !self.counts.is_empty() && self.counts.values().all(down) {
            Disruption::Everything
        } else {
            Disruption::None
        }
    }

    fn rate(&self, zone: &str, rates: &Rates) -> f64 {
        let count = self.counts.get(zone).copied().unwrap_or_default();
        let total = count.ready + count.unready;
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
        let share = count.unready as f64 / total.max(1) as f64;
        let partly = count.ready > 0 && count.unready > 2 && share >= rates.unhealthy_share;
        match partly {
            false => rates.normal,
            true if total > rates.large => rates.reduced,
            true => 0.0,
        }
    }

    /// Whether one more node of `zone` may begin to be emptied now.
    pub fn may_evict(&mut self, zone: &str, rates: &Rates, now: Instant) -> bool {
        let rate = self.rate(zone, rates);
        let (tokens, since) = self.allowance.entry(zone.to_owned()).or_insert((1.0, now));
        *tokens = (*tokens + now.duration_since(*since).as_secs_f64() * rate).min(1.0);
        *since = now;
        let may = rate > 0.0 && *tokens >= 1.0;
        if may {
            *tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const RATES: Rates = Rates { normal: 0.1, reduced: 0.01, unhealthy_share: 0.55, large: 50 };

    fn nodes(zone: &str, ready: usize, unready: usize) -> Vec<Node> {
        (0..ready + unready)
            .map(|n| {
                let status = if n < ready { "True" } else { "Unknown" };
                serde_json::from_value(json!({
                    "metadata": {"name": format!("{zone}-{n}"),
                        "labels": {"topology.kubernetes.io/zone": zone}},
                    "status": {"conditions": [{"type": "Ready", "status": status}]},
                }))
                .unwrap()
            })
            .collect()
    }

    fn zones(all: &[Vec<Node>]) -> Zones {
        let mut zones = Zones::default();
        zones.count(all.iter().flatten());
        zones
    }

    #[tokio::test]
    async fn nodes_are_emptied_one_in_ten_seconds() {
        let mut zones = zones(&[nodes("a", 5, 2)]);
        let start = Instant::now();
        let mut at = |seconds| zones.may_evict(":a", &RATES, start + Duration::from_secs(seconds));
        assert!(at(0));
        assert!(!at(5));
        assert!(at(11));
        assert!(!at(12));
    }

    #[tokio::test]
    async fn an_unhealthy_zone_stops_if_small_and_slows_down_if_large() {
        let now = Instant::now();
        assert!(!zones(&[nodes("a", 4, 6)]).may_evict(":a", &RATES, now));
        let mut large = zones(&[nodes("a", 40, 60)]);
        assert!(large.may_evict(":a", &RATES, now));
        assert!(!large.may_evict(":a", &RATES, now + Duration::from_secs(50)));
        assert!(large.may_evict(":a", &RATES, now + Duration::from_secs(101)));
    }

    #[tokio::test]
    async fn one_zone_down_is_emptied_all_zones_down_are_not() {
        let mut one = zones(&[nodes("a", 0, 3), nodes("b", 2, 0)]);
        assert_eq!(one.disruption(), Disruption::None);
        assert!(one.may_evict(":a", &RATES, Instant::now()));
        let all = zones(&[nodes("a", 0, 3), nodes("b", 0, 1)]);
        assert_eq!(all.disruption(), Disruption::Everything);
        assert_eq!(zones(&[]).disruption(), Disruption::None);
    }
}
