//! Decides what to do when the node runs out of something: which conditions it has, what to free, and which pod has to go.
//! Pure: in go thresholds, what is left, the pods with what they use, and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gantry_api::quantity::{Format, Quantity};
use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::clock::Moment;
use crate::pods::resources::{self, Amounts, Qos};
use crate::pods::spec;
use crate::stats::disk::Taken;

/// Pods of this priority or a higher one keep the cluster going and are not evicted.
pub const CRITICAL_PRIORITY: i32 = 2_000_000_000;
/// By this a pod from a file of the node is known.
const ANNOTATION_SOURCE: &str = "kubernetes.io/config.source";
/// And by this what the API shows of it.
const ANNOTATION_MIRROR: &str = "kubernetes.io/config.mirror";

/// What can run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`; first, because it is what pods are evicted for first.
    Memory,
    /// `nodefs.available`: the data directory's file system.
    NodeFs,
    /// `nodefs.inodesFree`
    NodeFsInodes,
    /// `imagefs.available`: the images' file system.
    ImageFs,
    /// `imagefs.inodesFree`
    ImageFsInodes,
    /// `pid.available`
    Pids,
}

impl Signal {
    const ALL: [(&'static str, Self); 6] = [
        ("memory.available", Self::Memory),
        ("nodefs.available", Self::NodeFs),
        ("nodefs.inodesFree", Self::NodeFsInodes),
        ("imagefs.available", Self::ImageFs),
        ("imagefs.inodesFree", Self::ImageFsInodes),
        ("pid.available", Self::Pids),
    ];

    /// The resource's name in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// The node's condition that says so.
    pub fn condition(self) -> Condition {
        match self {
            Self::Memory => Condition::MemoryPressure,
            Self::Pids => Condition::PidPressure,
            _ => Condition::DiskPressure,
        }
    }

    /// Whether bytes are counted.
    fn is_bytes(self) -> bool {
        matches!(self, Self::Memory | Self::NodeFs | Self::ImageFs)
    }
}

/// A condition of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `DiskPressure`
    DiskPressure,
    /// `MemoryPressure`
    MemoryPressure,
    /// `PIDPressure`
    PidPressure,
}

impl Condition {
    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DiskPressure => "DiskPressure",
            Self::MemoryPressure => "MemoryPressure",
            Self::PidPressure => "PIDPressure",
        }
    }
}

/// How little is too little.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Least {
    /// Bytes or numbers.
    Amount(i64),
    /// A part of all there is, from 0 to 1.
    Part(f64),
    /// Such a part, but no more than the amount.
    PartUpTo(f64, i64),
}

impl Least {
    /// Of so much.
    fn of(self, capacity: i64) -> i64 {
        let part = |part: f64| (capacity as f64 * part) as i64;
        match self {
            Self::Amount(amount) => amount,
            Self::Part(of) => part(of),
            Self::PartUpTo(of, most) => part(of).min(most),
        }
    }
}

/// When there is too little of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this.
    pub least: Least,
    /// How long there must be too little before pods are evicted for it; `None` is not at all, and for the worst.
    pub grace: Option<Duration>,
}

/// The thresholds of a node that was told none.
pub fn default_thresholds() -> Vec<Threshold> {
    let threshold = |signal, least| Threshold { signal, least, grace: None };
    vec![
        threshold(Signal::Memory, Least::Amount(100 << 20)),
        // A tenth of a large disk is no emergency.
        threshold(Signal::NodeFs, Least::PartUpTo(0.1, 5 << 30)),
        threshold(Signal::NodeFsInodes, Least::Part(0.05)),
        threshold(Signal::Pids, Least::Part(0.01)),
    ]
}

