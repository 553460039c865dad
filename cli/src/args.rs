//! The command line: every flag of every component, and where each command goes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::client::ClientFlags;
use crate::{components, logging, verbs};

/// Gantry turns a room of machines into one computer and speaks the Kubernetes API.
#[derive(Parser, Debug)]
#[command(name = "gantry", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub logging: logging::Flags,
    #[command(flatten)]
    pub client: ClientFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Start everything in one process: API server, store, controllers, scheduler and node agent
    Up(Box<Up>),
    /// Start the API server alone
    Apiserver(Box<ApiServer>),
    /// Start the controllers alone
    Controllers(Controllers),
    /// Start the scheduler alone
    Scheduler(Scheduler),
    /// Start the node agent alone
    Agent(Box<Agent>),
    /// Print a kubeconfig with a new identity, signed by the authority in an API server's data directory
    Kubeconfig(Kubeconfig),
    /// Stop every pod of this machine's node and remove what the node agent made: containerd, bridge, nft table, cgroups
    Reset(Reset),
    /// Print a completion script for a shell
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Verb(verbs::Verb),
}

impl Command {
    /// Whether it is a part of the system at work, rather than a client that asks one.
    pub fn is_server(&self) -> bool {
        match self {
            Self::Up(_) | Self::Apiserver(_) | Self::Controllers(_) | Self::Scheduler(_) | Self::Agent(_) => true,
            Self::Reset(_) => true,
            Self::Kubeconfig(_) | Self::Completion { .. } | Self::Verb(_) => false,
        }
    }
}

/// Where a server keeps its data.
#[derive(clap::Args, Debug, Clone)]
pub struct DataDir {
    /// Folder of certificates, the embedded store, images and pods
    #[arg(long, env = "GANTRY_DATA_DIR", value_name = "DIR", default_value_os_t = components::default_data_dir())]
    pub data_dir: PathBuf,
}

/// The API server's flags.
#[derive(clap::Args, Debug, Clone)]
pub struct ApiFlags {
    /// Address and port of the API server; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:6443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// The address that others reach the API server at; by default the listening one, or this machine's when it listens on all
    #[arg(long, value_name = "IP")]
    pub advertise: Option<IpAddr>,
    #[command(flatten)]
    pub store: StoreFlags,
    /// The encryption configuration (Kubernetes' EncryptionConfiguration with aesgcm and identity); by default the data
    /// directory's pki/encryption.yaml, made at the first start with a key that encrypts secrets
    #[arg(long, visible_alias = "encryption-provider-config", value_name = "FILE")]
    pub encryption_config: Option<PathBuf>,
    /// Believe the bearer tokens of this file, whose lines are `token,user,uid,"group,group"`
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Back the store up into this folder automatically
    #[arg(long, value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// How long between two automatic backups
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = components::duration, requires = "backup_dir")]
    pub backup_interval: std::time::Duration,
    /// How many automatic backups are kept
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), requires = "backup_dir")]
    pub backup_keep: u16,
    /// The range that Services get their addresses from
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cidr: String,
}

/// Which store, and how it is reached.
#[derive(clap::Args, Debug, Clone)]
pub struct StoreFlags {
    /// `embedded`, `embedded:DIR`, or `etcd://HOST:PORT[,HOST:PORT…]`
    #[arg(long, default_value = "embedded", value_name = "STORE")]
    pub store: String,
    /// How long the embedded store keeps what was changed, for watches and lists that go on; etcd has its own setting
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = components::duration)]
    pub store_retention: std::time::Duration,
    #[command(flatten)]
    pub etcd: EtcdFlags,
}

/// How etcd is reached.
#[derive(clap::Args, Debug, Clone)]
pub struct EtcdFlags {
    /// Talk TLS to etcd, whose certificates come from the authorities in this PEM file
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// The certificate to show etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile", requires = "etcd_cafile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// The user of etcd to log in as
    #[arg(long, value_name = "NAME", requires = "etcd_password_file")]
    pub etcd_user: Option<String>,
    /// The file that holds this user's password
    #[arg(long, value_name = "FILE", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,
    /// What all keys in etcd start with; clusters that share an etcd need different ones
    #[arg(long, default_value = "/gantry", value_name = "PREFIX")]
    pub etcd_prefix: String,
}

impl StoreFlags {
    /// How the store is opened.
    pub fn options(&self) -> gantry_store::Options {
        let mut options = gantry_store::Options { etcd: self.etcd.options(), ..gantry_store::Options::default() };
        options.retention.age = self.store_retention;
        options
    }
}

impl EtcdFlags {
    /// How etcd is used.
    pub fn options(&self) -> gantry_store::EtcdOptions {
        let client = self.etcd_certfile.clone().zip(self.etcd_keyfile.clone());
        let login = self.etcd_user.clone().zip(self.etcd_password_file.clone());
        gantry_store::EtcdOptions {
            key_prefix: self.etcd_prefix.clone(),
            tls: self.etcd_cafile.clone().map(|ca_file| gantry_store::EtcdTls { ca_file, client }),
            login: login.map(|(user, password_file)| gantry_store::EtcdLogin { user, password_file }),
            ..gantry_store::EtcdOptions::default()
        }
    }
}

