//! A real etcd cluster, on loopback or in network namespaces of its own, for as long as a test needs it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_store::{EtcdLogin, EtcdOptions, EtcdTls, Options, Target};
use tempfile::TempDir;

use super::certs::Certs;
use super::net::Net;

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Setup {
    pub members: usize,
    /// TLS with client certificates for clients.
    pub tls: bool,
    /// Users, one of which, with a password, may use the store's keys.
    pub auth: bool,
    /// Each member in a network namespace of its own; the caller must run inside [`Net::inside`].
    pub namespaces: bool,
    /// In milliseconds. Long: no new leader because the machine is busy.
    pub election: u32,
    /// Further flags.
    pub flags: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { members: 3, tls: false, auth: false, namespaces: false, election: 5_000, flags: Vec::new() }
    }
}

/// Who may use the store's keys, and with which password.
pub const USER: &str = "keeper";
pub const PASSWORD: &str = "secret";

/// The members; killed when dropped.
pub struct EtcdCluster {
    program: PathBuf,
    setup: Setup,
    members: Vec<Member>,
    certs: Option<Certs>,
    pub net: Option<Net>,
    pub login: Option<EtcdLogin>,
    pub dir: TempDir,
}

struct Member {
    client: String,
    peer: String,
    child: Option<Child>,
}

