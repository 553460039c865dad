//! Pods with real containers: what a spec says of their life and of their confinement is what happens, and nothing of them stays.

use std::time::Duration;

use gantry_integration_tests::{Cluster, Options, cluster, eventually, left};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(120);
const IMAGE: &str = "gantry.local/busybox:1.35";

/// A pod of the default namespace.
fn pod(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

/// A container that runs a script.
fn container(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script]});
    merge(&mut container, more);
    container
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}

fn create(cluster: &Cluster, pods: &[Value]) {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": pods});
    cluster.kubectl_with(&["create", "-f", "-"], list.to_string().as_bytes()).ok();
}

/// Waits until a pod is as it should be; the pod.
fn until(cluster: &Cluster, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("{name} to be {what}"), PATIENCE, || {
        let pod = cluster.object(&["pod", name])?;
        if is(&pod) { Ok(pod) } else { Err(pod["status"].to_string()) }
    })
}

fn until_ready(cluster: &Cluster, name: &str) -> Value {
    until(cluster, name, "ready", |pod| {
        cluster::condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
    })
}

fn until_over(cluster: &Cluster, name: &str, phase: &str) -> Value {
    until(cluster, name, phase, |pod| pod["status"]["phase"] == phase)
}

fn logs(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["logs", name]).ok()
}

/// Deletes all pods, and sees to it that the machine is as it was.
fn end(cluster: &Cluster) {
    cluster.kubectl(&["delete", "pods", "--all", "--now"]).ok();
    left::wait_for_nothing(cluster);
}

#[test]
fn containers_come_and_go_in_their_order() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let folder = cluster.scratch().join("shared");
    std::fs::create_dir(&folder).expect("a folder can be made");
    let volumes = json!([{"name": "v", "hostPath": {"path": folder, "type": "Directory"}}]);
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let says = |name: &str, before_the_end: &str| {
        format!(
            "echo {name} >> /v/ORDER; trap '{before_the_end}echo {name} ends >> /v/ORDER; exit 0' TERM; \
             while :; do sleep 0.1; done"
        )
    };
    let done = |name: &str| format!("sleep 0.5; echo {name} >> /v/ORDER");
    let with = |more: Value| {
        let mut all = json!({"volumeMounts": mount});
        merge(&mut all, more);
        all
    };
    let started = json!({"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 60});
    let sidecar = with(json!({"restartPolicy": "Always", "startupProbe": started}));
    let hooks = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "echo hello >> /v/ORDER"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo goodbye >> /v/ORDER"]}},
    });
    create(
        &cluster,
        &[pod(
            "ordered",
            json!({
                "terminationGracePeriodSeconds": 20,
                "volumes": volumes,
                "initContainers": [
                    container("one", &done("one"), with(json!({}))),
                    container("side", &format!("(sleep 2; echo up >> /v/ORDER; touch /tmp/up) & {}", says("side", "")), sidecar),
                    container("two", &done("two"), with(json!({}))),
                ],
                "containers": [container("app", &says("app", "sleep 1; "), with(json!({"lifecycle": hooks})))],
            }),
        )],
    );
    let seen = until_ready(&cluster, "ordered");
    let order = || std::fs::read_to_string(folder.join("ORDER")).unwrap_or_default();
    let lines = order();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines[..4], ["one", "side", "up", "two"], "{lines:?}");
    let mut last = lines[4..].to_vec();
    last.sort_unstable();
    assert_eq!(last, ["app", "hello"], "a hook runs beside its container");
    assert_eq!(seen["status"]["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed", "{seen:#}");
    assert_eq!(seen["status"]["initContainerStatuses"][1]["started"], true, "{seen:#}");

    cluster.kubectl(&["delete", "pod", "ordered"]).ok();
    let ends: Vec<_> = order().lines().skip(6).map(str::to_owned).collect();
    assert_eq!(ends, ["goodbye", "app ends", "side ends"], "the hook, the container, and its sidecar last");
    left::wait_for_nothing(&cluster);
}

