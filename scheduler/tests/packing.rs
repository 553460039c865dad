//! What `cargo xtask bench packing` shows, in small: one trace in one order, where there is a trace.

#[path = "../examples/bench_packing/replay.rs"]
#[allow(dead_code, reason = "the bench has more uses for it")]
mod replay;

use replay::{Policy, find, read_nodes, read_trace, replay};

/// Of the nodes, one in so many: enough to tell policies apart.
const ONE_IN: usize = 5;
/// How far one order of the pods on them may be off the published mean over ten on all.
const TOLERANCE: f64 = 2.5;

#[test]
fn the_default_gives_out_more_of_the_devices_than_fgd() {
    let Some(found) = find() else {
        eprintln!("skipped: no traces in {}", replay::PLACES);
        return;
    };
    let Some(file) = found.traces.iter().find(|file| file.to_string_lossy().contains("default")) else {
        eprintln!("skipped: no trace called default beside {}", found.nodes.display());
        return;
    };
    let nodes: Vec<_> = read_nodes(&found.nodes).unwrap().into_iter().step_by(ONE_IN).collect();
    let trace = read_trace(file, &nodes).unwrap();
    let given = |policy| replay(&trace, policy, 42);
    let (best_fit, fgd, ours) = (given(Policy::BestFit), given(Policy::Fgd), given(Policy::Default));
    println!("given out: BestFit {best_fit:.2} %, FGD {fgd:.2} %, the default {ours:.2} %");
    assert!(ours >= fgd, "the default gives out {ours:.2} %, FGD {fgd:.2} %");
    assert!((best_fit - 93.08).abs() < TOLERANCE, "BestFit gives out {best_fit:.2} %");
    assert!((fgd - 95.39).abs() < TOLERANCE, "FGD gives out {fgd:.2} %");
}
