//! What a simulated pod is to do: its annotations say.
//!
//! | annotation | meaning | without it |
//! |---|---|---|
//! | `simulation.gantry.io/start-delay` | how long each of its containers takes to start, in Go's form (`1.5s`, `200ms`) | the node's delay |
//! | `simulation.gantry.io/start-error` | its containers cannot be started, for this reason | they can |
//! | `simulation.gantry.io/runs-for` | its containers end by themselves after this time | they run until they are ended |
//! | `simulation.gantry.io/exit-code` | with what they end then | 0 |
//! | `simulation.gantry.io/failing-probes` | which probes fail: `startup`, `readiness`, `liveness`, separated by commas | none |

use std::collections::BTreeMap;
use std::time::Duration;

const DOMAIN: &str = "simulation.gantry.io/";
/// A longer time than this is no test of anything.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the containers of a simulated pod do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// How long each takes to start.
    pub start_delay: Option<Duration>,
    /// Why none can be started.
    pub start_error: Option<String>,
    /// After how long each ends by itself.
    pub runs_for: Option<Duration>,
    /// With what it ends then.
    pub exit_code: i32,
    /// Which probes fail, in lower case.
    failing_probes: Vec<String>,
}

impl Script {
    /// Reads a pod's annotations. What cannot be read counts as not given; nobody but a simulation looks at it.
    pub fn of(annotations: &BTreeMap<String, String>) -> Self {
        let text = |name: &str| annotations.get(&format!("{DOMAIN}{name}")).map(|text| text.trim());
        Self {
            start_delay: text("start-delay").and_then(duration),
            start_error: text("start-error").map(str::to_owned),
            runs_for: text("runs-for").and_then(duration),
            exit_code: text("exit-code").and_then(|code| code.parse().ok()).unwrap_or_default(),
            failing_probes: text("failing-probes")
                .map(|list| list.split(',').map(|kind| kind.trim().to_lowercase()).collect())
                .unwrap_or_default(),
        }
    }

    /// Whether probes of a kind fail.
    pub fn fails(&self, kind: &str) -> bool {
        self.failing_probes.contains(&kind.to_lowercase())
    }
}

/// `1h2m3.5s`, as Go writes it.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let scale = match &tail[..unit] {
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = &tail[unit..];
    }
    let valid = !text.is_empty() && seconds <= LONGEST.as_secs_f64();
    valid.then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(annotations: &[(&str, &str)]) -> Script {
        Script::of(&annotations.iter().map(|(name, text)| (format!("{DOMAIN}{name}"), (*text).to_owned())).collect())
    }

    #[test]
    fn annotations_say_what_a_pod_does() {
        let read = script(&[
            ("start-delay", "1.5s"),
            ("runs-for", "1m30s"),
            ("exit-code", "3"),
            ("failing-probes", "readiness, Liveness"),
            ("start-error", "no such command"),
        ]);
        assert_eq!(read.start_delay, Some(Duration::from_millis(1500)));
        assert_eq!((read.runs_for, read.exit_code), (Some(Duration::from_secs(90)), 3));
        assert_eq!(read.start_error.as_deref(), Some("no such command"));
        let failing = ["Startup", "Readiness", "Liveness"].map(|kind| read.fails(kind));
        assert_eq!(failing, [false, true, true]);
    }

    #[test]
    fn what_cannot_be_read_counts_as_not_given() {
        let odd = script(&[("start-delay", "soon"), ("runs-for", "-1s"), ("exit-code", "x"), ("failing-probes", "")]);
        assert_eq!(Script { failing_probes: Vec::new(), ..odd.clone() }, Script::default());
        assert!(["", "5", "1e9h", "99999999999h", "."].iter().all(|text| duration(text).is_none()));
        assert!(!odd.fails("Readiness"));
    }
}