/// The controllers' flags.
#[derive(clap::Args, Debug, Clone)]
pub struct ControllerFlags {
    /// The range that nodes get their pods' addresses from, a /24 each
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub pod_cidr: String,
    /// How long a node may be silent before it counts as unknown
    #[arg(long, default_value = "40s", value_name = "DURATION", value_parser = components::duration)]
    pub node_monitor_grace_period: std::time::Duration,
}

/// The node agent's flags.
#[derive(clap::Args, Debug, Clone)]
pub struct AgentFlags {
    /// Name of this machine's node; by default the host's name
    #[arg(long, env = "GANTRY_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address of this machine's node; by default that of the interface with the default route
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Labels for this machine's node, `key=value`; may be given several times
    #[arg(long = "node-label", value_name = "LABEL", value_parser = components::label)]
    pub node_labels: Vec<(String, String)>,
    /// Attach to the containerd at this address instead of starting one
    #[arg(long, value_name = "ADDRESS")]
    pub containerd: Option<String>,
    /// Address and port of the node's own API; port 0 takes a free one
    #[arg(long, default_value = "0.0.0.0:10250", value_name = "ADDRESS")]
    pub agent_listen: SocketAddr,
    /// Cgroup below which all pods live
    #[arg(long, default_value = "/gantry", value_name = "PATH")]
    pub cgroup_root: String,
    /// How many pods may run on the node
    #[arg(long, default_value_t = 110, value_name = "N")]
    pub max_pods: u32,
    /// A container's log is rotated when it has grown to this; a negative one lets logs grow
    #[arg(long, default_value = "10Mi", value_name = "QUANTITY", value_parser = components::bytes, allow_hyphen_values = true)]
    pub container_log_max_size: i64,
    /// How many files of a container's log are kept, the one that is written included; 2 at least
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub container_log_max_files: u32,
    /// How often logs are looked at
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = components::duration)]
    pub container_log_monitor_interval: std::time::Duration,
    /// A folder whose files each describe a pod that runs on this node, API server or not
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// When pods are evicted, such as `memory.available<100Mi,nodefs.available<10%`; signals: memory.available,
    /// nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree, pid.available. By default less than
    /// 100Mi of memory, 10% of the disk (or 5Gi, if that is less), 5% of its inodes or 1% of the processes; empty is never
    #[arg(long, value_name = "THRESHOLDS", value_parser = components::thresholds)]
    pub eviction_hard: Option<components::Thresholds>,
    /// The same, but only after there has been too little for the time that --eviction-soft-grace-period names
    #[arg(long, value_name = "THRESHOLDS", value_parser = components::thresholds)]
    pub eviction_soft: Option<components::Thresholds>,
    /// How long each threshold of --eviction-soft may be reached, such as `memory.available=1m30s`
    #[arg(long, value_name = "DURATIONS", value_parser = components::graces)]
    pub eviction_soft_grace_period: Option<components::Graces>,
    /// Seconds that the containers of a pod get at most that is evicted by a threshold of --eviction-soft; below zero as long as
    /// the pod says itself
    #[arg(long, default_value_t = 0, value_name = "SECONDS", allow_hyphen_values = true)]
    pub eviction_max_pod_grace_period: i32,
    /// How long the node says that it was short of something after that is over
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = components::duration)]
    pub eviction_pressure_transition_period: std::time::Duration,
    /// Images that nobody uses are removed when the disk is so full, in percent; 100 is never
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,
    /// How full the disk is then to be
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,
    /// An image that came less than this ago is not removed
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = components::duration)]
    pub minimum_image_ttl_duration: std::time::Duration,
    /// Which images that are on the node a pod may use only with credentials for them: none, those that were pulled here, all but
    /// those that --preloaded-images-verification-allowlist names, or all
    #[arg(long, default_value = "NeverVerifyPreloadedImages", value_name = "POLICY", value_parser = gantry_node_agent::ImageVerification::NAMES)]
    pub image_pull_credentials_verification_policy: String,
    /// Images of which NeverVerifyAllowlistedImages asks nothing, such as `registry.example.com/team/*`
    #[arg(long, value_name = "IMAGES", value_delimiter = ',')]
    pub preloaded_images_verification_allowlist: Vec<String>,
    /// Take what is needed of an image from other nodes that have it, before the registry, and give them what is here
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub images_from_peers: bool,
    /// How long the machine's shutdown waits for its pods in all; 0 is not at all
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = components::duration)]
    pub shutdown_grace_period: std::time::Duration,
    /// How much of that is for critical pods alone, which end last
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = components::duration)]
    pub shutdown_grace_period_critical_pods: std::time::Duration,
    /// Instead, seconds for the pods of each priority and above, such as `0=60,1000=30,2000000000=10`; lower ones end first
    #[arg(long, value_name = "PRIORITY=SECONDS,…", value_parser = components::periods, conflicts_with_all = ["shutdown_grace_period", "shutdown_grace_period_critical_pods"])]
    pub shutdown_grace_period_by_pod_priority: Option<components::Periods>,
    /// Instead of this machine, be so many nodes that only keep records of their containers: NAME-0, NAME-1, …
    #[arg(long, value_name = "N", conflicts_with = "containerd", value_parser = clap::value_parser!(u32).range(1..))]
    pub simulate: Option<u32>,
    /// How long a container of a simulated node takes to start
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = components::duration, requires = "simulate")]
    pub simulate_start_delay: std::time::Duration,
}