/// Reads thresholds as the kubelet's `--eviction-hard` has them: `memory.available<100Mi,nodefs.available<10%`.
pub fn parse_thresholds(text: &str) -> Result<Vec<Threshold>, String> {
    let mut thresholds: Vec<Threshold> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('<')
            .ok_or_else(|| format!("invalid eviction threshold syntax {part}, expected <signal><operator><value>"))?;
        let known = Signal::ALL.iter().find(|(known, _)| *known == name);
        let (_, signal) = known.ok_or_else(|| format!("unsupported eviction signal {name}"))?;
        if thresholds.iter().any(|threshold| threshold.signal == *signal) {
            return Err(format!("found duplicate eviction threshold for signal {name}"));
        }
        let least = match value.strip_suffix('%') {
            Some(percent) => {
                let percent: f64 = percent.parse().map_err(|_| format!("`{value}` is not a percentage"))?;
                if !(0.0..=100.0).contains(&percent) {
                    return Err(format!("eviction percentage threshold {name} must be >= 0% and <= 100%, is {value}"));
                }
                Least::Part(percent / 100.0)
            }
            None => {
                let amount = Quantity::parse(value).map_err(|error| format!("`{value}` is not a quantity: {error}"))?;
                if amount.value() < 0 {
                    return Err(format!("eviction threshold {name} must be >= 0, is {value}"));
                }
                Least::Amount(amount.value())
            }
        };
        thresholds.push(Threshold { signal: *signal, least, grace: None });
    }
    Ok(thresholds)
}

/// Reads how long thresholds may be reached, as the kubelet's `--eviction-soft-grace-period` has it:
/// `memory.available=1m30s`. `duration` reads the time.
pub fn parse_graces(
    text: &str,
    duration: impl Fn(&str) -> Result<Duration, String>,
) -> Result<BTreeMap<Signal, Duration>, String> {
    let mut graces = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("invalid eviction grace period {part}, expected <signal>=<duration>"))?;
        let known = Signal::ALL.iter().find(|(known, _)| *known == name);
        let (_, signal) = known.ok_or_else(|| format!("unsupported eviction signal {name}"))?;
        let grace = duration(value)?;
        if grace.is_zero() {
            return Err(format!("invalid eviction grace period specified: {value}, must be a positive value"));
        }
        graces.insert(*signal, grace);
    }
    Ok(graces)
}

/// Makes thresholds those that may be reached for a while, each for its own.
pub fn soften(thresholds: Vec<Threshold>, graces: &BTreeMap<Signal, Duration>) -> Result<Vec<Threshold>, String> {
    let soft = thresholds.into_iter().map(|threshold| {
        let grace = graces.get(&threshold.signal).copied();
        let name = Signal::ALL.iter().find(|(_, signal)| *signal == threshold.signal).map_or("", |(name, _)| *name);
        let missing = || format!("grace period must be specified for the soft eviction threshold {name}");
        Ok(Threshold { grace: Some(grace.ok_or_else(missing)?), ..threshold })
    });
    soft.collect()
}

/// What is left of something, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Left.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// What is left of what can run out; what is not known is missing.
pub type Observed = BTreeMap<Signal, Left>;

/// A threshold that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// Of what there is too little.
    pub signal: Signal,
    /// What should be left.
    pub least: i64,
    /// What is left.
    pub available: i64,
    /// How long that may be so.
    pub grace: Option<Duration>,
}

/// The thresholds that are reached, what pods are evicted for first first.
pub fn met(thresholds: &[Threshold], observed: &Observed) -> Vec<Met> {
    let reached = thresholds.iter().filter_map(|threshold| {
        let left = observed.get(&threshold.signal)?;
        let least = threshold.least.of(left.capacity);
        let (signal, grace) = (threshold.signal, threshold.grace);
        (left.available < least).then_some(Met { signal, least, available: left.available, grace })
    });
    let mut reached: Vec<_> = reached.collect();
    reached.sort_by_key(|met| (met.signal, met.grace));
    reached
}

/// Since when thresholds are reached that may be for a while.
#[derive(Clone, Debug, Default)]
pub struct Patience(BTreeMap<Signal, Moment>);

impl Patience {
    /// Takes over what is met now; returns what pods are to be evicted for. Each look that does not find a threshold reached begins
    /// its time anew.
    pub fn due(&mut self, met: &[Met], now: Moment) -> Vec<Met> {
        self.0.retain(|signal, _| met.iter().any(|met| met.signal == *signal && met.grace.is_some()));
        let due = met.iter().filter(|met| {
            let Some(grace) = met.grace else { return true };
            let since = *self.0.entry(met.signal).or_insert(now);
            now.since(since) >= grace
        });
        due.copied().collect()
    }
}

