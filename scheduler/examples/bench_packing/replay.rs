//! A trace of pods, tried one after the other on a cluster that starts empty: how much of the devices is
//! given out in the end. The experiment of Weng et al., "Beware of Fragmentation" (USENIX ATC 2023): pods
//! are drawn from the trace, with replacement, until they ask for 130 % of all devices; none leaves.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use gantry_scheduler::convert;
use gantry_scheduler::core::resources::GPU_MILLI;
use gantry_scheduler::core::{ClassId, ClassSpec, Engine, NodeSpec, PodKey, Scoring, Standing, Strategy, WHOLE};
use serde_json::json;

const MODEL: &str = "nvidia.com/gpu.product";
const GPU: &str = "nvidia.com/gpu";
/// How much is asked for, in hundredths of what there is.
const DEMAND: i64 = 130;

/// A plain generator of numbers: SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }
}

/// How nodes are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Random,
    DotProduct,
    BestFit,
    Fgd,
    Default,
}

impl Policy {
    pub const ALL: [Policy; 5] = [Policy::Random, Policy::DotProduct, Policy::BestFit, Policy::Fgd, Policy::Default];

    fn scoring(self) -> Scoring {
        let strategy = match self {
            Policy::Random | Policy::Default => Strategy::BinPacking,
            Policy::DotProduct => Strategy::DotProduct,
            Policy::BestFit => Strategy::BestFit,
            Policy::Fgd => Strategy::Fragmentation,
        };
        let measured = matches!(self, Policy::DotProduct | Policy::BestFit);
        // The published figures are of CPU and devices alone.
        let resources = if measured { vec![("cpu".to_owned(), 1), (GPU_MILLI.to_owned(), 1)] } else { Vec::new() };
        Scoring { strategy, resources }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Policy::Random => "Random",
            Policy::DotProduct => "DotProduct",
            Policy::BestFit => "BestFit",
            Policy::Fgd => "FGD",
            Policy::Default => "BinPacking (default)",
        })
    }
}

/// A cluster and the pods that it is asked to run.
#[derive(Clone)]
pub struct Trace {
    pub nodes: Vec<NodeSpec>,
    /// In the order of names, each by its shape.
    pub pods: Vec<usize>,
    pub shapes: Vec<ClassSpec>,
}

/// Where [`find`] looks.
pub const PLACES: &str = "the folder GANTRY_TRACES, or data/openb in a folder beside the checkout";

/// Files of traces.
pub struct Found {
    pub nodes: PathBuf,
    pub traces: Vec<PathBuf>,
}

/// The traces on this machine, if it has any: in one folder, with one list of nodes.
pub fn find() -> Option<Found> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let given = std::env::var_os("GANTRY_TRACES").map(PathBuf::from);
    let beside = std::fs::read_dir(checkout.parent()?).ok()?.flatten().map(|entry| entry.path().join("data/openb"));
    let folder = given.into_iter().chain(beside).find(|folder| folder.is_dir())?;
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|file| file.extension().is_some_and(|ending| ending == "csv")).collect();
    files.sort();
    let (nodes, traces): (Vec<_>, Vec<_>) = files
        .into_iter()
        .partition(|file| file.file_name().is_some_and(|name| name.to_string_lossy().contains("node")));
    Some(Found { nodes: nodes.into_iter().next()?, traces })
}

/// The rows of a file with named columns.
fn rows(file: &Path, columns: &[&str]) -> Result<Vec<Vec<String>>, String> {
    let problem = |what: String| format!("{}: {what}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| problem(error.to_string()))?;
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let places: Vec<Option<usize>> = columns.iter().map(|name| header.iter().position(|one| one == name)).collect();
    if let Some(missing) = places.iter().zip(columns).find(|(place, name)| place.is_none() && **name != "gpu_spec") {
        return Err(problem(format!("no column {}", missing.1)));
    }
    let cut = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |place: &Option<usize>| place.and_then(|place| cells.get(place)).copied().unwrap_or("");
        places.iter().map(|place| cell(place).to_owned()).collect()
    };
    Ok(lines.filter(|line| !line.is_empty()).map(cut).collect())
}

/// The object that a user would write, read as the scheduler reads it.
fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// The nodes of a file.
pub fn read_nodes(file: &Path) -> Result<Vec<NodeSpec>, String> {
    let rows = rows(file, &["sn", "cpu_milli", "memory_mib", "gpu", "model"])?;
    rows.iter().map(|row| node(&row[0], &row[1], &row[2], row[3].parse().unwrap_or(0), &row[4])).collect()
}

