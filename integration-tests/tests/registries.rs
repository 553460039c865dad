//! Images from registries: one that wants a password, and one that stands in for another.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, command, eventually, left};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
/// `puller:secret`
const PASSWORD: &str = "cHVsbGVyOnNlY3JldA==";

/// The image busybox in the OCI layout.
fn layout(cluster: &Cluster) -> PathBuf {
    let images = std::fs::read_dir(cluster.data_dir().join("images")).expect("the folder is there").flatten();
    let mut images = images.map(|entry| entry.path());
    let name = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("busybox"));
    let archive = images.find(|path| name(path)).expect("the image is there");
    let folder = cluster.scratch().join("layout");
    std::fs::create_dir(&folder).expect("a folder can be made");
    command::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&folder), b"").ok();
    folder
}

/// Starts a registry on the node's loopback.
fn registry(cluster: &mut Cluster, name: &str, address: &str, password: Option<&str>) {
    let mut command = cluster.command(env!("CARGO_BIN_EXE_registry"));
    command.arg(address).arg(cluster.scratch().join("layout")).args(password);
    cluster.spawn(name, command);
}

/// Says where the runtime finds what is called after a host.
fn hosts(cluster: &Cluster, host: &str, text: &str) {
    hosts_of(&cluster.data_dir(), host, text);
}

/// The same for the node with this data directory.
fn hosts_of(data_dir: &Path, host: &str, text: &str) {
    let folder = data_dir.join("containerd/certs.d").join(host);
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::write(folder.join("hosts.toml"), text).expect("a file can be written");
}

fn create(cluster: &Cluster, objects: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    cluster.kubectl_with(&["create", "-f", "-"], list.to_string().as_bytes()).ok();
}

fn pod(name: &str, image: &str, secret: Option<&str>) -> Value {
    let secrets: Vec<Value> =
        secret.iter().flat_map(|names| names.split(' ')).map(|name| json!({"name": name})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "terminationGracePeriodSeconds": 1, "imagePullSecrets": secrets,
        "containers": [{"name": "c", "image": image, "imagePullPolicy": "Always", "command": ["sleep", "3600"]}]}})
}

/// The same, for an image that may be here already.
fn pod_of_policy(name: &str, image: &str, secret: Option<&str>, policy: &str) -> Value {
    let mut pod = pod(name, image, secret);
    pod["spec"]["containers"][0]["imagePullPolicy"] = json!(policy);
    pod
}

fn pull_secret(name: &str, place: &str, password: &str) -> Value {
    let config = json!({"auths": {place: {"auth": password}}}).to_string();
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": config}})
}

fn waiting(cluster: &Cluster, name: &str, reason: &str, text: &str) {
    eventually(&format!("{name} to wait with {reason}"), PATIENCE, || {
        let pod = cluster.object(&["pod", name])?;
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let told = waiting["message"].as_str().is_some_and(|message| message.contains(text));
        if waiting["reason"] == reason && told { Ok(()) } else { Err(pod["status"].to_string()) }
    });
}

/// Waits until events of a pod say all of this.
fn told(cluster: &Cluster, name: &str, texts: &[&str]) {
    eventually(&format!("{name} to be told of"), PATIENCE, || {
        let events = cluster.kubectl(&["events", "--for", &format!("pod/{name}")]).ok();
        // Columns are as wide as the widest; a text may have more than one space of its own in it only by mistake.
        let events = events.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let events = events.collect::<Vec<_>>().join("\n");
        if texts.iter().all(|text| events.contains(text)) { Ok(()) } else { Err(events) }
    });
}

fn wait_ready(cluster: &Cluster, name: &str) {
    cluster.kubectl(&["wait", &format!("pod/{name}"), "--for=condition=Ready", "--timeout=120s"]).ok();
}

