//! Two API servers on one etcd, which they talk TLS to and show certificates, under load, one of them killed with `kill -9` every few seconds: clients that try again
//! lose no update and read nothing stale, and the address of a server that is gone leaves the Service `kubernetes`.
//!
//! `GANTRY_TWO_SERVERS_SECONDS=600` makes it longer.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_integration_tests::process::Process;
use gantry_integration_tests::{eventually, tools};
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

const WORKERS: usize = 6;
const COUNTERS: usize = 3;
const ADVERTISED: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// What the servers share, and the two.
struct Pair {
    gantry: PathBuf,
    dir: tempfile::TempDir,
    etcd_address: String,
    _etcd: Process,
    ports: [u16; 2],
    servers: [Option<Process>; 2],
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Pair {
    fn start() -> Option<Self> {
        let tools = tools::find()?;
        let Some(program) = tools::program("etcd") else {
            assert!(std::env::var_os("CI").is_none(), "this test needs etcd (Debian: etcd-server)");
            eprintln!("skipped: this test needs etcd (Debian: etcd-server)");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("gt-two-").tempdir().expect("a temporary folder");
        let etcd_address = format!("127.0.0.1:{}", free_port());
        let (client, peer) = (format!("https://{etcd_address}"), format!("http://127.0.0.1:{}", free_port()));
        make_certificates(dir.path());
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(dir.path().join("etcd"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--client-cert-auth"]);
        command.arg("--trusted-ca-file").arg(dir.path().join("etcd-ca.pem"));
        command.arg("--cert-file").arg(dir.path().join("etcd.pem"));
        command.arg("--key-file").arg(dir.path().join("etcd.key"));
        let etcd = Process::start(command, &dir.path().join("etcd.log"));
        let ports = [free_port(), free_port()];
        let mut pair = Pair { gantry: tools.gantry, dir, etcd_address, _etcd: etcd, ports, servers: [None, None] };
        pair.start_server(0);
        pair.wait_kubeconfig(0);
        // They are one cluster: the same authority signs for both.
        copy_dir(&pair.data_dir(0).join("pki"), &pair.data_dir(1).join("pki"));
        pair.start_server(1);
        pair.wait_kubeconfig(1);
        Some(pair)
    }

    fn data_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("data-{i}"))
    }

    fn start_server(&mut self, i: usize) {
        let mut command = Command::new(&self.gantry);
        command.arg("apiserver").arg("--data-dir").arg(self.data_dir(i));
        command.args(["--store", &format!("etcd://{}", self.etcd_address)]);
        command.arg("--etcd-cafile").arg(self.dir.path().join("etcd-ca.pem"));
        command.arg("--etcd-certfile").arg(self.dir.path().join("gantry.pem"));
        command.arg("--etcd-keyfile").arg(self.dir.path().join("gantry.key"));
        command.args(["--listen", &format!("127.0.0.1:{}", self.ports[i]), "--advertise", ADVERTISED[i]]);
        command.env("HOME", self.dir.path()).env_remove("KUBECONFIG").current_dir(self.dir.path());
        self.servers[i] = Some(Process::start(command, &self.dir.path().join(format!("server-{i}.log"))));
    }

    fn wait_kubeconfig(&mut self, i: usize) {
        let file = self.data_dir(i).join("admin.kubeconfig");
        eventually("an API server", Duration::from_secs(60), || {
            let server = self.servers[i].as_mut().expect("started");
            if server.ended().is_some() {
                panic!("the server ended\n{}", server.tail(30));
            }
            if file.is_file() { Ok(()) } else { Err("no kubeconfig yet".to_owned()) }
        });
    }

    async fn client(&self, i: usize) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.data_dir(i).join("admin.kubeconfig")).expect("a kubeconfig");
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("it is complete");
        config.connect_timeout = Some(Duration::from_secs(2));
        config.read_timeout = Some(Duration::from_secs(15));
        Client::try_from(config).expect("a client")
    }
}

