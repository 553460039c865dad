//! What the configuration file says about moving pods.

use std::time::Duration;

use serde::Deserialize;

use crate::config::ConfigError;

/// Moves an hour can have at the most: as many are remembered.
const PER_HOUR_MAX: i64 = 10_000;
/// Moves of one run at the most: the search grows with them.
pub const PER_RUN_MAX: i64 = 32;

/// Whether pods are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nobody looks.
    #[default]
    Off,
    /// Moves are looked for and told of.
    Propose,
    /// They are made, too.
    Move,
}

/// Whether pods are moved, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether.
    pub mode: Mode,
    /// How often moves are looked for while pods wait.
    pub interval: Duration,
    /// How long a pod must have waited.
    pub wait: Duration,
    /// How many moves one look may come to.
    pub moves_per_run: usize,
    /// How many moves an hour may see.
    pub moves_per_hour: usize,
    /// How long a pod must have run before it may be moved, so that none is moved again soon.
    pub cool_down: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            mode: Mode::Off,
            interval: Duration::from_secs(60),
            wait: Duration::from_secs(30),
            moves_per_run: 4,
            moves_per_hour: 20,
            cool_down: Duration::from_secs(600),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct View {
    mode: Option<String>,
    interval_seconds: Option<i64>,
    wait_seconds: Option<i64>,
    moves_per_run: Option<i64>,
    moves_per_hour: Option<i64>,
    cool_down_seconds: Option<i64>,
}

fn refuse<T>(field: &str, problem: String) -> Result<T, ConfigError> {
    Err(ConfigError::Field { path: format!("defragmentation.{field}"), problem })
}

/// A number between bounds.
fn number(field: &str, value: Option<i64>, default: u64, low: i64, high: i64) -> Result<u64, ConfigError> {
    match value {
        None => Ok(default),
        Some(value) if (low..=high).contains(&value) => Ok(value.unsigned_abs()),
        Some(value) => refuse(field, format!("Invalid value: {value}: not in valid range [{low}, {high}]")),
    }
}

impl View {
    pub(crate) fn read(self) -> Result<Settings, ConfigError> {
        const DAY: i64 = 86_400;
        let default = Settings::default();
        let mode = match self.mode.as_deref() {
            None | Some("Off") => Mode::Off,
            Some("Propose") => Mode::Propose,
            Some("Move") => Mode::Move,
            Some(other) => {
                return refuse("mode", format!("Unsupported value: {other:?}: supported: Move, Off, Propose"));
            }
        };
        let seconds = |field, value, default: Duration, low| {
            number(field, value, default.as_secs(), low, DAY).map(Duration::from_secs)
        };
        let count = |field, value, default: usize, high| {
            number(field, value, default as u64, 1, high).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
        };
        Ok(Settings {
            mode,
            interval: seconds("intervalSeconds", self.interval_seconds, default.interval, 1)?,
            wait: seconds("waitSeconds", self.wait_seconds, default.wait, 0)?,
            moves_per_run: count("movesPerRun", self.moves_per_run, default.moves_per_run, PER_RUN_MAX)?,
            moves_per_hour: count("movesPerHour", self.moves_per_hour, default.moves_per_hour, PER_HOUR_MAX)?,
            cool_down: seconds("coolDownSeconds", self.cool_down_seconds, default.cool_down, 0)?,
        })
    }
}
