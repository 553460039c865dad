//! Pods, and the templates of what makes pods.

use std::fmt::Write as _;

use serde_json::Value;

use super::text::{Text, items, show, time};

/// A pod's own part.
pub fn pod(text: &mut Text, object: &Value) {
    let (meta, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
    text.pair(0, "Priority", spec["priority"].as_i64().unwrap_or(0).to_string());
    text.pair(0, "Service Account", show(&spec["serviceAccountName"]));
    match spec["nodeName"].as_str() {
        Some(node) => text.pair(0, "Node", format!("{node}/{}", status["hostIP"].as_str().unwrap_or_default())),
        None => text.pair(0, "Node", "<none>"),
    }
    if !status["startTime"].is_null() {
        text.pair(0, "Start Time", time(&status["startTime"]));
    }
    text.labels(meta);
    match meta["deletionTimestamp"].as_str() {
        Some(_) => {
            text.pair(0, "Status", format!("Terminating (since {})", time(&meta["deletionTimestamp"])));
            text.pair(0, "Termination Grace Period", format!("{}s", show(&meta["deletionGracePeriodSeconds"])));
        }
        None => text.pair(0, "Status", show(&status["phase"])),
    }
    for (key, field) in [("Reason", "reason"), ("Message", "message")] {
        if let Some(value) = status[field].as_str().filter(|value| !value.is_empty()) {
            text.pair(0, key, value);
        }
    }
    text.pair(0, "IP", status["podIP"].as_str().unwrap_or_default());
    let addresses = items(status, "podIPs");
    text.line(0, if addresses.is_empty() { "IPs:\t<none>" } else { "IPs:" });
    for address in addresses {
        text.pair(1, "IP", show(&address["ip"]));
    }
    if let Some(owner) = items(meta, "ownerReferences").iter().find(|owner| owner["controller"] == true) {
        text.pair(0, "Controlled By", format!("{}/{}", show(&owner["kind"]), show(&owner["name"])));
    }
    for (heading, specs, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ] {
        containers(text, 0, heading, items(spec, specs), Some(items(status, statuses)));
    }
    let conditions = items(status, "conditions");
    if !conditions.is_empty() {
        text.line(0, "Conditions:");
        text.line(1, "Type\tStatus");
        for condition in conditions {
            text.line(1, format!("{}\t{} ", show(&condition["type"]), show(&condition["status"])));
        }
    }
    volumes(text, 0, items(spec, "volumes"));
    text.pair(0, "QoS Class", show(&status["qosClass"]));
    placement(text, 0, spec);
}

/// The template of a workload.
pub fn template(text: &mut Text, template: &Value) {
    text.line(0, "Pod Template:");
    text.map(1, "Labels", &template["metadata"]["labels"], "=");
    if template["metadata"]["annotations"].is_object() {
        text.map(1, "Annotations", &template["metadata"]["annotations"], ": ");
    }
    let spec = &template["spec"];
    if let Some(account) = spec["serviceAccountName"].as_str() {
        text.pair(1, "Service Account", account);
    }
    for (heading, field) in [("Init Containers", "initContainers"), ("Containers", "containers")] {
        containers(text, 1, heading, items(spec, field), None);
    }
    volumes(text, 1, items(spec, "volumes"));
    placement(text, 1, spec);
}

fn placement(text: &mut Text, level: usize, spec: &Value) {
    text.map(level, "Node-Selectors", &spec["nodeSelector"], "=");
    let tolerations: Vec<String> = items(spec, "tolerations").iter().map(toleration).collect();
    text.list(level, "Tolerations", &tolerations);
}

fn toleration(toleration: &Value) -> String {
    let mut out = toleration["key"].as_str().unwrap_or_default().to_owned();
    if let Some(value) = toleration["value"].as_str().filter(|value| !value.is_empty()) {
        let _ = write!(out, "={value}");
    }
    if let Some(effect) = toleration["effect"].as_str().filter(|effect| !effect.is_empty()) {
        let _ = write!(out, ":{effect}");
    }
    if toleration["operator"] == "Exists" {
        out.push_str(if out.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
        let _ = write!(out, " for {seconds}s");
    }
    out
}

/// Containers under a heading; `statuses` only for those of a pod.
fn containers(text: &mut Text, level: usize, heading: &str, specs: &[Value], statuses: Option<&[Value]>) {
    if specs.is_empty() {
        return;
    }
    text.line(level, format!("{heading}:"));
    for spec in specs {
        text.line(level + 1, format!("{}:", show(&spec["name"])));
        let status =
            statuses.map(|all| all.iter().find(|status| status["name"] == spec["name"]).unwrap_or(&Value::Null));
        container(text, level + 2, spec, status);
    }
}

fn container(text: &mut Text, level: usize, spec: &Value, status: Option<&Value>) {
    if let Some(status) = status {
        text.pair(level, "Container ID", status["containerID"].as_str().unwrap_or_default());
    }
    text.pair(level, "Image", show(&spec["image"]));
    if let Some(status) = status {
        text.pair(level, "Image ID", status["imageID"].as_str().unwrap_or_default());
    }
    let ports = |number: &str| {
        let all: Vec<String> = items(spec, "ports")
            .iter()
            .map(|port| {
                format!("{}/{}", port[number].as_i64().unwrap_or(0), port["protocol"].as_str().unwrap_or("TCP"))
            })
            .collect();
        if all.is_empty() { "<none>".to_owned() } else { all.join(", ") }
    };
    let many = if items(spec, "ports").len() > 1 { "s" } else { "" };
    text.pair(level, &format!("Port{many}"), ports("containerPort"));
    text.pair(level, &format!("Host Port{many}"), ports("hostPort"));
    for (heading, field) in [("Command", "command"), ("Args", "args")] {
        let words = items(spec, field);
        if !words.is_empty() {
            text.line(level, format!("{heading}:"));
            for line in words.iter().flat_map(|word| show(word).lines().map(str::to_owned).collect::<Vec<_>>()) {
                text.line(level + 1, line.replace('\t', " "));
            }
        }
    }
    if let Some(status) = status {
        for (heading, field) in [("State", "state"), ("Last State", "lastState")] {
            state(text, level, heading, &status[field]);
        }
        text.pair(level, "Ready", if status["ready"] == true { "True" } else { "False" });
        text.pair(level, "Restart Count", status["restartCount"].as_i64().unwrap_or(0).to_string());
    }
    for (heading, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let amounts = spec["resources"][field].as_object().filter(|amounts| !amounts.is_empty());
        if let Some(amounts) = amounts {
            text.line(level, format!("{heading}:"));
            for (resource, amount) in amounts {
                text.pair(level + 1, resource, show(amount));
            }
        }
    }
    for (heading, field) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if spec[field].is_object() {
            text.pair(level, heading, probe(&spec[field]));
        }
    }
    environment(text, level, spec);
    let mounts = items(spec, "volumeMounts");
    text.line(level, if mounts.is_empty() { "Mounts:\t<none>" } else { "Mounts:" });
    for mount in mounts {
        let mode = if mount["readOnly"] == true { "ro" } else { "rw" };
        let path = mount["subPath"].as_str().map(|path| format!(",path=\"{path}\"")).unwrap_or_default();
        text.line(level + 1, format!("{} from {} ({mode}{path})", show(&mount["mountPath"]), show(&mount["name"])));
    }
}

fn state(text: &mut Text, level: usize, heading: &str, state: &Value) {
    let Some((name, detail)) = state.as_object().and_then(|states| states.iter().next()) else {
        if heading == "State" {
            text.pair(level, heading, "Waiting");
        }
        return;
    };
    let name = match name.as_str() {
        "running" => "Running",
        "terminated" => "Terminated",
        _ => "Waiting",
    };
    text.pair(level, heading, name);
    for (label, key) in [("Reason", "reason"), ("Message", "message"), ("Exit Code", "exitCode"), ("Signal", "signal")]
    {
        if !detail[key].is_null() && detail[key] != "" {
            text.pair(level + 1, label, show(&detail[key]));
        }
    }
    for (label, key) in [("Started", "startedAt"), ("Finished", "finishedAt")] {
        if !detail[key].is_null() {
            text.pair(level + 1, label, time(&detail[key]));
        }
    }
}

fn probe(probe: &Value) -> String {
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let what = if let Some(exec) = probe["exec"].as_object() {
        let words: Vec<String> =
            exec.get("command").and_then(Value::as_array).into_iter().flatten().map(show).collect();
        format!("exec [{}]", words.join(" "))
    } else if probe["httpGet"].is_object() {
        let get = &probe["httpGet"];
        let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        format!(
            "http-get {scheme}://{}:{}{}",
            get["host"].as_str().unwrap_or_default(),
            show(&get["port"]),
            get["path"].as_str().unwrap_or("/")
        )
    } else if probe["tcpSocket"].is_object() {
        format!(
            "tcp-socket {}:{}",
            probe["tcpSocket"]["host"].as_str().unwrap_or_default(),
            show(&probe["tcpSocket"]["port"])
        )
    } else if probe["grpc"].is_object() {
        format!("grpc <pod>:{}", show(&probe["grpc"]["port"]))
    } else {
        "unknown".to_owned()
    };
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 1),
        number("periodSeconds", 10),
        number("successThreshold", 1),
        number("failureThreshold", 3)
    )
}