/// An authority, etcd's certificate and the API servers'.
fn make_certificates(dir: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let params = |name: &str, hosts: &[&str]| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(hosts).expect("names that may stand in a certificate");
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = params("etcd authority", &[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a file can be written");
    write("etcd-ca.pem", &authority.pem());
    for (name, hosts) in [("etcd", &["127.0.0.1"][..]), ("gantry", &[])] {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(name, hosts).signed_by(&key, &authority).expect("a certificate");
        write(&format!("{name}.pem"), &certificate.pem());
        write(&format!("{name}.key"), &key.serialize_pem());
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("a folder can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

/// What all workers know.
struct Shared {
    clients: Vec<Client>,
    stop: AtomicBool,
    /// For each counter the most that anybody was told it had reached.
    told: [AtomicU64; COUNTERS],
    updates: AtomicU64,
    reads: AtomicU64,
    retries: AtomicU64,
}

/// A client that adds to counters and reads them, and tries again whatever happens.
struct Worker {
    shared: Arc<Shared>,
    id: usize,
    seed: u64,
    /// What it has added to each counter, acknowledged.
    added: [u64; COUNTERS],
}

fn number(map: &ConfigMap, key: &str) -> u64 {
    map.data.as_ref().and_then(|data| data.get(key)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn name(counter: usize) -> String {
    format!("counter-{counter}")
}

impl Worker {
    fn roll(&mut self, n: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) as usize % n
    }

    fn api(&mut self) -> Api<ConfigMap> {
        let client = self.roll(self.shared.clients.len());
        Api::namespaced(self.shared.clients[client].clone(), "default")
    }

    async fn run(mut self) -> [u64; COUNTERS] {
        while !self.shared.stop.load(Ordering::Acquire) {
            let counter = self.roll(COUNTERS);
            match self.roll(3) {
                0 => self.add(counter).await,
                1 => drop(self.read(counter).await),
                _ => self.list().await,
            }
        }
        self.added
    }

    /// A fresh read: it shows at least what anybody had been told before it began.
    async fn read(&mut self, counter: usize) -> ConfigMap {
        loop {
            let told = self.shared.told[counter].load(Ordering::Acquire);
            match self.api().get(&name(counter)).await {
                Ok(map) => {
                    self.saw(counter, &map, told);
                    return map;
                }
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn list(&mut self) {
        let told: Vec<u64> = self.shared.told.iter().map(|told| told.load(Ordering::Acquire)).collect();
        match self.api().list(&ListParams::default().labels("test=counter")).await {
            Ok(list) => {
                assert_eq!(list.items.len(), COUNTERS, "a list shows all there is");
                for (counter, map) in list.items.iter().enumerate() {
                    self.saw(counter, map, told[counter]);
                }
            }
            Err(error) => self.failed(&error).await,
        }
    }

    fn saw(&self, counter: usize, map: &ConfigMap, told: u64) {
        let total = number(map, "total");
        assert!(total >= told, "a stale read of counter {counter}: {total} after {told} had been told");
        self.shared.told[counter].fetch_max(total, Ordering::AcqRel);
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one to the counter's total and to this worker's own part of it, whatever it takes, once.
    async fn add(&mut self, counter: usize) {
        let own = format!("worker-{}", self.id);
        let wanted = self.added[counter] + 1;
        loop {
            let mut map = self.read(counter).await;
            let (part, total) = (number(&map, &own), number(&map, "total"));
            if part == wanted {
                // A try whose answer was lost.
                break;
            }
            assert_eq!(part, wanted - 1, "an update of counter {counter} was lost, or done twice");
            let data = map.data.get_or_insert_default();
            data.insert(own.clone(), wanted.to_string());
            data.insert("total".to_owned(), (total + 1).to_string());
            match self.api().replace(&name(counter), &PostParams::default(), &map).await {
                Ok(_) => {
                    self.shared.told[counter].fetch_max(total + 1, Ordering::AcqRel);
                    break;
                }
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => self.failed(&error).await,
            }
        }
        self.added[counter] = wanted;
        self.shared.updates.fetch_add(1, Ordering::Relaxed);
    }

    /// A failure that a dead server explains; then it is tried again.
    async fn failed(&self, error: &kube::Error) {
        if let kube::Error::Api(status) = error {
            assert!([429, 500, 503, 504].contains(&status.code), "{status:?}");
        }
        self.shared.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// The addresses in the Service's Endpoints and in its slice.
async fn listed(client: &Client) -> Result<BTreeSet<String>, kube::Error> {
    let endpoints = Api::<Endpoints>::namespaced(client.clone(), "default").get("kubernetes").await?;
    let slice = Api::<EndpointSlice>::namespaced(client.clone(), "default").get("kubernetes").await?;
    let subsets = endpoints.subsets.unwrap_or_default();
    let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
    let one: BTreeSet<String> = addresses.map(|address| address.ip).collect();
    let slices: BTreeSet<String> = slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses).collect();
    // The servers have different ports here, which a slice cannot say: it has those of the first.
    assert!(slices.is_subset(&one) || one.is_empty(), "{slices:?} {one:?}");
    Ok(one)
}

async fn wait_listed(client: &Client, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|address| (*address).to_owned()).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = listed(client).await;
        if found.as_ref().is_ok_and(|found| *found == wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_two_servers_lose_nothing_when_one_is_killed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(mut pair) = Pair::start() else { return };
    let clients = vec![pair.client(0).await, pair.client(1).await];
    wait_listed(&clients[0], &ADVERTISED).await;
    for counter in 0..COUNTERS {
        let map: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name(counter), "labels": {"test": "counter"}}, "data": {"total": "0"},
        }))
        .expect("a ConfigMap");
        Api::namespaced(clients[counter % 2].clone(), "default")
            .create(&PostParams::default(), &map)
            .await
            .expect("created");
    }
    let shared = Arc::new(Shared {
        clients: clients.clone(),
        stop: AtomicBool::new(false),
        told: Default::default(),
        updates: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        retries: AtomicU64::new(0),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|id| {
            let worker = Worker { shared: Arc::clone(&shared), id, seed: id as u64 + 1, added: [0; COUNTERS] };
            tokio::spawn(worker.run())
        })
        .collect();

    let seconds = std::env::var("GANTRY_TWO_SERVERS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut kills = 0;
    while Instant::now() < end || kills < 2 {
        let victim = kills % 2;
        tokio::time::sleep(Duration::from_millis(2_000)).await;
        pair.servers[victim].take().expect("running").kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        pair.start_server(victim);
        // Before the other dies it is back.
        let deadline = Instant::now() + Duration::from_secs(60);
        while clients[victim].apiserver_version().await.is_err() {
            assert!(Instant::now() < deadline, "the server does not come back");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        kills += 1;
    }
    // One dies for good: its address goes, while the other goes on.
    wait_listed(&clients[1], &ADVERTISED).await;
    pair.servers[0].take().expect("running").kill();
    wait_listed(&clients[1], &ADVERTISED[1..]).await;

    shared.stop.store(true, Ordering::Release);
    let mut added = [0; COUNTERS];
    for (id, worker) in workers.into_iter().enumerate() {
        let own = worker.await.expect("a worker that found nothing wrong");
        for counter in 0..COUNTERS {
            added[counter] += own[counter];
            let map = Api::<ConfigMap>::namespaced(clients[1].clone(), "default").get(&name(counter)).await;
            assert_eq!(number(&map.expect("the counter"), &format!("worker-{id}")), own[counter], "nothing was lost");
        }
    }
    for (counter, added) in added.iter().enumerate() {
        let map = Api::<ConfigMap>::namespaced(clients[1].clone(), "default").get(&name(counter)).await;
        assert_eq!(number(&map.expect("the counter"), "total"), *added, "nothing was lost, nothing was done twice");
    }
    let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{} updates, {} fresh reads, {} failures tried again, {} kills",
        count(&shared.updates),
        count(&shared.reads),
        count(&shared.retries),
        kills + 1
    );
    assert!(count(&shared.updates) > 30 && count(&shared.retries) > 0, "too little to show anything");
}