/// Which of several processes that run the same loops does run them.
#[derive(clap::Args, Debug, Clone)]
#[command(next_help_heading = "Leader election")]
pub struct ElectionFlags {
    /// Run the loops only while holding the lease of their component; of several processes one leads and the others stand by
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// How long others wait, after the last renewal they saw, before they take the lease
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = components::duration)]
    pub leader_elect_lease_duration: std::time::Duration,
    /// How long the leader goes on without being able to renew the lease
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = components::duration)]
    pub leader_elect_renew_deadline: std::time::Duration,
    /// How long between two tries to get or renew the lease
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = components::duration)]
    pub leader_elect_retry_period: std::time::Duration,
}

/// Health and metrics of a component that runs alone.
#[derive(clap::Args, Debug, Clone)]
pub struct HealthFlags {
    /// Where /healthz, /livez, /readyz and /metrics are served (plain HTTP); port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub health_listen: SocketAddr,
}

/// `gantry up`
#[derive(clap::Args, Debug)]
pub struct Up {
    #[command(flatten)]
    pub data: DataDir,
    #[command(flatten)]
    pub api: ApiFlags,
    #[command(flatten)]
    pub controllers: ControllerFlags,
    #[command(flatten)]
    pub agent: AgentFlags,
    #[command(flatten)]
    pub scheduler: SchedulerFlags,
    #[command(flatten)]
    pub election: ElectionFlags,
    /// Run no pods on this machine
    #[arg(long)]
    pub no_agent: bool,
}

/// `gantry apiserver`. Its scheduler configuration is that by which it answers placement reviews.
#[derive(clap::Args, Debug)]
pub struct ApiServer {
    #[command(flatten)]
    pub data: DataDir,
    #[command(flatten)]
    pub api: ApiFlags,
    #[command(flatten)]
    pub scheduler: SchedulerFlags,
}

/// `gantry controllers`
#[derive(clap::Args, Debug)]
pub struct Controllers {
    #[command(flatten)]
    pub controllers: ControllerFlags,
    #[command(flatten)]
    pub election: ElectionFlags,
    #[command(flatten)]
    pub health: HealthFlags,
}

/// The scheduler's flags.
#[derive(clap::Args, Debug, Clone)]
pub struct SchedulerFlags {
    /// The scheduler configuration (Kubernetes' KubeSchedulerConfiguration): profiles and how they score nodes. An API
    /// server answers placement reviews by it
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
}

/// `gantry scheduler`
#[derive(clap::Args, Debug)]
pub struct Scheduler {
    #[command(flatten)]
    pub scheduler: SchedulerFlags,
    #[command(flatten)]
    pub election: ElectionFlags,
    #[command(flatten)]
    pub health: HealthFlags,
}

/// `gantry agent`
#[derive(clap::Args, Debug)]
pub struct Agent {
    #[command(flatten)]
    pub data: DataDir,
    #[command(flatten)]
    pub agent: AgentFlags,
    #[command(flatten)]
    pub health: HealthFlags,
}

/// `gantry kubeconfig`
#[derive(clap::Args, Debug)]
pub struct Kubeconfig {
    #[command(flatten)]
    pub data: DataDir,
    /// The API server's URL in the kubeconfig
    #[arg(long, default_value = "https://127.0.0.1:6443", value_name = "URL")]
    pub url: String,
    #[command(subcommand)]
    pub identity: Identity,
}

/// Whose kubeconfig to print.
#[derive(Subcommand, Debug)]
pub enum Identity {
    /// A person or program
    User {
        /// The user's name
        name: String,
        /// A group that the user is in; may be given several times
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// The controllers
    Controllers,
    /// The scheduler
    Scheduler,
    /// The agent of one node; its certificate also serves the node's own API
    Node {
        /// The node's name
        name: String,
        /// An address of the node; may be given several times
        #[arg(long = "ip", value_name = "IP")]
        ips: Vec<IpAddr>,
    },
}

/// `gantry reset`
#[derive(clap::Args, Debug)]
pub struct Reset {
    #[command(flatten)]
    pub data: DataDir,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Hands the command to what carries it out.
pub async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(up) => components::up::run(*up).await?,
        Command::Apiserver(options) => components::alone::apiserver(*options).await?,
        Command::Controllers(options) => components::alone::controllers(options, &cli.client).await?,
        Command::Scheduler(options) => components::alone::scheduler(options, &cli.client).await?,
        Command::Agent(options) => components::alone::agent(*options, &cli.client).await?,
        Command::Kubeconfig(options) => components::identity::print_kubeconfig(&options)?,
        Command::Reset(options) => components::reset::run(&options).await?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "gantry", &mut std::io::stdout());
        }
        Command::Verb(verb) => return verbs::run(verb, &cli.client).await,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