fn environment(text: &mut Text, level: usize, spec: &Value) {
    let sources = items(spec, "envFrom");
    if !sources.is_empty() {
        text.line(level, "Environment Variables from:");
        for source in sources {
            let (kind, from) = if source["configMapRef"].is_object() {
                ("ConfigMap", &source["configMapRef"])
            } else {
                ("Secret", &source["secretRef"])
            };
            text.line(level + 1, format!("{}\t{kind}  Optional: {}", show(&from["name"]), from["optional"] == true));
        }
    }
    let variables = items(spec, "env");
    text.line(level, if variables.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in variables {
        let from = &variable["valueFrom"];
        let optional = |from: &Value| format!("Optional: {}", from["optional"] == true);
        let value = if from["fieldRef"].is_object() {
            format!(
                " ({}:{})",
                from["fieldRef"]["apiVersion"].as_str().unwrap_or("v1"),
                show(&from["fieldRef"]["fieldPath"])
            )
        } else if from["resourceFieldRef"].is_object() {
            show(&from["resourceFieldRef"]["resource"])
        } else if from["secretKeyRef"].is_object() {
            let key = &from["secretKeyRef"];
            format!("<set to the key '{}' in secret '{}'>  {}", show(&key["key"]), show(&key["name"]), optional(key))
        } else if from["configMapKeyRef"].is_object() {
            let key = &from["configMapKeyRef"];
            format!(
                "<set to the key '{}' of config map '{}'>  {}",
                show(&key["key"]),
                show(&key["name"]),
                optional(key)
            )
        } else {
            variable["value"].as_str().unwrap_or_default().to_owned()
        };
        text.pair(level + 1, &show(&variable["name"]), value);
    }
}

fn volumes(text: &mut Text, level: usize, volumes: &[Value]) {
    if volumes.is_empty() {
        text.line(level, "Volumes:\t<none>");
        return;
    }
    text.line(level, "Volumes:");
    for volume in volumes {
        text.line(level + 1, format!("{}:", show(&volume["name"])));
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        let Some((kind, source)) = source else { continue };
        let level = level + 2;
        let optional = |text: &mut Text| text.pair(level, "Optional", (source["optional"] == true).to_string());
        match kind.as_str() {
            "emptyDir" => {
                text.pair(level, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
                text.pair(level, "Medium", source["medium"].as_str().unwrap_or_default());
                text.pair(level, "SizeLimit", source["sizeLimit"].as_str().unwrap_or("<unset>"));
            }
            "hostPath" => {
                text.pair(level, "Type", "HostPath (bare host directory volume)");
                text.pair(level, "Path", show(&source["path"]));
                text.pair(level, "HostPathType", source["type"].as_str().unwrap_or_default());
            }
            "configMap" => {
                text.pair(level, "Type", "ConfigMap (a volume populated by a ConfigMap)");
                text.pair(level, "Name", show(&source["name"]));
                optional(text);
            }
            "secret" => {
                text.pair(level, "Type", "Secret (a volume populated by a Secret)");
                text.pair(level, "SecretName", show(&source["secretName"]));
                optional(text);
            }
            "downwardAPI" => {
                text.pair(level, "Type", "DownwardAPI (a volume populated by information about the pod)");
                text.line(level, "Items:");
                for item in items(source, "items") {
                    text.line(
                        level + 1,
                        format!("{} -> {}", show(&item["fieldRef"]["fieldPath"]), show(&item["path"])),
                    );
                }
            }
            "projected" => projected(text, level, items(source, "sources")),
            other => text.pair(level, "Type", other),
        }
    }
}

fn projected(text: &mut Text, level: usize, sources: &[Value]) {
    text.pair(level, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for source in sources {
        let part = |kind: &str| Some(&source[kind]).filter(|part| part.is_object());
        if let Some(token) = part("serviceAccountToken") {
            text.pair(
                level,
                "TokenExpirationSeconds",
                token["expirationSeconds"].as_i64().unwrap_or(3_600).to_string(),
            );
        }
        for (kind, key) in [("secret", "SecretName"), ("configMap", "ConfigMapName")] {
            if let Some(part) = part(kind) {
                text.pair(level, key, show(&part["name"]));
                text.pair(level, "Optional", (part["optional"] == true).to_string());
            }
        }
        if part("downwardAPI").is_some() {
            text.pair(level, "DownwardAPI", "true");
        }
    }
}