#[test]
fn how_a_container_ends_is_told() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let last_words = "echo -n why > /dev/termination-log; exit 3";
    let restarted = "if [ -e /v/again ]; then trap exit TERM; while :; do sleep 0.1; done; fi; touch /v/again; exit 5";
    let volumes = json!([{"name": "v", "emptyDir": {}}]);
    let mounts = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let greedy = json!({"resources": {"limits": {"memory": "24Mi"}}});
    let bad = json!({"command": ["/no/such/program"]});
    let waits = "trap exit TERM; while :; do sleep 0.1; done";
    create(
        &cluster,
        &[
            pod("words", json!({"restartPolicy": "Never", "containers": [container("c", last_words, json!({}))]})),
            pod("again", json!({"volumes": volumes, "containers": [container("c", restarted, mounts)]})),
            pod("greedy", json!({"restartPolicy": "Never", "containers": [container("c", "tail /dev/zero", greedy)]})),
            pod("late", json!({"activeDeadlineSeconds": 2, "containers": [container("c", waits, json!({}))]})),
            pod("bad", json!({"restartPolicy": "Never", "containers": [container("c", "", bad)]})),
            pod(
                "gated",
                json!({
                    "readinessGates": [{"conditionType": "example.com/open"}],
                    "containers": [container("c", waits, json!({}))],
                }),
            ),
        ],
    );
    let ended = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    let words = ended(&until_over(&cluster, "words", "Failed"));
    assert_eq!((&words["exitCode"], &words["reason"], &words["message"]), (&json!(3), &json!("Error"), &json!("why")));
    let greedy = ended(&until_over(&cluster, "greedy", "Failed"));
    assert_eq!((&greedy["exitCode"], &greedy["reason"]), (&json!(137), &json!("OOMKilled")));
    let bad = ended(&until_over(&cluster, "bad", "Failed"));
    assert_eq!((&bad["exitCode"], &bad["reason"]), (&json!(128), &json!("StartError")), "{bad}");
    let late = until_over(&cluster, "late", "Failed");
    assert_eq!(late["status"]["reason"], "DeadlineExceeded", "{late:#}");
    assert_eq!(late["status"]["message"], "Pod was active on the node longer than the specified deadline");
    let again = until(&cluster, "again", "restarted", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["ready"] == true
    });
    assert_eq!(again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 5, "{again:#}");

    let gated = until(&cluster, "gated", "running", |pod| pod["status"]["phase"] == "Running");
    let ready = cluster::condition(&gated, "Ready").expect("the condition is there");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")), "{gated:#}");
    let open = json!({"status": {"conditions": [{"type": "example.com/open", "status": "True"}]}}).to_string();
    cluster.kubectl(&["patch", "pod", "gated", "--subresource=status", "-p", &open]).ok();
    until_ready(&cluster, "gated");
    end(&cluster);
}

/// What a probe's container does: it is up a second after its start.
fn probed(name: &str, serves: &str, probe: Value) -> Value {
    let more = json!({"readinessProbe": probe, "ports": [{"name": "http", "containerPort": 8080}]});
    pod(name, json!({"containers": [container("c", serves, more)]}))
}

#[test]
fn probes_decide_who_is_ready_and_who_starts_again() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let serve =
        "mkdir -p /tmp/www && echo fine > /tmp/www/health && sleep 1 && exec busybox httpd -f -p 8080 -h /tmp/www";
    let wait = "trap exit TERM; while :; do sleep 0.1; done";
    let failing = json!({"livenessProbe": {
        "exec": {"command": ["test", "!", "-e", "/dev/shm/sick"]},
        "periodSeconds": 1, "failureThreshold": 2, "terminationGracePeriodSeconds": 1,
    }});
    create(
        &cluster,
        &[
            probed("http", serve, json!({"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1})),
            probed("missing", serve, json!({"httpGet": {"path": "/none", "port": 8080}, "periodSeconds": 1})),
            probed("tcp", serve, json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1})),
            probed(
                "exec",
                "sleep 1; touch /tmp/up; sleep 3600",
                json!({"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1}),
            ),
            pod("sick", json!({"containers": [container("c", wait, failing)]})),
        ],
    );
    for name in ["http", "tcp", "exec", "sick"] {
        until_ready(&cluster, name);
    }
    cluster.kubectl(&["exec", "sick", "--", "touch", "/dev/shm/sick"]).ok();
    // What is in the pod's shared memory outlives its containers: it is sick again each time.
    until(&cluster, "sick", "restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64().is_some_and(|count| count > 0)
    });
    let told = eventually("the probes' events", PATIENCE, || {
        let events = cluster
            .kubectl(&[
                "get",
                "events",
                "-o",
                "jsonpath={range .items[*]}{.involvedObject.name} {.reason} {.message}{\"\\n\"}{end}",
            ])
            .ok();
        let all = [
            "sick Unhealthy Liveness probe failed",
            "sick Killing Container c failed liveness probe, will be restarted",
            "missing Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404",
        ];
        if all.iter().all(|line| events.contains(line)) { Ok(events) } else { Err(events) }
    });
    assert!(!told.contains("http Killing"), "{told}");
    let missing = cluster.object(&["pod", "missing"]).expect("it is there");
    assert_eq!(missing["status"]["containerStatuses"][0]["ready"], false, "{missing:#}");
    end(&cluster);
}

/// nginx as a server of HTTPS, and of gRPC's health service: that is a file behind five bytes that say how long it is, and a trailer.
const SERVER: &str = "
daemon off;
error_log stderr;
pid /tmp/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;
  server {
    listen 8443 ssl; ssl_certificate /conf/tls.crt; ssl_certificate_key /conf/tls.key;
    location = /fine { return 200 fine; }
    location = /broken { return 500 broken; }
  }
  server {
    listen 9000 http2;
    location = /grpc.health.v1.Health/Check { root /nothing; error_page 404 405 =200 /health; }
    location = /health { internal; root /state; default_type application/grpc; add_trailer grpc-status 0; }
  }
}
";