fn node(name: &str, cpu: &str, memory: &str, devices: u16, model: &str) -> Result<NodeSpec, String> {
    let shares = u64::from(devices) * u64::from(WHOLE);
    let node = object(json!({
        "metadata": {"name": name, "labels": {MODEL: model}},
        "status": {"allocatable": {
            "cpu": format!("{cpu}m"), "memory": format!("{memory}Mi"), "pods": "100000",
            GPU: devices.to_string(), GPU_MILLI: shares.to_string(),
        }},
    }))?;
    Ok(convert::node(&node))
}

/// The pods of a file, on these nodes.
pub fn read_trace(file: &Path, nodes: &[NodeSpec]) -> Result<Trace, String> {
    let mut rows = rows(file, &["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec"])?;
    rows.sort();
    let mut trace = Trace { nodes: nodes.to_vec(), pods: Vec::new(), shapes: Vec::new() };
    let mut known = HashMap::new();
    for row in &rows {
        let shape = match known.get(&row[1..]) {
            Some(shape) => *shape,
            None => {
                let count = row[3].parse().unwrap_or(0);
                trace.shapes.push(pod(&row[1], &row[2], count, row[4].parse().unwrap_or(0), &row[5])?);
                known.insert(&row[1..], trace.shapes.len() - 1);
                trace.shapes.len() - 1
            }
        };
        trace.pods.push(shape);
    }
    Ok(trace)
}

fn pod(cpu: &str, memory: &str, devices: u64, milli: u64, models: &str) -> Result<ClassSpec, String> {
    let mut requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")});
    match (devices, milli) {
        (0, _) => {}
        (1, milli) if milli < u64::from(WHOLE) => requests[GPU_MILLI] = milli.to_string().into(),
        (count, _) => requests[GPU] = count.to_string().into(),
    }
    let mut spec = json!({"containers": [{"name": "main", "resources": {"requests": requests}}]});
    if !models.is_empty() {
        let values: Vec<&str> = models.split('|').collect();
        spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": MODEL, "operator": "In", "values": values}]}]}}});
    }
    Ok(convert::class(&object(json!({"metadata": {"namespace": "default"}, "spec": spec}))?))
}

/// The part of all devices, in hundredths, that is given out in the end.
pub fn replay(trace: &Trace, policy: Policy, seed: u64) -> f64 {
    let mut random = Random(seed.wrapping_mul(7919));
    let mut pods = trace.pods.clone();
    for index in (1..pods.len()).rev() {
        pods.swap(index, random.below(index + 1));
    }
    let mut engine = Engine::new();
    for node in &trace.nodes {
        engine.set_node(node.clone());
    }
    let scoring = policy.scoring();
    let shapes: Vec<_> =
        trace.shapes.iter().map(|spec| ClassSpec { scoring: scoring.clone(), ..spec.clone() }).collect();
    let capacity: i64 = trace.nodes.iter().map(|node| i64::from(node.devices) * i64::from(WHOLE)).sum();
    let (mut asked, mut given) = (0, 0);
    let mut key = 0;
    while asked * 100 < capacity * DEMAND {
        key += 1;
        let spec = &shapes[pods[random.below(pods.len())]];
        let devices = spec.demand.devices.total();
        asked += devices;
        let class = engine.acquire(spec);
        let placed = match policy {
            Policy::Random => anywhere(&mut engine, PodKey(key), class, spec, &mut random),
            _ => engine.place(class).map(|node| engine.assume(PodKey(key), class, node, 0)),
        };
        // A pod without a node stays and waits, for room that never comes.
        if placed.is_some() {
            engine.release(class);
            given += devices;
        }
    }
    100.0 * given as f64 / capacity as f64
}

/// Any node that fits, and any device there that does.
fn anywhere(engine: &mut Engine, pod: PodKey, class: ClassId, spec: &ClassSpec, random: &mut Random) -> Option<()> {
    let fitting: Vec<_> = engine
        .explain(class)
        .nodes
        .into_iter()
        .filter(|(_, verdict)| verdict.is_none())
        .map(|(name, _)| name)
        .collect();
    let name = fitting.get(random.below(fitting.len()))?;
    let slot = engine.nodes().slot(name)?;
    let wanted = spec.demand.devices;
    let free = engine.nodes().devices(slot).free().iter().enumerate();
    let mut devices: Vec<u16> =
        free.filter(|(_, free)| **free >= wanted.milli).map(|(index, _)| index as u16).collect();
    if wanted.is_share() {
        devices = vec![devices[random.below(devices.len())]];
    }
    devices.truncate(usize::from(wanted.count));
    let spec = ClassSpec { held_devices: devices, ..spec.clone() };
    engine.add_pod(pod, name, &spec, Standing::default());
    Some(())
}
