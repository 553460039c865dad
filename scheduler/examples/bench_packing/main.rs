//! How tightly pods are packed, beside what others' policies reach with the same pods on the same core.
//!
//! First devices: how much of them is given out, in hundredths, when pods ask for 130 % of them, as the
//! mean of ten orders of the pods with the lowest and highest, and what was published for that policy.
//! Then CPU and memory alone: how many nodes are used, beside the fewest that could do.
//!
//! `cargo run --release -p gantry-scheduler --example bench_packing -- [--nodes FILE] [--trace FILE]…`
//! The files have the columns of the GPU traces of Alibaba's cluster-trace-gpu-v2023. Without any, those are
//! replayed that are found (see [`replay::find`]).

mod mixes;
mod replay;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use replay::{Policy, Trace, read_nodes, read_trace, replay};

/// The figures of the paper's policies, by what is in the name of the trace's file: Random, DotProduct,
/// BestFit, FGD.
const PUBLISHED: [(&str, [f64; 4]); 5] = [
    ("default", [87.47, 90.85, 93.08, 95.39]),
    ("gpushare60", [83.65, 87.11, 89.36, 91.40]),
    ("multigpu20", [88.69, 92.06, 93.93, 95.65]),
    ("gpuspec10", [87.43, 90.39, 93.30, 94.95]),
    ("cpu100", [89.11, 91.95, 93.44, 95.35]),
];
const SEEDS: std::ops::RangeInclusive<u64> = 42..=51;

struct Args {
    nodes: Option<PathBuf>,
    traces: Vec<PathBuf>,
}

fn args() -> Result<Args, String> {
    let mut args = Args { nodes: None, traces: Vec::new() };
    let mut given = std::env::args().skip(1);
    while let Some(option) = given.next() {
        let value = given.next().map(PathBuf::from).ok_or_else(|| format!("{option} wants a file"))?;
        match option.as_str() {
            "--nodes" => args.nodes = Some(value),
            "--trace" => args.traces.push(value),
            _ => return Err(format!("unknown option {option}; known: --nodes, --trace")),
        }
    }
    let found = replay::find();
    if args.nodes.is_none() {
        args.nodes = found.as_ref().map(|found| found.nodes.clone());
    }
    if args.traces.is_empty() {
        args.traces = found.map(|found| found.traces).unwrap_or_default();
    }
    Ok(args)
}

/// The results of all policies and seeds, by policy; the work is shared by all processors.
fn measure(trace: &Trace) -> Vec<(Policy, Vec<f64>)> {
    let work: Vec<_> = Policy::ALL.into_iter().flat_map(|policy| SEEDS.map(move |seed| (policy, seed))).collect();
    let (next, done) = (Mutex::new(work.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((policy, seed)) = next.lock().ok().and_then(|mut work| work.next()) else { return };
                    let result = replay(trace, policy, seed);
                    if let Ok(mut done) = done.lock() {
                        done.push((policy, result));
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    let of = |policy| done.iter().filter(|(one, _)| *one == policy).map(|(_, result)| *result).collect();
    Policy::ALL.into_iter().map(|policy| (policy, of(policy))).collect()
}

fn main() -> Result<(), String> {
    let args = args()?;
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").map_err(|error| error.to_string());
    if args.nodes.is_none() || args.traces.is_empty() {
        say(format!("no traces: give --nodes and --trace, or put them into {}", replay::PLACES))?;
    }
    if let Some(nodes) = &args.nodes {
        let nodes = read_nodes(nodes)?;
        for file in &args.traces {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let published = PUBLISHED.iter().find(|(known, _)| name.ends_with(known)).map(|(_, figures)| figures);
            say(format!(
                "\n{name:<26} {:>7} {:>7} {:>7} {:>10} {:>7}",
                "mean", "lowest", "highest", "published", "off"
            ))?;
            for (index, (policy, results)) in measure(&read_trace(file, &nodes)?).into_iter().enumerate() {
                let mean = results.iter().sum::<f64>() / results.len() as f64;
                let lowest = results.iter().copied().fold(f64::MAX, f64::min);
                let highest = results.iter().copied().fold(f64::MIN, f64::max);
                let beside = published.and_then(|figures| figures.get(index));
                let beside = beside.map_or(String::new(), |figure| format!(" {figure:>10.2} {:>+7.2}", mean - figure));
                say(format!("  {policy:<24} {mean:>7.2} {lowest:>7.2} {highest:>7.2}{beside}"))?;
            }
        }
    }
    for line in mixes::report() {
        say(line)?;
    }
    Ok(())
}
