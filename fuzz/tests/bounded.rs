//! Every target on its seeds and, for a bounded time, on inputs made from them. `GANTRY_FUZZ_SECONDS` says how long each,
//! `GANTRY_FUZZ_SEED` which inputs.

use std::time::Duration;

use gantry_fuzz::TARGETS;

/// As much stack as a thread of the server has.
const STACK_BYTES: usize = 2 << 20;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn run(name: &'static str) {
    let target = gantry_fuzz::find(name).expect("a target of this name");
    let time = Duration::from_secs(setting("GANTRY_FUZZ_SECONDS", 2));
    let seed = setting("GANTRY_FUZZ_SEED", 1);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let last = std::cell::RefCell::new(Vec::new());
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            gantry_fuzz::run(target, time, seed, |input| input.clone_into(&mut last.borrow_mut()))
        }));
        match caught {
            Ok(report) => report.expect("the seeds can be read"),
            Err(_) => panic!("{name} fails for {:?}", String::from_utf8_lossy(&last.borrow())),
        }
    });
    let report = thread.expect("a thread").join().expect("no input makes a parser panic");
    assert!(report.inputs > gantry_fuzz::seeds(target).expect("seeds").len() as u64, "{report:?}");
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_target_is_run() {
            let run = [$(stringify!($name)),*];
            let all: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(run.as_slice(), all);
        }
    };
}

targets!(
    body_json,
    body_yaml,
    body_protobuf,
    delete_options,
    patch_json,
    patch_merge,
    patch_strategic,
    patch_apply,
    label_selector,
    field_selector,
    quantity,
    json_path,
    continue_token,
    cel,
);
