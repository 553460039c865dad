//! Ends what a crashed run left. What to end is read from the ledger; how a node is taken down is the product's own
//! `gantry reset`.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{host, ledger};

/// Takes down every instance in the ledger.
pub fn run() -> Result<()> {
    let records = ledger::read_all();
    if records.is_empty() {
        println!("Nothing to clean up.");
        return Ok(());
    }
    let mut failed = 0;
    for (file, record) in records {
        println!("Cleaning up {}", record.data_dir.display());
        match take_down(&record) {
            Ok(()) => fs::remove_file(file)?,
            Err(error) => {
                failed += 1;
                println!("  {error:#}");
            }
        }
    }
    anyhow::ensure!(failed == 0, "{failed} instance(s) could not be taken down; the messages above say why");
    Ok(())
}

/// Ends one instance: its process, its pods and containerd, its network namespace, its data directory.
pub fn take_down(record: &ledger::Record) -> Result<()> {
    if let Some(pid) = record.pid
        && record.pid_started.is_some()
        && ledger::started(pid) == record.pid_started
    {
        end_process(pid)?;
    }
    reset(record)?;
    if let Some(netns) = &record.netns
        && Path::new("/run/netns").join(netns).exists()
    {
        host::run(host::privileged("ip").args(["netns", "delete", netns]))?;
    }
    if record.data_dir.exists() {
        host::run(host::privileged("rm").args(["-rf", "--one-file-system"]).arg(&record.data_dir))?;
    }
    Ok(())
}

/// SIGTERM, then SIGKILL after ten seconds.
fn end_process(pid: u32) -> Result<()> {
    let started = ledger::started(pid);
    for (signal, patience) in [("-TERM", Duration::from_secs(10)), ("-KILL", Duration::from_secs(5))] {
        // It may end between the look and the signal: what counts is whether it is gone afterwards.
        let _ = host::privileged("kill").arg(signal).arg(pid.to_string()).stderr(Stdio::null()).status();
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if ledger::started(pid) != started {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    anyhow::bail!("process {pid} does not end")
}

/// Runs `gantry reset` with whichever binary was built last, in the instance's network namespace if it has one.
fn reset(record: &ledger::Record) -> Result<()> {
    if !record.data_dir.exists() {
        return Ok(());
    }
    let builds = ["debug", "release"].map(|profile| host::target_dir().join(profile).join("gantry"));
    let newest = builds.into_iter().filter_map(|file| Some((fs::metadata(&file).ok()?.modified().ok()?, file))).max();
    let Some((_, gantry)) = newest else {
        anyhow::bail!("no gantry binary is built; run `cargo build -p gantry`, then this again");
    };
    let netns = record.netns.as_ref().map(|name| Path::new("/run/netns").join(name)).filter(|file| file.exists());
    let mut command = match netns {
        Some(file) => {
            let mut command = host::privileged("nsenter");
            command.arg(format!("--net={}", file.display())).arg("--").arg(gantry);
            command
        }
        None => host::privileged(gantry),
    };
    command.args(["reset", "--yes", "--data-dir"]).arg(&record.data_dir);
    host::run(&mut command)
}
