//! What a list or watch may ask for, and what it is told otherwise: the rules of resourceVersion, continue, sendInitialEvents and Accept,
//! with Kubernetes' words.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Client, Server, config_map, revision};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/t/configmaps";
const NODES: &str = "/api/v1/nodes";

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

async fn started(objects: usize) -> (Server, Client) {
    let server = Server::start().await;
    let admin = server.namespace("t").await;
    for index in 0..objects {
        admin.post(CONFIG_MAPS, &config_map(&format!("c{index}"))).await.expect(201);
    }
    (server, admin)
}

fn token(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

#[tokio::test]
async fn options_that_do_not_go_together_are_refused_all_at_once() {
    let (server, admin) = started(0).await;
    const MATCH: &str = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden";
    let cases = [
        ("resourceVersionMatch=Exact", format!("{MATCH} unless resourceVersion is provided")),
        (
            "resourceVersionMatch=Exact&continue=x",
            format!("[{MATCH} unless resourceVersion is provided, {MATCH} when continue is provided]"),
        ),
        (
            "resourceVersionMatch=Newest&resourceVersion=1",
            "resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\""
                .to_owned(),
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""
                .to_owned(),
        ),
        ("sendInitialEvents=false", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list".to_owned()),
        (
            "watch=1&sendInitialEvents=true",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                .to_owned(),
        ),
        (
            "watch=1&resourceVersionMatch=NotOlderThan",
            format!("{MATCH} for watch unless sendInitialEvents is provided"),
        ),
        (
            "watch=1&sendInitialEvents=1&resourceVersionMatch=Exact&continue=x",
            format!(
                "[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to \
                 NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\", \
                 {MATCH} when continue is provided]"
            ),
        ),
    ];
    for (query, why) in cases {
        let told = admin.get(&format!("{CONFIG_MAPS}?{query}")).await.refused(422, "Invalid", &why);
        assert_eq!(told["message"], format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"), "{query}");
        assert_eq!(
            (&told["details"]["group"], &told["details"]["kind"]),
            (&json!("meta.k8s.io"), &json!("ListOptions"))
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn values_that_are_none_are_refused() {
    let (server, admin) = started(1).await;
    let parse = "strconv.ParseInt: parsing \"x\": invalid syntax";
    let version = "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    let broken = |text: &str| format!("continue={}", token(text));
    let cases = [
        ("limit=x".to_owned(), parse.to_owned()),
        ("timeoutSeconds=x".to_owned(), parse.to_owned()),
        ("watch=1&timeoutSeconds=x".to_owned(), parse.to_owned()),
        ("resourceVersion=x".to_owned(), format!("invalid resource version: {version}")),
        ("watch=1&resourceVersion=x".to_owned(), version.to_owned()),
        (
            "continue=a%2Bb".to_owned(),
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 1".to_owned(),
        ),
        (
            broken(r#"{"v":"meta.k8s.io/v1","start":"a"}"#),
            "invalid continue token: continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)".to_owned(),
        ),
        (
            broken(r#"{"v":"meta.k8s.io/v1","rv":1}"#),
            "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)".to_owned(),
        ),
        (
            broken(r#"{"v":"v2","rv":1,"start":"a"}"#),
            "invalid continue token: continue key is not valid: server does not recognize this encoded version v2".to_owned(),
        ),
        (
            broken(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets/"}"#),
            "invalid continue token: continue key is not valid: ../secrets/".to_owned(),
        ),
        (
            format!("resourceVersion=1&{}", broken(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a"}"#)),
            "specifying resource version is not allowed when using continue".to_owned(),
        ),
    ];
    for (query, why) in cases {
        admin.get(&format!("{CONFIG_MAPS}?{query}")).await.refused(400, "BadRequest", &why);
    }
    admin.get(&format!("{CONFIG_MAPS}/c0?resourceVersion=x")).await.refused(400, "BadRequest", version);
    server.stop().await;
}

#[tokio::test]
async fn fields_that_a_kind_does_not_offer_are_refused() {
    let (server, admin) = started(1).await;
    let cases = [
        (
            CONFIG_MAPS,
            "\"data.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
            "data.x",
        ),
        ("/api/v1/pods", "field label not supported: spec.what", "spec.what"),
        (NODES, "field label not supported: metadata.namespace", "metadata.namespace"),
    ];
    for (path, why, field) in cases {
        for watch in ["", "&watch=1"] {
            let answer = admin.get(&format!("{path}?fieldSelector={field}%3D1{watch}")).await;
            answer.refused(400, "BadRequest", why);
        }
    }
    // One kind has namespaces and the other does not, and both may be asked.
    let none = admin.get("/api/v1/persistentvolumes?fieldSelector=metadata.namespace%3Dx").await.expect(200);
    assert_eq!(none["items"], json!([]));
    let mismatch = format!("{CONFIG_MAPS}/c0?watch=1&fieldSelector=metadata.name%3Dother");
    admin.get(&mismatch).await.refused(400, "BadRequest", "fieldSelector metadata.name doesn't match requested name");
    server.stop().await;
}

#[tokio::test]
async fn the_future_cannot_be_read_yet() {
    let (server, admin) = started(1).await;
    let future = 1_000_000;
    for path in
        [format!("{CONFIG_MAPS}?resourceVersion={future}"), format!("{CONFIG_MAPS}/c0?resourceVersion={future}")]
    {
        let answer = admin.get(&path).await;
        assert_eq!(answer.headers.get("retry-after").unwrap(), "1", "{path}");
        let status =
            answer.refused(504, "Timeout", &format!("Timeout: Too large resource version: {future}, current: "));
        assert_eq!(
            status["details"]["causes"],
            json!([
            {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}])
        );
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
    }
    let exact = format!("{CONFIG_MAPS}?resourceVersion={future}&resourceVersionMatch=Exact");
    admin.get(&exact).await.refused(504, "Timeout", "Too large resource version");
    // A watch is open by then: it is told inside.
    let query = "watch=1&sendInitialEvents=1&resourceVersionMatch=NotOlderThan";
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?{query}&resourceVersion={future}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(504)));
    assert!(watch.next().await.is_none());
    // A plain watch from there waits for what comes after it.
    let soon = revision(&admin.get(CONFIG_MAPS).await.expect(200)) + 5;
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={soon}")).await;
    let mut last = (0, String::new());
    while last.0 <= soon {
        let made = admin.post(CONFIG_MAPS, &config_map(&format!("n{}", last.0))).await.expect(201);
        last = (revision(&made), made["metadata"]["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(watch.step().await, ("ADDED".into(), last.1));
    server.stop().await;
}

#[tokio::test]
async fn a_list_can_go_on_after_its_snapshot_as_far_as_there_is_still_something() {
    let (server, admin) = started(6).await;
    let first = admin.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["c0", "c1"], &json!(4)));
    // What such a token looks like is Kubernetes' business and ours: this one stands for the present.
    let given: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(first["metadata"]["continue"].as_str().unwrap()).unwrap())
            .unwrap();
    assert_eq!(given["v"], "meta.k8s.io/v1");
    let mut from_now = given.clone();
    from_now["rv"] = json!(-1);
    admin.post(CONFIG_MAPS, &config_map("c1-new")).await.expect(201);
    admin.delete(&format!("{CONFIG_MAPS}/c3"), &Value::Null).await.expect(200);
    let path = format!("{CONFIG_MAPS}?limit=500&continue={}", token(&from_now.to_string()));
    let rest = admin.get(&path).await.expect(200);
    assert_eq!(names(&rest), ["c1-new", "c2", "c4", "c5"], "inconsistent, and told so by its token");
    assert!(revision(&rest) > revision(&first));
    let consistent = admin.get(&format!("{CONFIG_MAPS}?continue={}", token(&given.to_string()))).await.expect(200);
    assert_eq!(names(&consistent), ["c2", "c3", "c4", "c5"]);
    server.stop().await;
}

#[tokio::test]
async fn a_watch_that_starts_with_everything_marks_the_end_of_it() {
    let (server, admin) = started(2).await;
    // Who does not say what it wants and takes bookmarks gets the mark as well.
    for query in
        ["", "&resourceVersion=0", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=1"]
    {
        let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=1{query}")).await;
        assert_eq!(watch.step().await, ("ADDED".into(), "c0".into()), "{query}");
        assert_eq!(watch.step().await, ("ADDED".into(), "c1".into()));
        let mark = watch.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(mark["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    }
    // One that asks for changes only starts at the present.
    let query = "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=1";
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    admin.post(CONFIG_MAPS, &config_map("new")).await.expect(201);
    assert_eq!(watch.step().await, ("ADDED".into(), "new".into()));
    // Without bookmarks nothing is marked.
    let mut watch = admin.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1")).await;
    for _ in 0..3 {
        assert_eq!(watch.step().await.0, "ADDED");
    }
    assert!(watch.next().await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn answers_come_in_a_form_that_the_client_takes() {
    let (server, admin) = started(1).await;
    let get = |path: &'static str, accept: &'static str| {
        let admin = admin.clone();
        async move { admin.request("GET", path, &[("accept", accept)], Body::empty()).await }
    };
    let only = "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf";
    for accept in
        ["text/html", "application/json;as=Nothing;g=meta.k8s.io;v=v1", "application/json;as=Table;g=meta.k8s.io;v=v9"]
    {
        get(CONFIG_MAPS, accept).await.refused(406, "NotAcceptable", only);
    }
    // The first that is served, by what the client values most.
    let table = get(CONFIG_MAPS, "application/json;as=Table;g=meta.k8s.io;v=v1,application/json").await.expect(200);
    assert_eq!(table["kind"], "Table");
    let plain = get(CONFIG_MAPS, "application/json;as=Nothing;g=meta.k8s.io;v=v1,application/json").await.expect(200);
    assert_eq!(plain["kind"], "ConfigMapList");
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let partial = get(CONFIG_MAPS, partial).await.expect(200);
    assert_eq!((&partial["kind"], partial["items"][0].get("data")), (&json!("PartialObjectMetadataList"), None));
    let one = get("/api/v1/namespaces/t/configmaps/c0", "application/yaml").await;
    assert_eq!((one.code, one.headers["content-type"].to_str().unwrap()), (200, "application/yaml"));
    assert!(one.text().contains("kind: ConfigMap"), "{}", one.text());
    // Streams have no YAML.
    let refused = get("/api/v1/namespaces/t/configmaps?watch=1", "application/yaml").await;
    let streams = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert!(refused.code == 406 && refused.text().contains(streams), "{}", refused.text());
    server.stop().await;
}

#[tokio::test]
async fn people_get_answers_that_they_can_read() {
    let (server, admin) = started(1).await;
    let lines = |query: &'static str, agent: &'static str| {
        let admin = admin.clone();
        async move {
            let path = format!("{CONFIG_MAPS}/c0{query}");
            let text = admin.request("GET", &path, &[("user-agent", agent)], Body::empty()).await.text();
            text.trim_end().lines().count()
        }
    };
    assert_eq!(lines("", "client-go").await, 1);
    assert!(lines("?pretty=true", "client-go").await > 5);
    assert!(lines("", "curl/8.0").await > 5);
    assert_eq!(lines("?pretty=false", "curl/8.0").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_take_it() {
    let (server, admin) = started(0).await;
    let mut large = config_map("large");
    large["data"] = json!({"text": "all work and no play ".repeat(10_000)});
    admin.post(CONFIG_MAPS, &large).await.expect(201);
    admin.post(CONFIG_MAPS, &config_map("small")).await.expect(201);
    let get = |path: String, encoding: &'static str| {
        let admin = admin.clone();
        async move { admin.request("GET", &path, &[("accept-encoding", encoding)], Body::empty()).await }
    };
    let packed = get(format!("{CONFIG_MAPS}/large"), "gzip").await;
    assert_eq!(
        (packed.headers["content-encoding"].to_str().unwrap(), packed.headers["vary"].to_str().unwrap()),
        ("gzip", "Accept-Encoding")
    );
    assert!(packed.body.len() < 10_000, "{}", packed.body.len());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["metadata"]["name"], "large");
    for (path, encoding) in [("large", "identity"), ("small", "gzip")] {
        let plain = get(format!("{CONFIG_MAPS}/{path}"), encoding).await;
        assert_eq!(plain.headers.get("content-encoding"), None, "{path} {encoding}");
    }
    server.stop().await;
}

#[tokio::test]
async fn users_of_what_is_deprecated_are_told() {
    let (server, admin) = started(0).await;
    let told = |answer: &common::Answer| -> Vec<String> {
        answer.headers.get_all("warning").iter().map(|text| text.to_str().unwrap().to_owned()).collect()
    };
    let wanted = ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""];
    let path = "/api/v1/namespaces/t/endpoints";
    assert_eq!(told(&admin.get(path).await), wanted);
    let made = admin.post(path, &json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "e"}})).await;
    assert_eq!((made.code, told(&made)), (201, wanted.map(str::to_owned).to_vec()));
    assert_eq!(told(&admin.get(CONFIG_MAPS).await), [""; 0]);
    // A pod is told when it is made, not whenever it changes.
    let mut pod = common::pod("p");
    pod["spec"]["nodeSelector"] = json!({"beta.kubernetes.io/os": "linux"});
    let made = admin.post("/api/v1/namespaces/t/pods", &pod).await;
    assert_eq!(
        told(&made),
        [
            "299 - \"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \\\"kubernetes.io/os\\\" instead\""
        ]
    );
    let labelled = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(told(&admin.patch("/api/v1/namespaces/t/pods/p", "merge-patch", &labelled).await), [""; 0]);
    server.stop().await;
}