#[test]
fn probes_speak_tls_and_grpc() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let key = rcgen::KeyPair::generate().expect("a key can be made");
    let names = rcgen::CertificateParams::new(vec!["somebody.example".to_owned()]).expect("a name");
    // Nobody vouches for it, and it names another: a probe does not ask for that.
    let certificate = names.self_signed(&key).expect("it signs itself");
    let conf = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "conf"}, "stringData": {
        "nginx.conf": SERVER, "tls.crt": certificate.pem(), "tls.key": key.serialize_pem()}});
    cluster.kubectl_with(&["create", "-f", "-"], conf.to_string().as_bytes()).ok();
    let says = |status: u8| format!("printf '\\000\\000\\000\\000\\002\\010\\00{status}' > /state/health");
    let mounts = json!([{"name": "conf", "mountPath": "/conf"}, {"name": "state", "mountPath": "/state"}]);
    // A busy machine is no sick server.
    let patient = |probe: Value| {
        let mut made = json!({"periodSeconds": 1, "timeoutSeconds": 20});
        merge(&mut made, probe);
        made
    };
    let https = |path: &str| patient(json!({"httpGet": {"scheme": "HTTPS", "port": 8443, "path": path}}));
    let wait = "trap exit TERM; while :; do sleep 0.1; done";
    let side = |name: &str, script: &str, more: Value| {
        let mut made = container(name, script, more);
        merge(&mut made, json!({"volumeMounts": mounts}));
        made
    };
    let web = json!({
        "name": "web", "image": "gantry.local/nginx:1.22", "args": ["-c", "/conf/nginx.conf"], "volumeMounts": mounts,
        "livenessProbe": https("/fine"),
        "readinessProbe": patient(json!({"grpc": {"port": 9000}, "failureThreshold": 1})),
    });
    let containers =
        json!([web, side("broken", wait, json!({"readinessProbe": https("/broken")})), side("hand", wait, json!({}))]);
    let spec = json!({
        "initContainers": [side("first", &says(1), json!({}))],
        "containers": containers,
        "volumes": [{"name": "conf", "secret": {"secretName": "conf"}}, {"name": "state", "emptyDir": {}}],
    });
    create(&cluster, &[pod("server", spec)]);
    let is = |pod: &Value, name: &str, ready: bool| {
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        statuses.iter().any(|status| status["name"] == name && status["ready"] == ready && status["started"] == true)
    };
    until(&cluster, "server", "served", |pod| is(pod, "web", true) && is(pod, "broken", false));
    let sick = cluster.kubectl(&["exec", "server", "-c", "hand", "--", "sh", "-c", &says(2)]);
    assert_eq!(sick.code, 0, "{sick}");
    until(&cluster, "server", "not served", |pod| is(pod, "web", false));
    cluster.kubectl(&["exec", "server", "-c", "hand", "--", "sh", "-c", &says(1)]).ok();
    let pod = until(&cluster, "server", "served again", |pod| is(pod, "web", true));
    assert!(pod["status"]["containerStatuses"].as_array().into_iter().flatten().all(|one| one["restartCount"] == 0));
    eventually("the probes' events", PATIENCE, || {
        let events = cluster.kubectl(&["events", "--for", "pod/server"]).ok();
        let all = [
            "Readiness probe failed: HTTP probe failed with statuscode: 500",
            "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
        ];
        if all.iter().all(|line| events.contains(line)) { Ok(()) } else { Err(events) }
    });
    end(&cluster);
}

