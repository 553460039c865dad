//! Fuzz targets: one function of bytes for every parser that reads what a client sends.
//!
//! ```text
//! seeds/<target>/* ─▶ mutate ─▶ target(bytes)
//! ```
//!
//! In: any bytes. Out: nothing; a target panics if the parser does, or if what it accepted cannot be stored and read
//! again. A target has the signature that libFuzzer calls, so that any driver can run it; the one here ([`run`]) needs no
//! more than a stable compiler, and repeats itself: a seed says which inputs come, in which order.

mod mutate;
mod targets;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use targets::{TARGETS, Target};

/// An input that takes longer than this is a fault, on a machine that is busy as well.
const RUN_MAX: Duration = Duration::from_secs(10);
/// Larger inputs find nothing that smaller ones do not, and are slower.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// What a run did.
#[derive(Debug, Default)]
pub struct Report {
    /// How many inputs were tried.
    pub inputs: u64,
    /// The longest that one took.
    pub slowest: Duration,
}

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The folder with a target's seeds.
pub fn seeds_of(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name)
}

/// The seeds of a target, by name; the order does not depend on the file system.
pub fn seeds(target: &Target) -> std::io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(seeds_of(target))?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(&path).map(|bytes| (path, bytes))).collect()
}

/// Runs a target on its seeds, then on inputs made from them until the time is over. `note` is told each input before it
/// is run, for whoever wants to know it even if the process does not survive.
pub fn run(target: &Target, time: Duration, seed: u64, mut note: impl FnMut(&[u8])) -> std::io::Result<Report> {
    let corpus: Vec<Vec<u8>> = seeds(target)?.into_iter().map(|(_, bytes)| bytes).collect();
    let mut report = Report::default();
    let mut one = |input: &[u8]| {
        note(input);
        let started = Instant::now();
        (target.run)(input);
        let took = started.elapsed();
        report.inputs += 1;
        report.slowest = report.slowest.max(took);
        assert!(took < RUN_MAX, "{} took {took:?} for {:?}", target.name, String::from_utf8_lossy(input));
    };
    for input in &corpus {
        one(input);
    }
    let mut mutator = mutate::Mutator::new(seed, &corpus);
    let started = Instant::now();
    while started.elapsed() < time {
        one(&mutator.next());
    }
    Ok(report)
}