#[test]
fn images_come_from_registries_with_a_password_and_from_their_mirrors() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    layout(&cluster);
    registry(&mut cluster, "private", "127.0.0.1:5000", Some(PASSWORD));
    registry(&mut cluster, "mirror", "127.0.0.1:5001", None);
    hosts(&cluster, "127.0.0.1:5000", "server = \"http://127.0.0.1:5000\"\n");
    let mirror = "server = \"https://images.example\"\n[host.\"http://127.0.0.1:5001\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    hosts(&cluster, "images.example", mirror);
    let image = "127.0.0.1:5000/team/app:1";
    create(
        &cluster,
        &[
            pull_secret("right", "127.0.0.1:5000", PASSWORD),
            // `puller:guess`
            pull_secret("wrong", "https://127.0.0.1:5000/v2/", "cHVsbGVyOmd1ZXNz"),
            pod("without", image, None),
            pod("guesses", image, Some("wrong")),
            pod("forgets", image, Some("absent")),
            pod("mirrored", "images.example/team/app:1", None),
            pod("missing", "images.example/team/app:none", None),
        ],
    );
    waiting(&cluster, "without", "ImagePullBackOff", &format!("Back-off pulling image \"{image}\": ErrImagePull: "));
    waiting(&cluster, "guesses", "ImagePullBackOff", "401");
    let failed = format!("Warning Failed Pod/guesses Failed to pull image \"{image}\": ");
    let back_off = format!("Normal BackOff Pod/guesses Back-off pulling image \"{image}\"");
    told(&cluster, "guesses", &[&failed, "Error: ErrImagePull", &back_off, "Error: ImagePullBackOff"]);
    let absent = "Unable to retrieve some image pull secrets (absent); attempting to pull the image may not succeed.";
    told(&cluster, "forgets", &[&format!("Warning FailedToRetrieveImagePullSecret Pod/forgets {absent}")]);
    // What the mirror does not have is looked for where it is at home, which is not there.
    waiting(&cluster, "missing", "ImagePullBackOff", "https://images.example/v2/team/app/manifests/none");
    wait_ready(&cluster, "mirrored");
    // One that knows the password does not let in those that do not.
    create(&cluster, &[pod("with", image, Some("right"))]);
    wait_ready(&cluster, "with");
    told(&cluster, "with", &[&format!("Normal Pulled Pod/with Successfully pulled image \"{image}\" in ")]);
    let asked = std::fs::read_to_string(cluster.scratch().join("private.log")).unwrap_or_default();
    assert!(
        asked.contains("GET /v2/team/app/blobs/sha256:") || asked.contains("HEAD /v2/team/app/manifests/1: 200 OK"),
        "{asked}"
    );
    // Of several secrets that are for a registry one has to do.
    create(&cluster, &[pod("tries", image, Some("wrong right")), pod("later", image, None)]);
    wait_ready(&cluster, "tries");
    waiting(&cluster, "later", "ImagePullBackOff", image);
    cluster.kubectl(&["delete", "pods", "--all", "--now"]).ok();
    left::wait_for_nothing(&cluster);
}

#[test]
fn an_image_that_is_here_is_for_those_who_have_what_it_was_pulled_with() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    layout(&cluster);
    registry(&mut cluster, "private", "127.0.0.1:5000", Some(PASSWORD));
    registry(&mut cluster, "public", "127.0.0.1:5001", None);
    for host in ["127.0.0.1:5000", "127.0.0.1:5001"] {
        hosts(&cluster, host, &format!("server = \"http://{host}\"\n"));
    }
    let (image, open) = ("127.0.0.1:5000/team/app:1", "127.0.0.1:5001/team/app:1");
    let pod = |name, image, secret| pod_of_policy(name, image, secret, "IfNotPresent");
    let never = |name, image, secret| pod_of_policy(name, image, secret, "Never");
    create(
        &cluster,
        &[
            pull_secret("right", "127.0.0.1:5000", PASSWORD),
            pull_secret("copy", "127.0.0.1:5000", PASSWORD),
            pull_secret("wrong", "127.0.0.1:5000", "cHVsbGVyOmd1ZXNz"),
            pod("first", image, Some("right")),
        ],
    );
    wait_ready(&cluster, "first");
    let stranger = [pod("without", image, None), pod("guesses", image, Some("wrong")), never("never", image, None)];
    let friend = [pod("same", image, Some("right")), never("copies", image, Some("wrong copy"))];
    create(&cluster, &stranger);
    create(&cluster, &friend);
    let here = format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
    for name in ["same", "copies"] {
        wait_ready(&cluster, name);
        told(&cluster, name, &[&format!("Normal Pulled Pod/{name} {here}")]);
    }
    waiting(&cluster, "without", "ImagePullBackOff", "401");
    waiting(&cluster, "guesses", "ImagePullBackOff", "401");
    let refused = format!("Container image \"{image}\" is not present with pull policy of Never");
    waiting(&cluster, "never", "ErrImageNeverPull", &refused);
    // It is the same image by another name, which whoever asks is given; and one that came with the node is everybody's.
    create(&cluster, &[pod("public", open, None), never("preloaded", "gantry.local/busybox:1.35", None)]);
    wait_ready(&cluster, "public");
    told(&cluster, "public", &[&format!("Normal Pulled Pod/public Successfully pulled image \"{open}\" in ")]);
    create(&cluster, &[never("anyone", open, None)]);
    wait_ready(&cluster, "anyone");
    // The node remembers it.
    cluster.server().kill();
    cluster.up();
    cluster.wait_ready();
    create(&cluster, &[never("later", image, None), never("again", image, Some("right"))]);
    wait_ready(&cluster, "again");
    waiting(&cluster, "later", "ErrImageNeverPull", &refused);
    cluster.kubectl(&["delete", "pods", "--all", "--now"]).ok();
    left::wait_for_nothing(&cluster);
}