#[test]
fn a_container_starts_again_by_rules_of_its_own() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    // The sandbox's shared memory outlives a container: the second one finds what the first one left.
    let script = "test -e /dev/shm/tried && exit 7; touch /dev/shm/tried; exit 42";
    let rules = |operator: &str, values: &[u8]| {
        json!({"restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": operator, "values": values}}]})
    };
    let spec = |containers: Value| json!({"restartPolicy": "OnFailure", "containers": containers});
    let stays = container("stays", "trap exit TERM; while :; do sleep 0.1; done", json!({}));
    create(
        &cluster,
        &[
            pod("listed", spec(json!([container("c", script, rules("In", &[42])), stays]))),
            pod("others", spec(json!([container("c", script, rules("NotIn", &[7]))]))),
            pod("never", spec(json!([container("c", script, rules("In", &[1, 2]))]))),
        ],
    );
    let ended = |pod: &Value, code: u8, restarts: u8| {
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let found = statuses.iter().find(|status| status["name"] == "c").cloned().unwrap_or_default();
        found["state"]["terminated"]["exitCode"] == code && found["restartCount"] == restarts
    };
    let listed = until(&cluster, "listed", "tried twice", |pod| ended(pod, 7, 1));
    assert_eq!(listed["status"]["phase"], "Running", "the other one goes on");
    let others = until_over(&cluster, "others", "Failed");
    assert!(ended(&others, 7, 1), "{others:#}");
    let never = until_over(&cluster, "never", "Failed");
    assert!(ended(&never, 42, 0), "{never:#}");
    end(&cluster);
}

/// A pod that wants no groups but its own has them where the node says that its runtime can, and else is refused.
fn groups_are_kept_to(cluster: &Cluster, name: &str, groups: &str) {
    let node = cluster.object(&["node", "node-1"]).expect("it is there");
    let can = node["status"]["features"]["supplementalGroupsPolicy"].as_bool().expect("the node says whether it can");
    if can {
        let has = logs(cluster, name);
        let mut has: Vec<_> = has.split_whitespace().collect();
        has.sort_unstable();
        assert_eq!(has.join(" "), groups);
        return;
    }
    let pod = cluster.object(&["pod", name]).expect("it is there");
    let status = &pod["status"];
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&"Failed".into(), &"SupplementalGroupsPolicyNotSupported".into())
    );
    assert_eq!(status["message"], "Pod was rejected: SupplementalGroupsPolicy=Strict is not supported in this node");
    assert!(status["containerStatuses"].is_null(), "nothing of it was begun: {status}");
}

