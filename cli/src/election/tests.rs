//! The actor with a lease in memory and a clock that jumps.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// What an API server does with one Lease.
#[derive(Default)]
struct FakeApi {
    lease: Mutex<Option<Value>>,
    version: Mutex<u64>,
    events: Mutex<Vec<String>>,
}

impl FakeApi {
    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> (u16, Value) {
        let refusal = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}),
            )
        };
        if path.ends_with("/events") {
            let event: Value = serde_json::from_slice(body).unwrap();
            self.events.lock().unwrap().push(event["message"].as_str().unwrap().to_owned());
            return (201, event);
        }
        let mut lease = self.lease.lock().unwrap();
        let mut version = self.version.lock().unwrap();
        if *method == Method::GET {
            return lease.clone().map_or_else(|| refusal(404, "NotFound"), |lease| (200, lease));
        }
        let mut object: Value = serde_json::from_slice(body).unwrap();
        let taken = match (method, &*lease) {
            (&Method::POST, Some(_)) => Some(refusal(409, "AlreadyExists")),
            (&Method::PUT, Some(there))
                if there["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] =>
            {
                Some(refusal(409, "Conflict"))
            }
            (&Method::PUT, None) => Some(refusal(404, "NotFound")),
            _ => None,
        };
        if let Some(refusal) = taken {
            return refusal;
        }
        *version += 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        *lease = Some(object.clone());
        (200, object)
    }

    /// A client that reaches it while `reachable`; otherwise requests hang.
    fn client(self: &Arc<Self>, reachable: &Arc<AtomicBool>) -> Client {
        let (api, reachable) = (Arc::clone(self), Arc::clone(reachable));
        let service = tower::service_fn(move |request: Request<Body>| {
            let (api, reachable) = (Arc::clone(&api), Arc::clone(&reachable));
            async move {
                if !reachable.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (code, answer) = api.answer(&parts.method, parts.uri.path(), &body);
                Ok::<_, kube::Error>(
                    Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).unwrap(),
                )
            }
        });
        Client::new(service, "default")
    }
}

/// One process: its work notes when it begins and ends.
struct Process {
    shutdown: CancellationToken,
    reachable: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<Result<()>>,
}

type Log = Arc<Mutex<Vec<(&'static str, &'static str, Duration)>>>;

struct Note(Log, &'static str, Instant);

impl Note {
    fn begin(log: &Log, name: &'static str, start: Instant) -> Self {
        log.lock().unwrap().push((name, "begins", start.elapsed()));
        Note(log.clone(), name, start)
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.0.lock().unwrap().push((self.1, "ends", self.2.elapsed()));
    }
}

fn process(api: &Arc<FakeApi>, name: &'static str, log: &Log, start: Instant, obedient: bool) -> Process {
    let (shutdown, reachable) = (CancellationToken::new(), Arc::new(AtomicBool::new(true)));
    let candidate = Candidate {
        lease: "kube-scheduler",
        identity: name.to_owned(),
        timing: Timing {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        },
        client: api.client(&reachable),
        metrics: Metrics::new(&mut Registry::default()),
        standing_by: Arc::new(|_| {}),
    };
    let (token, log) = (shutdown.clone(), log.clone());
    let running = tokio::spawn(async move {
        run(candidate, token, |_client, stop| {
            let log = log.clone();
            async move {
                let _note = Note::begin(&log, name, start);
                stop.cancelled().await;
                if !obedient {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        })
        .await
    });
    Process { shutdown, reachable, running }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn names(log: &Log) -> Vec<String> {
    log.lock().unwrap().iter().map(|(name, what, _)| format!("{name} {what}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_clean_shutdown_hands_over_at_once() {
    let (api, log, start) = (Arc::new(FakeApi::default()), Log::default(), Instant::now());
    let a = process(&api, "a", &log, start, true);
    pass(1).await;
    let b = process(&api, "b", &log, start, true);
    pass(60).await;
    assert_eq!(names(&log), ["a begins"], "a renews, b stands by");
    a.shutdown.cancel();
    a.running.await.unwrap().unwrap();
    assert_eq!(api.lease.lock().unwrap().as_ref().unwrap()["spec"]["holderIdentity"], "");
    pass(3).await;
    assert_eq!(names(&log), ["a begins", "a ends", "b begins"]);
    let lease = api.lease.lock().unwrap().clone().unwrap();
    assert_eq!((&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]), (&json!("b"), &json!(1)));
    b.shutdown.cancel();
    b.running.await.unwrap().unwrap();
    let events = api.events.lock().unwrap().clone();
    assert_eq!(events, ["a became leader", "a stopped leading", "b became leader", "b stopped leading"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_the_next_begins_even_if_its_work_does_not_end() {
    for obedient in [true, false] {
        let (api, log, start) = (Arc::new(FakeApi::default()), Log::default(), Instant::now());
        let a = process(&api, "a", &log, start, obedient);
        pass(1).await;
        let b = process(&api, "b", &log, start, true);
        pass(20).await;
        a.reachable.store(false, Ordering::Relaxed);
        pass(40).await;
        assert_eq!(names(&log), ["a begins", "a ends", "b begins"], "obedient: {obedient}");
        let gap = {
            let log = log.lock().unwrap();
            log[2].2 - log[1].2
        };
        assert!(gap > Duration::ZERO, "{gap:?}");
        // Back again, it stands by and takes over when the other goes.
        a.reachable.store(true, Ordering::Relaxed);
        pass(30).await;
        b.shutdown.cancel();
        b.running.await.unwrap().unwrap();
        pass(3).await;
        assert_eq!(names(&log)[3..], ["b ends", "a begins"]);
        a.running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_within_the_lease_and_its_own_restart_at_once() {
    let (api, log, start) = (Arc::new(FakeApi::default()), Log::default(), Instant::now());
    let a = process(&api, "a", &log, start, true);
    pass(10).await;
    a.running.abort();
    let again = process(&api, "a", &log, start, true);
    pass(1).await;
    assert_eq!(names(&log), ["a begins", "a ends", "a begins"], "the same candidate does not wait for itself");
    let b = process(&api, "b", &log, start, true);
    pass(10).await;
    again.running.abort();
    pass(20).await;
    assert_eq!(names(&log)[3..], ["a ends", "b begins"]);
    b.running.abort();
}