impl EtcdCluster {
    /// Starts one and waits until each member answers. None, with a word about it, where etcd is not installed.
    pub async fn start(setup: Setup) -> Option<Self> {
        let Some(program) = find_program() else {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "etcd is not installed, and CI must not skip its tests"
            );
            eprintln!("SKIPPED: etcd is not installed (Debian: etcd-server)");
            return None;
        };
        // Another process may take a free port before etcd does; then other ports.
        for _ in 0..5 {
            let mut cluster = Self::prepare(program.clone(), setup.clone());
            for member in 0..setup.members {
                cluster.spawn(member);
            }
            if cluster.wait_ready().await {
                if setup.auth {
                    cluster.enable_auth().await;
                }
                return Some(cluster);
            }
        }
        panic!("etcd did not start");
    }

    /// Makes the users and lets nobody else in.
    async fn enable_auth(&mut self) {
        use etcd_client::{Permission, PermissionType};
        let mut admin = self.admin(0).await.unwrap();
        let keys = Permission::new(PermissionType::Readwrite, "/gantry/").with_prefix();
        admin.user_add("root", "root's", None).await.unwrap();
        admin.role_add("root").await.unwrap();
        admin.user_grant_role("root", "root").await.unwrap();
        admin.user_add(USER, PASSWORD, None).await.unwrap();
        admin.role_add("store").await.unwrap();
        admin.role_grant_permission("store", keys).await.unwrap();
        admin.user_grant_role(USER, "store").await.unwrap();
        admin.auth_enable().await.unwrap();
        let password_file = self.dir.path().join("password");
        std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
        self.login = Some(EtcdLogin { user: USER.to_owned(), password_file });
    }

    fn prepare(program: PathBuf, setup: Setup) -> Self {
        let net = setup.namespaces.then(|| Net::inside_with(setup.members));
        let address = |i: usize, port: u16| match &net {
            Some(net) => format!("{}:{port}", net.address(i)),
            None => free_address(),
        };
        let members = (0..setup.members)
            .map(|i| Member { client: address(i, 2379), peer: address(i, 2380), child: None })
            .collect();
        // In memory if possible: a machine that is busy with disks is not what is tested here.
        let dir = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let certs = setup.tls.then(|| Certs::make(dir.path()));
        EtcdCluster { program, setup, members, certs, net, login: None, dir }
    }

    /// How a store reaches it.
    pub fn target(&self) -> Target {
        let hosts: Vec<&str> = self.members.iter().map(|member| member.client.as_str()).collect();
        Target::parse(&format!("etcd://{}", hosts.join(",")), Path::new("")).unwrap()
    }

    /// The address of a member for clients.
    pub fn endpoint(&self, member: usize) -> &str {
        &self.members[member].client
    }

    pub fn certs(&self) -> &Certs {
        self.certs.as_ref().expect("set up with TLS")
    }

    /// What a store needs to be let in.
    pub fn options(&self) -> EtcdOptions {
        let tls = self.certs.as_ref().map(|certs| EtcdTls {
            ca_file: certs.ca.clone(),
            client: Some((certs.client.clone(), certs.client_key.clone())),
        });
        EtcdOptions { tls, login: self.login.clone(), ..EtcdOptions::default() }
    }

    /// A client of etcd's own, for what the store does not do.
    pub async fn admin(&self, member: usize) -> Result<etcd_client::Client, etcd_client::Error> {
        let mut options = etcd_client::ConnectOptions::new()
            .with_connect_timeout(Duration::from_secs(1))
            .with_timeout(Duration::from_secs(2));
        let mut scheme = "http";
        if let Some(certs) = &self.certs {
            let read = |path: &Path| std::fs::read(path).unwrap();
            let tls = etcd_client::TlsOptions::new()
                .ca_certificate(etcd_client::Certificate::from_pem(read(&certs.ca)))
                .identity(etcd_client::Identity::from_pem(read(&certs.client), read(&certs.client_key)));
            options = options.with_tls(tls);
            scheme = "https";
        }
        etcd_client::Client::connect([format!("{scheme}://{}", self.endpoint(member))], Some(options)).await
    }

    /// Which member leads, waiting until one does.
    pub async fn leader(&self) -> usize {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(30) {
            for member in 0..self.members.len() {
                let asked = async {
                    let mut client = self.admin(member).await?;
                    let status = client.status().await?;
                    let own = status.header().map_or(0, etcd_client::ResponseHeader::member_id);
                    Ok::<_, etcd_client::Error>(own != 0 && status.leader() == own)
                };
                if tokio::time::timeout(Duration::from_secs(1), asked).await.is_ok_and(|leads| leads.unwrap_or(false)) {
                    return member;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no member leads");
    }

    /// Kills a member outright.
    pub fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same data and addresses after [`EtcdCluster::kill`].
    pub fn restart(&mut self, member: usize) {
        self.spawn(member);
    }

    /// Kills all and starts them again.
    pub async fn restart_all(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
        for member in 0..self.members.len() {
            self.spawn(member);
        }
        assert!(self.wait_ready().await, "etcd did not start again");
    }

    /// Waits until every member answers a linearizable read.
    pub async fn wait_ready(&mut self) -> bool {
        let start = Instant::now();
        for member in 0..self.members.len() {
            loop {
                let ended = self.members[member].child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some());
                if ended || start.elapsed() > Duration::from_secs(40) {
                    return false;
                }
                // Cheap to ask again and again, unlike the rest.
                if std::net::TcpStream::connect(&self.members[member].client).is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
                let mut options = Options { etcd: self.options(), ..Options::default() };
                options.etcd.request_timeout = Duration::from_millis(700);
                let target = Target::Etcd(vec![format!("http://{}", self.members[member].client)]);
                if let Ok(store) = gantry_store::open(&target, options).await
                    && store.current_revision().await.is_ok()
                {
                    store.close().await.unwrap();
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        true
    }

    fn spawn(&mut self, i: usize) {
        let scheme = if self.certs.is_some() { "https" } else { "http" };
        let names: Vec<String> =
            self.members.iter().enumerate().map(|(i, member)| format!("m{i}=http://{}", member.peer)).collect();
        let member = &self.members[i];
        let (client, peer) = (format!("{scheme}://{}", member.client), format!("http://{}", member.peer));
        let mut command = match &self.net {
            Some(net) => net.command(i, &self.program),
            None => Command::new(&self.program),
        };
        command
            .args(["--name", &format!("m{i}"), "--data-dir"])
            .arg(self.dir.path().join(format!("m{i}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &names.join(","), "--initial-cluster-token", &member.peer_token(&names)])
            .args(["--heartbeat-interval", "100", "--election-timeout", &self.setup.election.to_string()])
            .args(["--bcrypt-cost", "4"])
            .args(&self.setup.flags);
        if let Some(certs) = &self.certs {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&certs.ca);
            command.arg("--cert-file").arg(&certs.server).arg("--key-file").arg(&certs.server_key);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join(format!("m{i}.log")));
        let log = log.unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.members[i].child = Some(command.spawn().unwrap());
    }
}

impl Member {
    /// Members of different clusters that come by the same port refuse each other.
    fn peer_token(&self, names: &[String]) -> String {
        names.join("-").replace(['/', ':', '.', '='], "")
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for member in 0..self.members.len() {
            self.kill(member);
        }
        if std::thread::panicking() {
            for member in 0..self.members.len() {
                let log = std::fs::read_to_string(self.dir.path().join(format!("m{member}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("the last of etcd m{member}:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
    }
}

fn find_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let standard = [PathBuf::from("/usr/bin"), PathBuf::from("/usr/local/bin")];
    std::env::split_paths(&path).chain(standard).map(|dir| dir.join("etcd")).find(|program| program.is_file())
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