#[test]
fn containers_are_who_their_specs_say_and_may_do_no_more() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let namespaces = "for kind in net pid ipc; do readlink /proc/self/ns/$kind; done";
    let status = |field: &str| format!("grep {field}: /proc/self/status | tr -d '\\t'");
    let once = |name: &str, script: &str, pod_more: Value, more: Value| {
        let mut spec = json!({"restartPolicy": "Never", "containers": [container("c", script, more)]});
        merge(&mut spec, pod_more);
        pod(name, spec)
    };
    let user = json!({"securityContext": {"runAsUser": 1001, "runAsGroup": 2002, "fsGroup": 3003, "supplementalGroups": [4004]},
        "volumes": [{"name": "v", "emptyDir": {}}]});
    let mut strict = user.clone();
    strict["securityContext"]["supplementalGroupsPolicy"] = "Strict".into();
    let bare = json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        "allowPrivilegeEscalation": false, "seccompProfile": {"type": "RuntimeDefault"}, "readOnlyRootFilesystem": true}});
    let limits = json!({"resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "250m", "memory": "64Mi"}}});
    let of_pod = |name: &str| format!("cat /sys/fs/cgroup/memory/{name} /sys/fs/cgroup/{name} 2>/dev/null | head -1");
    create(
        &cluster,
        &[
            once(
                "user",
                "id -u; id -g; id -G; stat -c '%g %a' /v; touch /v/f && stat -c '%u %g' /v/f",
                user,
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            ),
            once("strict", "id -G", strict, json!({})),
            once(
                "bare",
                &format!(
                    "{}; {}; {}; touch /file 2> /dev/null || echo refused",
                    status("CapEff"),
                    status("NoNewPrivs"),
                    status("Seccomp")
                ),
                json!({}),
                bare,
            ),
            once(
                "mighty",
                &format!("{}; test -e /dev/kmsg -o -e /dev/vda && echo devices", status("Seccomp")),
                json!({}),
                json!({"securityContext": {"privileged": true}}),
            ),
            once(
                "tuned",
                "cat /proc/sys/kernel/shm_rmid_forced",
                json!({"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}}),
                json!({}),
            ),
            once("host", namespaces, json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}), json!({})),
            once(
                "own",
                &format!("{namespaces}; hostname"),
                json!({"hostname": "named", "subdomain": "sub"}),
                json!({}),
            ),
            once(
                "limited",
                &format!("{}; {}", of_pod("memory.limit_in_bytes"), of_pod("memory.max")),
                json!({}),
                limits,
            ),
            once(
                "env",
                "echo $GREETING $NODE $CPU; echo \"$RAW\"",
                json!({}),
                json!({
                "resources": {"limits": {"cpu": "1500m"}},
                "env": [{"name": "WHO", "value": "you"}, {"name": "GREETING", "value": "hello-$(WHO)"}, {"name": "RAW", "value": "$$(WHO) $(NOBODY)"},
                    {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]}),
            ),
        ],
    );
    for name in ["user", "strict", "bare", "mighty", "tuned", "host", "own", "limited", "env"] {
        until(&cluster, name, "over", |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    }
    let lines = |name: &str| logs(&cluster, name).lines().map(str::to_owned).collect::<Vec<_>>();
    let user = lines("user");
    assert_eq!(user[..2], ["1001", "2002"]);
    let groups: Vec<_> = user[2].split(' ').collect();
    assert!(["2002", "3003", "4004"].iter().all(|group| groups.contains(group)), "{groups:?}");
    assert_eq!(user[3..], ["3003 2777", "1001 3003"], "the volume is the group's");
    groups_are_kept_to(&cluster, "strict", "2002 3003 4004");
    let bare = lines("bare");
    assert_eq!(bare, ["CapEff:0000000000000400", "NoNewPrivs:1", "Seccomp:2", "refused"]);
    assert_eq!(lines("mighty"), ["Seccomp:0", "devices"]);
    assert_eq!(lines("tuned"), ["1"]);
    let own_of =
        |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).expect("it is there").display().to_string();
    let (host, own) = (lines("host"), lines("own"));
    assert_eq!(host[1..], [own_of("pid"), own_of("ipc")]);
    assert!(own[..3].iter().zip(&host).all(|(own, host)| own != host), "{own:?} {host:?}");
    assert_eq!(own[3], "named");
    assert!(lines("limited").contains(&(64u64 << 20).to_string()), "{:?}", lines("limited"));
    let limited = cluster.object(&["pod", "limited"]).expect("it is there");
    assert_eq!(limited["status"]["qosClass"], "Burstable");
    assert_eq!(lines("env"), ["hello-you node-1 2", "$(WHO) $(NOBODY)"]);
    end(&cluster);
}

/// A pod that is to be confined by AppArmor is where the kernel can, and else is refused as Kubernetes refuses it.
fn confinement_is_kept_to(cluster: &Cluster) {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if enabled.is_ok_and(|text| text.starts_with('Y')) {
        until_ready(cluster, "confined");
        return;
    }
    let pod = until_over(cluster, "confined", "Failed");
    let status = &pod["status"];
    assert_eq!(status["reason"], "AppArmor");
    let why = "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host";
    assert_eq!(status["message"], why);
    assert!(status["containerStatuses"].is_null(), "nothing of it was begun: {status}");
}

#[test]
fn a_pod_has_what_its_runtime_costs_besides_its_containers() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "costly"},
        "handler": "runc", "overhead": {"podFixed": {"memory": "32Mi", "cpu": "50m"}}});
    create(&cluster, &[class]);
    let limits = json!({"resources": {"limits": {"memory": "64Mi", "cpu": "250m"}}});
    let profile = |kind: &str| json!({"securityContext": {"appArmorProfile": {"type": kind}}});
    let sleeps = |name: &str, of_pod: Value, more: Value| {
        let mut spec = json!({"containers": [container("c", "sleep 3600", more)]});
        merge(&mut spec, of_pod);
        pod(name, spec)
    };
    create(
        &cluster,
        &[
            sleeps("costly", json!({"runtimeClassName": "costly"}), limits),
            sleeps("confined", profile("RuntimeDefault"), json!({})),
            sleeps("open", json!({}), profile("Unconfined")),
        ],
    );
    let pod = until_ready(&cluster, "costly");
    assert_eq!(pod["spec"]["overhead"], json!({"memory": "32Mi", "cpu": "50m"}));
    let uid = pod["metadata"]["uid"].as_str().expect("it has one");
    // Below the root the agent has one folder a data directory.
    let trees = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
    let limit = trees.iter().find_map(|(tree, file)| {
        let mut folders = std::fs::read_dir(format!("{tree}{}", cluster.cgroup_root())).ok()?.flatten();
        folders.find_map(|folder| std::fs::read_to_string(folder.path().join(format!("pod{uid}")).join(file)).ok())
    });
    let limit = limit.expect("the pod has a cgroup");
    assert_eq!(limit.trim(), (96 << 20).to_string(), "64Mi of the container, and 32Mi besides");
    until_ready(&cluster, "open");
    confinement_is_kept_to(&cluster);
    end(&cluster);
}

