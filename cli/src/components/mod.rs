//! Starts components: all in one process, or one alone; and what they share.

pub mod alone;
pub mod health;
pub mod identity;
pub mod leading;
pub mod placement;
pub mod reset;
pub mod up;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;

use crate::args::{AgentFlags, Command, SchedulerFlags};

/// The data directory where none is named: the platform's place for a service's data.
pub fn default_data_dir() -> PathBuf {
    if cfg!(windows) {
        let base = std::env::var_os("ProgramData").map_or_else(|| PathBuf::from(r"C:\ProgramData"), PathBuf::from);
        base.join("gantry")
    } else {
        PathBuf::from("/var/lib/gantry")
    }
}

/// Room for a loop that asks the API server of its own process: without optimisation, the frames of both take more than the
/// usual two megabytes. What is not used costs addresses only.
const STACK_LEN: usize = 8 << 20;

/// The executor for a command. Client commands wait for one answer at a time and need no threads.
pub fn runtime(command: &Command) -> Result<tokio::runtime::Runtime> {
    let mut builder = if command.is_server() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.thread_stack_size(STACK_LEN).enable_all().build().context("cannot start the executor")
}

/// The scheduler's options from its flags.
pub fn scheduler_options(flags: &SchedulerFlags) -> Result<gantry_scheduler::Options> {
    let mut options = gantry_scheduler::Options::default();
    if let Some(path) = &flags.scheduler_config {
        let unusable = || format!("the scheduler configuration {} cannot be used", path.display());
        let text = std::fs::read_to_string(path).with_context(unusable)?;
        let document = serde_saphyr::from_str(&text).with_context(unusable)?;
        options.configuration = gantry_scheduler::config::Configuration::read(document).with_context(unusable)?;
    }
    Ok(options)
}

/// A token that is cancelled by SIGTERM, SIGINT or, on Windows, Ctrl-C.
pub fn shutdown_on_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    let cancelled = token.clone();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            cancelled.cancel();
        });
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        // An error means that the signal cannot be listened for; ending at once would be worse than not ending by it.
        if tokio::signal::ctrl_c().await.is_ok() {
            cancelled.cancel();
        }
    });
    Ok(token)
}

/// This machine's name as a node's name: lower case, as the host calls itself.
pub fn node_name(flags: &AgentFlags) -> Result<String> {
    match &flags.node_name {
        Some(name) => Ok(name.clone()),
        None => Ok(host_name().context("the host has no name that is UTF-8; use --node-name")?.to_lowercase()),
    }
}

/// What this machine calls itself.
pub fn host_name() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok();
    name
}

/// What is simulated instead of this machine, if anything is.
pub fn simulation(flags: &AgentFlags) -> Option<gantry_node_agent::Simulation> {
    let nodes = usize::try_from(flags.simulate?).unwrap_or(usize::MAX);
    Some(gantry_node_agent::Simulation { nodes, start_delay: flags.simulate_start_delay })
}

/// What the agent is told by the command line.
pub fn agent_options(
    flags: &AgentFlags,
    node_name: String,
    data_dir: PathBuf,
    serving: Option<gantry_node_agent::ServingIdentity>,
) -> Result<gantry_node_agent::Options> {
    use gantry_node_agent::RuntimeChoice;
    let AgentFlags {
        node_name: _,
        node_ip,
        node_labels,
        containerd,
        agent_listen,
        cgroup_root,
        max_pods,
        container_log_max_size,
        container_log_max_files,
        container_log_monitor_interval,
        pod_manifest_path,
        eviction_hard,
        eviction_soft,
        eviction_soft_grace_period,
        eviction_max_pod_grace_period,
        eviction_pressure_transition_period,
        image_gc_high_threshold,
        image_gc_low_threshold,
        minimum_image_ttl_duration,
        image_pull_credentials_verification_policy,
        preloaded_images_verification_allowlist,
        images_from_peers,
        shutdown_grace_period,
        shutdown_grace_period_critical_pods,
        shutdown_grace_period_by_pod_priority,
        simulate: _,
        simulate_start_delay: _,
    } = flags.clone();
    let images = gantry_node_agent::ImagePolicy {
        high_percent: image_gc_high_threshold,
        low_percent: image_gc_low_threshold.min(image_gc_high_threshold),
        age_min: minimum_image_ttl_duration,
    };
    let mut pressure = gantry_node_agent::PressurePolicy {
        transition: eviction_pressure_transition_period,
        grace_max_s: eviction_max_pod_grace_period.into(),
        images,
        ..Default::default()
    };
    if let Some(Thresholds(thresholds)) = eviction_hard {
        pressure.thresholds = thresholds;
    }
    if let Some(Thresholds(thresholds)) = eviction_soft {
        let Graces(graces) = eviction_soft_grace_period.unwrap_or_default();
        pressure.thresholds.extend(gantry_node_agent::soften(thresholds, &graces).map_err(anyhow::Error::msg)?);
    }
    let image_verification = gantry_node_agent::ImageVerification::of(
        &image_pull_credentials_verification_policy,
        &preloaded_images_verification_allowlist,
    )
    .map_err(anyhow::Error::msg)?;
    let logs = gantry_node_agent::LogPolicy {
        bytes_max: u64::try_from(container_log_max_size).ok(),
        files_max: usize::try_from(container_log_max_files).unwrap_or(usize::MAX),
        // A log that was put aside is named after the second.
        look_every: container_log_monitor_interval.max(Duration::from_secs(1)),
    };
    let shutdown = match shutdown_grace_period_by_pod_priority {
        Some(Periods(periods)) => gantry_node_agent::ShutdownPolicy::of_periods(periods),
        None => gantry_node_agent::ShutdownPolicy::of_grace(shutdown_grace_period, shutdown_grace_period_critical_pods)
            .map_err(anyhow::Error::msg)?,
    };
    Ok(gantry_node_agent::Options {
        node_name,
        data_dir,
        runtime: containerd.map_or(RuntimeChoice::Own, RuntimeChoice::Attach),
        cgroup_root,
        serving,
        listen: agent_listen,
        node_ip,
        labels: node_labels.into_iter().collect(),
        max_pods,
        logs,
        pressure,
        pod_manifests: pod_manifest_path,
        image_verification,
        images_from_peers,
        shutdown,
        ..Default::default()
    })
}