/// Seconds that the containers of a pod get which is evicted for this: `most` if there was time before, or as long as the pod says
/// itself where that is below zero. Zero is what the order says; its worker gives a second at least to whoever runs.
pub fn grace_s(pod: &Pod, met: &Met, most: i64) -> i64 {
    /// What is pressing has the least that there is.
    const AT_ONCE_S: i64 = 1;
    let own = spec::grace_s(pod);
    match met.grace {
        None => AT_ONCE_S,
        Some(_) if most < 0 => own,
        Some(_) => most.min(own),
    }
}

/// Which conditions the node has. A condition stays for a while after its cause, so that pods do not come back at once.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    seen_at: BTreeMap<Condition, Moment>,
}

impl Conditions {
    /// Takes over what is met now; returns the conditions.
    pub fn update(&mut self, met: &[Met], stays: Duration, now: Moment) -> BTreeSet<Condition> {
        for met in met {
            self.seen_at.insert(met.signal.condition(), now);
        }
        self.seen_at.retain(|_, seen_at| *seen_at == now || now.since(*seen_at) < stays);
        self.seen_at.keys().copied().collect()
    }
}

/// A pod and what it uses.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Bytes of memory in its working set.
    pub memory: i64,
    /// What its containers' layers, logs and volumes take up; zero if nobody has looked.
    pub disk: Taken,
    /// Its processes.
    pub processes: i64,
    /// The same by container: name, memory, and disk of layer and logs.
    pub containers: Vec<(String, i64, i64)>,
}

/// Whether a pod is one that the cluster cannot do without.
pub fn is_critical(pod: &Pod) -> bool {
    let annotation = |name: &str| pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    let from_a_file = annotation(ANNOTATION_SOURCE).is_some_and(|source| source != "api");
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    from_a_file || annotation(ANNOTATION_MIRROR).is_some() || priority >= CRITICAL_PRIORITY
}

/// Orders pods: who has to go first comes first. Who uses more than it asked for before who does not, the less important
/// before the more important, and who is furthest over what it asked for before the others.
pub fn rank(candidates: &mut [Candidate<'_>], signal: Signal) {
    let key = |candidate: &Candidate<'_>| {
        let requests = resources::pod_requests(candidate.pod);
        let requested = |name: &str| requests.get(name).copied().unwrap_or(0);
        let priority = candidate.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let (over, by) = match signal {
            Signal::Memory => over(candidate.memory, requested("memory")),
            Signal::NodeFs | Signal::ImageFs => over(bytes(candidate.disk), requested("ephemeral-storage")),
            Signal::NodeFsInodes | Signal::ImageFsInodes => {
                over(i64::try_from(candidate.disk.inodes).unwrap_or(i64::MAX), 0)
            }
            Signal::Pids => (true, candidate.processes),
        };
        (!over, priority, std::cmp::Reverse(by))
    };
    candidates.sort_by_cached_key(key);
}

fn over(used: i64, requested: i64) -> (bool, i64) {
    (used > requested, used.saturating_sub(requested))
}

fn bytes(taken: Taken) -> i64 {
    i64::try_from(taken.bytes).unwrap_or(i64::MAX)
}

/// Why a pod is evicted, in the words of its status.
pub fn message(candidate: &Candidate<'_>, met: &Met) -> String {
    let resource = met.signal.resource();
    let format = if met.signal.is_bytes() { Format::BinarySi } else { Format::DecimalSi };
    let text = |amount: i64| Quantity::new(amount, format).to_string();
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {}, available: {}. ",
        text(met.least),
        text(met.available)
    );
    let spec = candidate.pod.spec.as_ref();
    for (name, memory, disk) in &candidate.containers {
        let used = match met.signal {
            Signal::Memory => *memory,
            Signal::NodeFs | Signal::ImageFs => *disk,
            _ => continue,
        };
        let requests = spec.and_then(|spec| container_requests(spec, name)).unwrap_or_default();
        let requested = requests.get(resource).copied().unwrap_or(0);
        if used > requested {
            message += &format!(
                "Container {name} was using {}, request is {}, has larger consumption of {resource}. ",
                text(used),
                text(requested)
            );
        }
    }
    message
}