/// What containerd notes of how it runs a pod's only container.
fn runtime_options(cluster: &Cluster, pod: &Value) -> String {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("it runs");
    let id = id.rsplit('/').next().unwrap_or_default();
    let tasks = left::run_dir(cluster).expect("the agent runs").join("state/io.containerd.runtime.v2.task/k8s.io");
    std::fs::read_to_string(tasks.join(id).join("options.json")).unwrap_or_default()
}

/// Whether controllers of both versions are mounted.
fn has_two_kinds_of_cgroups() -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let kinds = |kind: &str| mounts.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    kinds("cgroup") && kinds("cgroup2")
}

/// The event that says why a pod has no sandbox.
fn why_not_run(cluster: &Cluster, name: &str) -> String {
    eventually(&format!("the event that {name} cannot be run"), PATIENCE, || {
        let events =
            cluster.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={name}")]).ok();
        if events.contains("FailedCreatePodSandBox") { Ok(events) } else { Err(events) }
    })
}

#[test]
fn a_runtime_class_says_what_runs_a_pod() {
    let Some(cluster) = Cluster::start(Options::default()) else { return };
    let class = |name: &str, handler: &str| json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": handler});
    create(&cluster, &[class("light", "crun"), class("apart", "sandboxed")]);
    let sleeps = |name: &str, class: Value| {
        let spec = json!({"runtimeClassName": class, "containers": [container("c", "sleep 3600", json!({}))]});
        pod(name, spec)
    };
    let pods = [sleeps("usual", json!(null)), sleeps("light", json!("light")), sleeps("apart", json!("apart"))];
    create(&cluster, &pods);
    let by = |name: &str| runtime_options(&cluster, &until_ready(&cluster, name));
    let usual = by("usual");
    assert!(!usual.contains("crun"), "{usual}");
    if has_two_kinds_of_cgroups() {
        // There crun is asked as well, and says in words of its own that it will not.
        let told = why_not_run(&cluster, "light");
        assert!(told.contains("cgroups in hybrid mode not supported"), "{told}");
    } else {
        let light = by("light");
        assert!(light.contains("/crun"), "{light}");
        assert_eq!(cluster.kubectl(&["exec", "light", "--", "echo", "here"]).ok().trim(), "here");
    }
    // Rather than beside the others, one that is to be kept apart does not run at all.
    let told = why_not_run(&cluster, "apart");
    assert!(told.contains("no runtime for \"sandboxed\" is configured"), "{told}");
    let pod = cluster.object(&["pod", "apart"]).expect("it is there");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    end(&cluster);
}
