//! Runs a fuzz target by hand: `gantry-fuzz TARGET [SECONDS [SEED]]`, or `gantry-fuzz TARGET FILE…` to try inputs again.
//!
//! The input under test is kept in `fuzz-input` in the temporary folder, for a process that does not survive it.

use std::io::Write;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut out = std::io::stdout();
    let Some(target) = arguments.next().and_then(|name| gantry_fuzz::find(&name)) else {
        for target in gantry_fuzz::TARGETS {
            writeln!(out, "{}", target.name)?;
        }
        return Ok(());
    };
    let rest: Vec<String> = arguments.collect();
    let number = |at: usize| rest.get(at).and_then(|text| text.parse::<u64>().ok());
    if let (Some(_), None) = (rest.first(), number(0)) {
        for file in &rest {
            (target.run)(&std::fs::read(file)?);
            writeln!(out, "{file}: fine")?;
        }
        return Ok(());
    }
    let kept = std::env::temp_dir().join("fuzz-input");
    let report =
        gantry_fuzz::run(target, Duration::from_secs(number(0).unwrap_or(60)), number(1).unwrap_or(1), |input| {
            // Best effort: it is there for the reader of a crash.
            let _ = std::fs::write(&kept, input);
        })?;
    writeln!(out, "{}: {} inputs, the slowest took {:?}", target.name, report.inputs, report.slowest)
}
