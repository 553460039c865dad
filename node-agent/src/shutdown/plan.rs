//! Who ends when, and with how much time, when the machine goes down. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::pods::spec;

/// From this priority on a pod is critical for the cluster or its node.
pub const CRITICAL: i32 = 2_000_000_000;

/// The time that pods of a priority and above have, up to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The lowest priority.
    pub priority: i32,
    /// Seconds.
    pub seconds: i64,
}

/// How long the machine waits for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// By priority, the lowest first; empty if it does not wait.
    periods: Vec<Period>,
}

impl Policy {
    /// All pods have `grace`, of which the last `critical` is for critical ones alone.
    pub fn of_grace(grace: Duration, critical: Duration) -> Result<Self, String> {
        if critical > grace {
            return Err(format!(
                "the shutdown grace period of critical pods ({}s) must be <= the shutdown grace period ({}s)",
                critical.as_secs(),
                grace.as_secs()
            ));
        }
        if !grace.is_zero() && grace < Duration::from_secs(1) {
            return Err("the shutdown grace period must be either zero or >= 1s".to_owned());
        }
        if grace.is_zero() {
            return Ok(Self::default());
        }
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Ok(Self::of_periods(vec![
            Period { priority: 0, seconds: seconds(grace) - seconds(critical) },
            Period { priority: CRITICAL, seconds: seconds(critical) },
        ]))
    }

    /// Pods have time by their priority.
    pub fn of_periods(mut periods: Vec<Period>) -> Self {
        periods.sort_by_key(|period| period.priority);
        Self { periods }
    }

    /// Whether the machine waits at all.
    pub fn waits(&self) -> bool {
        !self.periods.is_empty()
    }

    /// How long it waits in all.
    pub fn total(&self) -> Duration {
        let seconds = self.periods.iter().fold(0i64, |sum, period| sum.saturating_add(period.seconds));
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// This one, or for somebody who asks all the same: half a minute, the last ten seconds of it for critical pods.
    pub fn or_usual(&self) -> Self {
        match self.waits() {
            true => self.clone(),
            false => {
                Self::of_periods(vec![Period { priority: 0, seconds: 20 }, Period { priority: CRITICAL, seconds: 10 }])
            }
        }
    }
}

/// Pods that end together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their lowest priority, and how long they are waited for.
    pub period: Period,
    /// By UID, with the seconds that each has.
    pub pods: Vec<(String, i64)>,
}

/// The pods in the order in which they end. Below the lowest priority that is named, pods end with those of the lowest.
pub fn groups<'a>(policy: &Policy, pods: impl IntoIterator<Item = &'a Pod>) -> Vec<Group> {
    let mut groups: Vec<Group> =
        policy.periods.iter().map(|period| Group { period: *period, pods: Vec::new() }).collect();
    for pod in pods {
        let priority = spec::spec(pod).priority.unwrap_or(0);
        let at = groups.iter().rposition(|group| group.period.priority <= priority).unwrap_or(0);
        let Some(group) = groups.get_mut(at) else { continue };
        let own = spec::spec(pod).termination_grace_period_seconds.unwrap_or(spec::DEFAULT_GRACE_S);
        group.pods.push((pod.metadata.uid.clone().unwrap_or_default(), own.min(group.period.seconds)));
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

/// Parses `0=20,2000000000=10`: priorities and the seconds that pods of them have.
pub fn parse_periods(text: &str) -> Result<Vec<Period>, String> {
    let mut periods: Vec<Period> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let wrong = || format!("`{part}` is not of the form PRIORITY=SECONDS");
        let (priority, seconds) = part.split_once('=').ok_or_else(wrong)?;
        let priority = priority.trim().parse().map_err(|_| wrong())?;
        let seconds: u32 = seconds.trim().trim_end_matches('s').parse().map_err(|_| wrong())?;
        if periods.iter().any(|period| period.priority == priority) {
            return Err(format!("the priority {priority} is named twice"));
        }
        periods.push(Period { priority, seconds: i64::from(seconds) });
    }
    Ok(periods)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: Option<i32>, grace: i64) -> Pod {
        let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": grace});
        serde_json::from_value(json!({"metadata": {"uid": name}, "spec": spec})).unwrap()
    }

    fn planned(policy: &Policy, pods: &[Pod]) -> Vec<(i32, Vec<(String, i64)>)> {
        groups(policy, pods).into_iter().map(|group| (group.period.priority, group.pods)).collect()
    }

    #[test]
    fn critical_pods_end_last_and_nobody_has_more_than_it_wants() {
        let policy = Policy::of_grace(Duration::from_secs(30), Duration::from_secs(10)).unwrap();
        assert_eq!(policy.total(), Duration::from_secs(30));
        let pods = [
            pod("critical", Some(CRITICAL + 1000), 60),
            pod("plain", None, 60),
            pod("quick", Some(1000), 1),
            pod("lowest", Some(-5), 60),
        ];
        let of = |name: &str, seconds| (name.to_owned(), seconds);
        assert_eq!(
            planned(&policy, &pods),
            [(0, vec![of("plain", 20), of("quick", 1), of("lowest", 20)]), (CRITICAL, vec![of("critical", 10)])]
        );
        assert_eq!(planned(&policy, &pods[..1]), [(CRITICAL, vec![of("critical", 10)])], "nobody waits for nobody");
        assert!(planned(&Policy::default(), &pods).is_empty());
    }

    #[test]
    fn a_pod_between_two_priorities_belongs_to_the_lower() {
        let policy = Policy::of_periods(parse_periods("100000=10, 10000=180s,1000=120,0=60").unwrap());
        let at = |priority: i32| planned(&policy, &[pod("p", Some(priority), 300)]);
        for (priority, group, seconds) in [
            (100_000, 100_000, 10),
            (99_999, 10_000, 180),
            (1000, 1000, 120),
            (999, 0, 60),
            (-1, 0, 60),
            (i32::MAX, 100_000, 10),
        ] {
            assert_eq!(at(priority), [(group, vec![("p".to_owned(), seconds)])], "{priority}");
        }
    }

    #[test]
    fn periods_that_cannot_be_are_refused() {
        let of =
            |grace: u64, critical: u64| Policy::of_grace(Duration::from_millis(grace), Duration::from_millis(critical));
        assert!(of(10_000, 20_000).is_err() && of(500, 0).is_err());
        assert!(!of(0, 0).unwrap().waits() && of(10_000, 0).unwrap().waits());
        assert!(of(0, 0).unwrap().or_usual().waits());
        for text in ["1", "a=1", "1=x", "1=1,1=2", "1=-1"] {
            assert!(parse_periods(text).is_err(), "{text}");
        }
    }
}