/// The address with which this machine speaks to others: that of the interface with the default route, if there is one.
/// Nothing is sent to find out.
pub fn outward_ip() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address that documentation reserves: a route to it is the default route.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// When pods are evicted.
#[derive(Clone, Debug)]
pub struct Thresholds(Vec<gantry_node_agent::pressure::plan::Threshold>);

/// Parses thresholds of evictions.
pub fn thresholds(text: &str) -> Result<Thresholds, String> {
    gantry_node_agent::parse_thresholds(text).map(Thresholds)
}

/// How long what is little may be little.
#[derive(Clone, Debug, Default)]
pub struct Graces(std::collections::BTreeMap<gantry_node_agent::pressure::plan::Signal, Duration>);

/// Parses times of soft evictions.
pub fn graces(text: &str) -> Result<Graces, String> {
    gantry_node_agent::parse_graces(text, duration).map(Graces)
}

/// How long pods have, by priority, when the machine goes down.
#[derive(Clone, Debug)]
pub struct Periods(Vec<gantry_node_agent::shutdown::plan::Period>);

/// Parses what pods of each priority have.
pub fn periods(text: &str) -> Result<Periods, String> {
    gantry_node_agent::parse_periods(text).map(Periods)
}

/// Parses an amount of bytes such as `10Mi`.
pub fn bytes(text: &str) -> Result<i64, String> {
    let quantity = gantry_api::quantity::Quantity::parse(text);
    quantity.map(|quantity| quantity.value()).map_err(|error| format!("`{text}` is not an amount of bytes: {error}"))
}

/// Parses `90`, `90s`, `500ms`, `2m`, `1h` or a sum such as `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 90s, 2m or 1m30s");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let part = match &tail[..unit] {
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            "h" => number.checked_mul(3600).map(Duration::from_secs),
            _ => None,
        };
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = &tail[unit..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// Parses `key=value`.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use crate::args::{Cli, Command, SchedulerFlags};

    /// The page that tells users about the file, its example, and the commands that take it.
    const PAGE: &str = include_str!("../../../docs/scheduling.md");

    fn scheduler_options(text: &str) -> anyhow::Result<gantry_scheduler::Options> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        super::scheduler_options(&SchedulerFlags { scheduler_config: Some(file.path().to_owned()) })
    }

    #[test]
    fn the_scheduler_configuration_of_the_documentation_is_taken() {
        let blocks = PAGE.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
        let examples: Vec<_> = blocks.filter(|block| block.contains("KubeSchedulerConfiguration")).collect();
        let [example, among_others] = *examples else { panic!("the page has two configurations: {examples:?}") };
        let options = scheduler_options(example).unwrap();
        let profiles = options.configuration.profiles;
        let names: Vec<_> = profiles.iter().map(|profile| profile.scheduler_name.as_str()).collect();
        assert_eq!(names, ["default-scheduler", "roomy", "packed", "devices"]);
        assert_eq!(profiles[0], gantry_scheduler::config::Profile::default());
        assert!(scheduler_options(among_others).unwrap().configuration.profiles[0].if_fits);

        let commands: Vec<_> = PAGE.lines().filter(|line| line.contains("--scheduler-config ")).collect();
        assert_eq!(commands.len(), 2);
        for command in commands {
            let flags = match Cli::try_parse_from(command.split_whitespace()).unwrap().command {
                Command::Up(options) => options.scheduler,
                Command::Scheduler(options) => options.scheduler,
                other => panic!("{command}: {other:?}"),
            };
            assert_eq!(flags.scheduler_config.unwrap().to_str(), Some("scheduler.yaml"));
        }
    }

    #[test]
    fn the_example_of_moves_is_taken_and_says_what_holds_without_it() {
        use gantry_scheduler::defrag::settings::{Mode, Settings};
        let page = include_str!("../../../docs/defragment.md");
        let example = page.split("```yaml\n").nth(1).unwrap().split_once("```").unwrap().0;
        let read = scheduler_options(example).unwrap().configuration.defragmentation;
        assert_eq!(read, Settings { mode: Mode::Move, ..Settings::default() });
    }

    #[test]
    fn a_scheduler_configuration_that_cannot_be_is_refused_with_the_field() {
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        let refused = scheduler_options(&format!("{head}profiles: [{{}}, {{}}]\n")).unwrap_err();
        assert!(format!("{refused:#}").ends_with("profiles[1].schedulerName: Duplicate value: \"default-scheduler\""));
        let refused = scheduler_options(&format!("{head}percentageOfNodesToScore: 5\n")).unwrap_err();
        assert!(format!("{refused:#}").contains("unknown field `percentageOfNodesToScore`"), "{refused:#}");
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("1m30s", 90), ("1h", 3600), ("0s", 0)] {
            assert_eq!(super::duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(super::duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "s", "1x", "1.5h", "-1s", "99999999999999999999h", "18446744073709551615h"] {
            assert!(super::duration(text).is_err(), "{text}");
        }
    }
}