fn container_requests(spec: &PodSpec, name: &str) -> Option<Amounts> {
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let container = all.find(|container| container.name == name)?;
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    Some(requests.iter().map(|(name, quantity)| (name.clone(), resources::amount(name, quantity))).collect())
}

/// What a pod has written, for its own limits.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Bytes in each volume that the agent made on a disk or in memory.
    pub volumes: BTreeMap<String, i64>,
    /// Bytes in each container's layer and logs.
    pub containers: BTreeMap<String, i64>,
    /// All of it that lies on a disk.
    pub total: i64,
}

/// Whether a pod has limits of what it may write.
pub fn has_disk_limits(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let limited = |volume: &k8s_openapi::api::core::v1::Volume| {
        volume.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some())
    };
    volumes.any(limited) || limits_containers(pod)
}

/// Whether a pod's containers have such limits, so that it matters what they write elsewhere than into volumes.
pub fn limits_containers(pod: &Pod) -> bool {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.any(|container| {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits.is_some_and(|limits| limits.contains_key("ephemeral-storage"))
    })
}

/// Why a pod has to go for what it has written, if it does.
pub fn exceeds(pod: &Pod, written: &Written) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()) else { continue };
        let most = resources::amount("memory", limit);
        if most > 0 && written.volumes.get(&volume.name).is_some_and(|used| *used > most) {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    let limits = resources::pod_limits(pod);
    if let Some(most) = limits.get("ephemeral-storage").filter(|most| written.total > **most) {
        let most = Quantity::new(*most, Format::BinarySi);
        return Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {most}. "));
    }
    spec.containers.iter().find_map(|container| {
        let limit = container.resources.as_ref()?.limits.as_ref()?.get("ephemeral-storage")?;
        let most = resources::amount("ephemeral-storage", limit);
        let used = written.containers.get(&container.name)?;
        let text =
            || format!("Container {} exceeded its local ephemeral storage limit \"{}\". ", container.name, limit.0);
        (most > 0 && *used > most).then(text)
    })
}