/// What registries were asked since they had been asked so much.
fn asked(cluster: &Cluster, registry: &str, before: usize) -> Vec<String> {
    let text = std::fs::read_to_string(cluster.scratch().join(format!("{registry}.log"))).unwrap_or_default();
    text.lines().skip(before).map(str::to_owned).collect()
}

/// The bytes of images that a node has had from others.
fn from_peers(cluster: &Cluster, node: &str) -> u64 {
    let metrics = cluster.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/metrics")]).ok();
    let count = metrics.lines().find_map(|line| line.strip_prefix("gantry_image_from_peers_bytes_total "));
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no count in {metrics}"))
}

#[test]
fn what_a_node_has_others_need_not_have_from_the_registry_which_says_who_may() {
    let Some(mut cluster) = Cluster::start(Options::default()) else { return };
    layout(&cluster);
    registry(&mut cluster, "public", "127.0.0.1:5000", None);
    registry(&mut cluster, "private", "127.0.0.1:5001", Some(PASSWORD));
    let on = |node: &str, name: &str, registry: &str, secret| {
        let mut pod = pod_of_policy(name, &format!("{registry}/team/app:1"), secret, "IfNotPresent");
        pod["spec"]["nodeName"] = json!(node);
        pod
    };
    let (public, private) = ("127.0.0.1:5000", "127.0.0.1:5001");
    for host in [public, private] {
        hosts(&cluster, host, &format!("server = \"http://{host}\"\n"));
    }
    create(
        &cluster,
        &[
            pull_secret("right", private, PASSWORD),
            on("node-1", "first", public, None),
            on("node-1", "second", private, Some("right")),
        ],
    );
    wait_ready(&cluster, "first");
    wait_ready(&cluster, "second");
    eventually("the node to say what it has", PATIENCE, || {
        let node = cluster.object(&["node", "node-1"])?;
        let has = |host: &str| node["status"]["images"].to_string().contains(&format!("{host}/team/app@sha256:"));
        if has(public) && has(private) { Ok(()) } else { Err(node["status"]["images"].to_string()) }
    });

    let join = |cluster: &mut Cluster, node: &str, port, host: &str, flags: &[&str]| {
        hosts_of(&cluster.scratch().join(node), host, &format!("server = \"http://{host}\"\n"));
        cluster.add_node(node, port, flags);
        eventually("the node to be there", PATIENCE, || cluster.object(&["node", node]).map(|_| ()));
    };
    // Each of two more nodes has images from one registry, and starts with none.
    for (node, port, name, host) in [("node-2", 10251, "public", public), ("node-3", 10252, "private", private)] {
        join(&mut cluster, node, port, host, &[]);
        let before = asked(&cluster, name, 0).len();
        if host == private {
            create(&cluster, &[on(node, "stranger", host, None)]);
            waiting(&cluster, "stranger", "ImagePullBackOff", "401");
            assert_eq!(from_peers(&cluster, node), 0, "nothing is given for a pull that the registry has refused");
        }
        let secret = (host == private).then_some("right");
        create(&cluster, &[on(node, name, host, secret)]);
        wait_ready(&cluster, name);
        let asked = asked(&cluster, name, before);
        assert!(asked.iter().any(|line| line.contains("HEAD /v2/team/app/manifests/1")), "{asked:#?}");
        assert!(!asked.iter().any(|line| line.contains("/blobs/")), "{asked:#?}");
        let bytes = from_peers(&cluster, node);
        assert!(bytes > 100_000, "{bytes} bytes came from the other node");
    }
    // One that wants nothing from others has it from the registry.
    join(&mut cluster, "node-4", 10253, public, &["--images-from-peers=false"]);
    let before = asked(&cluster, "public", 0).len();
    create(&cluster, &[on("node-4", "alone", public, None)]);
    wait_ready(&cluster, "alone");
    assert!(asked(&cluster, "public", before).iter().any(|line| line.contains("/blobs/")));
    assert_eq!(from_peers(&cluster, "node-4"), 0);
    cluster.kubectl(&["delete", "pods", "--all", "--now"]).ok();
    left::wait_for_nothing(&cluster);
}
