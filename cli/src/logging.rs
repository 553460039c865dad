//! Where log lines go and how they look. Logs are for the operator and go to standard error; what a command was asked for
//! goes to standard output.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Flags of every command.
#[derive(clap::Args, Debug, Clone)]
pub struct Flags {
    /// How log lines are written
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "GANTRY_LOG_FORMAT",
        help_heading = "Logging"
    )]
    pub log_format: Format,
    /// What is logged: a level (error, warn, info, debug, trace) or directives such as `gantry_apiserver=debug,info`;
    /// by default `warn,gantry=info` for servers and nothing for the verbs of a client
    #[arg(long, global = true, env = "GANTRY_LOG", help_heading = "Logging")]
    pub log: Option<String>,
}

/// The form of a log line.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One line of words and fields
    Text,
    /// One JSON object a line
    Json,
}

/// What a server logs unless it is told otherwise.
const SERVER_DEFAULT: &str = "warn,gantry=info";
/// A client says what went wrong itself; log lines would say it twice.
const CLIENT_DEFAULT: &str = "off";

/// Starts logging. Directives that cannot be read are named and left out: a mistyped filter must not keep a node from starting.
pub fn init(flags: &Flags, server: bool) {
    let default = if server { SERVER_DEFAULT } else { CLIENT_DEFAULT };
    let filter = EnvFilter::try_new(expand(flags.log.as_deref().unwrap_or(default))).unwrap_or_else(|error| {
        eprintln!("warning: --log: {error}; logging warnings only");
        EnvFilter::new("warn")
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match flags.log_format {
        Format::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => builder.json().init(),
    }
}

/// `gantry=LEVEL` stands for every crate of the project.
fn expand(directives: &str) -> String {
    const CRATES: [&str; 5] =
        ["gantry_store", "gantry_apiserver", "gantry_controllers", "gantry_scheduler", "gantry_node_agent"];
    let mut all = Vec::new();
    for directive in directives.split(',') {
        all.push(directive.to_owned());
        if let Some(level) = directive.strip_prefix("gantry=") {
            all.extend(CRATES.iter().map(|name| format!("{name}={level}")));
        }
    }
    all.join(",")
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn the_project_name_stands_for_all_its_crates() {
        assert_eq!(
            expand("warn,gantry=debug"),
            "warn,gantry=debug,gantry_store=debug,gantry_apiserver=debug,gantry_controllers=debug,\
             gantry_scheduler=debug,gantry_node_agent=debug"
        );
        assert_eq!(expand("info"), "info");
    }
}