/// Why a node with these conditions does not take a pod, if it does not.
pub fn refuse(pod: &Pod, conditions: &BTreeSet<Condition>) -> Option<String> {
    if conditions.is_empty() || is_critical(pod) {
        return None;
    }
    if conditions.iter().eq([&Condition::MemoryPressure])
        && (resources::qos(pod) != Qos::BestEffort || bears_memory_pressure(pod))
    {
        return None;
    }
    let names: Vec<_> = conditions.iter().map(|condition| condition.name()).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

fn bears_memory_pressure(pod: &Pod) -> bool {
    const TAINT: &str = "node.kubernetes.io/memory-pressure";
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|toleration| {
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let valueless = toleration.value.as_deref().unwrap_or_default().is_empty();
        matches!(effect, "" | "NoSchedule") && (key == TAINT && (exists || valueless) || key.is_empty() && exists)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn asking(name: &str, priority: i32, memory: &str) -> Pod {
        let requests = if memory.is_empty() { json!({}) } else { json!({"requests": {"memory": memory}}) };
        pod(name, json!({"priority": priority, "containers": [{"name": "c", "resources": requests}]}))
    }

    fn using(pod: &Pod, memory: i64) -> Candidate<'_> {
        let containers = vec![("c".to_owned(), memory, 0)];
        Candidate { pod, memory, disk: Taken::default(), processes: 1, containers }
    }

    fn order(mut candidates: Vec<Candidate<'_>>, signal: Signal) -> Vec<&str> {
        rank(&mut candidates, signal);
        candidates.iter().map(|candidate| candidate.pod.metadata.name.as_deref().unwrap()).collect()
    }

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let read = parse_thresholds("memory.available<1.5Gi, nodefs.available<10%,pid.available<1k").unwrap();
        let expected = [
            Threshold { signal: Signal::Memory, least: Least::Amount(3 << 29), grace: None },
            Threshold { signal: Signal::NodeFs, least: Least::Part(0.1), grace: None },
            Threshold { signal: Signal::Pids, least: Least::Amount(1000), grace: None },
        ];
        assert_eq!(read, expected);
        assert_eq!(parse_thresholds(""), Ok(Vec::new()));
        for bad in [
            "memory.available=1",
            "memory.free<1",
            "memory.available<x",
            "nodefs.available<101%",
            "nodefs.available<-1",
            "memory.available<1,memory.available<2",
        ] {
            assert!(parse_thresholds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn soft_thresholds_have_a_time_each() {
        let seconds = |text: &str| text.parse().map(Duration::from_secs).map_err(|_| format!("{text} is no time"));
        let graces = parse_graces("memory.available=90, pid.available=5", seconds).unwrap();
        let soft = |text: &str| soften(parse_thresholds(text).unwrap(), &graces);
        assert_eq!(soft("memory.available<1Gi").unwrap()[0].grace, Some(Duration::from_secs(90)));
        let missing = "grace period must be specified for the soft eviction threshold nodefs.available";
        assert_eq!(soft("nodefs.available<10%").unwrap_err(), missing);
        for bad in ["memory.available", "memory.free=1", "memory.available=x", "memory.available=0"] {
            assert!(parse_graces(bad, seconds).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_soft_threshold_is_borne_for_its_time_and_the_hard_one_is_not() {
        let at = Moment::from_second;
        let threshold = |least, grace| Threshold { signal: Signal::Memory, least: Least::Amount(least), grace };
        let thresholds = [threshold(100, Some(Duration::from_secs(30))), threshold(10, None)];
        const NOTHING: [i64; 0] = [];
        let mut patience = Patience::default();
        let mut due = |available, second| {
            let left = Observed::from([(Signal::Memory, Left { available, capacity: 1000 })]);
            let due = patience.due(&met(&thresholds, &left), at(second));
            due.into_iter().map(|met| met.least).collect::<Vec<_>>()
        };
        assert_eq!(due(50, 0), NOTHING);
        assert_eq!(due(50, 29), NOTHING);
        assert_eq!(due(50, 30), [100]);
        assert_eq!(due(5, 31), [10, 100], "the worst first");
        assert_eq!(due(200, 32), NOTHING);
        assert_eq!(due(50, 33), NOTHING, "its time begins anew");
        assert_eq!(due(5, 34), [10]);
        assert_eq!(due(50, 63), [100]);
    }

    #[test]
    fn a_pod_gets_time_to_end_where_there_was_some_before() {
        let pod = pod("p", json!({"terminationGracePeriodSeconds": 20, "containers": []}));
        let met = |grace| Met { signal: Signal::Memory, least: 1, available: 0, grace };
        let soft = met(Some(Duration::from_secs(1)));
        assert_eq!(grace_s(&pod, &met(None), 10), 1);
        assert_eq!((grace_s(&pod, &soft, 0), grace_s(&pod, &soft, 10), grace_s(&pod, &soft, 60)), (0, 10, 20));
        assert_eq!(grace_s(&pod, &soft, -1), 20);
    }

    #[test]
    fn conditions_come_at_once_and_stay_for_a_while() {
        let thresholds = default_thresholds();
        let at = Moment::from_second;
        let left = |available| Observed::from([(Signal::Memory, Left { available, capacity: 4 << 30 })]);
        let mut conditions = Conditions::default();
        let mut update = |available, second| {
            let met = met(&thresholds, &left(available));
            conditions.update(&met, Duration::from_secs(300), at(second)).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(update(200 << 20, 0), []);
        assert_eq!(update(50 << 20, 10), [Condition::MemoryPressure]);
        assert_eq!(update(200 << 20, 300), [Condition::MemoryPressure]);
        assert_eq!(update(200 << 20, 310), []);
        // What nobody knows is no reason.
        assert_eq!(met(&thresholds, &Observed::new()), []);
        // A tenth of a disk, but no more than 5 GiB of it; and memory comes first.
        let disk = |available, capacity| Observed::from([(Signal::NodeFs, Left { available, capacity })]);
        assert_eq!(met(&thresholds, &disk(6 << 30, 1 << 40)), []);
        assert_eq!(met(&thresholds, &disk(4 << 30, 1 << 40)).len(), 1);
        assert_eq!(met(&thresholds, &disk(1 << 30, 20 << 30)).len(), 1);
        let mut both = disk(0, 1 << 40);
        both.extend(left(0));
        assert_eq!(met(&thresholds, &both)[0].signal, Signal::Memory);
    }

    #[test]
    fn who_exceeds_its_requests_goes_first_then_the_less_important_then_the_greediest() {
        const MI: i64 = 1 << 20;
        let within = asking("within", -10, "500Mi");
        let important = asking("important", 1000, "");
        let greedy = asking("greedy", 0, "100Mi");
        let modest = asking("modest", 0, "100Mi");
        let candidates = || {
            vec![
                using(&within, 400 * MI),
                using(&important, 900 * MI),
                using(&modest, 150 * MI),
                using(&greedy, 300 * MI),
            ]
        };
        assert_eq!(order(candidates(), Signal::Memory), ["greedy", "modest", "important", "within"]);
        let mut many = using(&modest, 0);
        many.processes = 50;
        assert_eq!(
            order(vec![using(&important, 0), using(&greedy, 0), many], Signal::Pids),
            ["modest", "greedy", "important"]
        );
        let mut full = using(&greedy, 0);
        full.disk = Taken { bytes: 10, inodes: 900 };
        let mut large = using(&modest, 0);
        large.disk = Taken { bytes: 1000, inodes: 1 };
        assert_eq!(order(vec![full.clone(), large.clone()], Signal::NodeFs), ["modest", "greedy"]);
        assert_eq!(order(vec![large, full], Signal::NodeFsInodes), ["greedy", "modest"]);
    }

    #[test]
    fn the_message_says_what_was_short_and_who_took_it() {
        let pod = asking("p", 0, "100Mi");
        let met = Met { signal: Signal::Memory, least: 100 << 20, available: 50 << 20, grace: None };
        assert_eq!(
            message(&using(&pod, 300 << 20), &met),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 300Mi, request is 100Mi, has larger consumption of memory. "
        );
        let met = Met { signal: Signal::Pids, least: 100, available: 5, grace: None };
        assert_eq!(
            message(&using(&pod, 1), &met),
            "The node was low on resource: pids. Threshold quantity: 100, available: 5. "
        );
    }

    #[test]
    fn limits_of_what_is_written_are_kept() {
        let limited = pod(
            "p",
            json!({
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "w", "emptyDir": {}}],
                "containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}, {"name": "b"}],
            }),
        );
        assert!(has_disk_limits(&limited) && limits_containers(&limited));
        let volume = pod("p", json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}], "containers": []}));
        assert!(has_disk_limits(&volume) && !limits_containers(&volume));
        assert!(!has_disk_limits(&asking("q", 0, "1Mi")));
        let written = |v: i64, a: i64, total: i64| Written {
            volumes: [("v".to_owned(), v), ("w".to_owned(), 9 << 20)].into(),
            containers: [("a".to_owned(), a), ("b".to_owned(), 9 << 20)].into(),
            total,
        };
        assert_eq!(exceeds(&limited, &written(1 << 20, 2 << 20, 20 << 20)), None);
        assert_eq!(
            exceeds(&limited, &written((1 << 20) + 1, 0, 0)).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            exceeds(&limited, &written(0, (2 << 20) + 1, 0)).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"2Mi\". "
        );
        let all =
            pod("p", json!({"containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "2Mi"}}}]}));
        assert_eq!(
            exceeds(&all, &written(0, 0, 3 << 20)).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "
        );
    }

    #[test]
    fn a_node_under_pressure_takes_only_who_may_come() {
        let best_effort = pod("b", json!({"containers": [{"name": "c"}]}));
        let burstable = asking("u", 0, "1Mi");
        let critical = asking("k", CRITICAL_PRIORITY, "");
        let tolerant = pod(
            "t",
            json!({"containers": [{"name": "c"}], "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}),
        );
        let memory = BTreeSet::from([Condition::MemoryPressure]);
        let disk = BTreeSet::from([Condition::DiskPressure, Condition::MemoryPressure]);
        assert_eq!(refuse(&best_effort, &BTreeSet::new()), None);
        assert_eq!(refuse(&best_effort, &memory).unwrap(), "The node had condition: [MemoryPressure]. ");
        for pod in [&burstable, &tolerant] {
            assert_eq!(refuse(pod, &memory), None);
            assert_eq!(refuse(pod, &disk).unwrap(), "The node had condition: [DiskPressure MemoryPressure]. ");
        }
        assert_eq!(refuse(&critical, &disk), None);
    }
}
