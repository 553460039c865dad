//! Containers: their life, their limits, their end, and what a restarted agent finds.

use std::time::Duration;

use gantry_node_agent::runtime::{ContainerState, Resources, RuntimeError, RuntimeEvent};

use crate::harness::{Node, POD_CIDR, cgroups_named, eventually, isolated};

#[test]
fn a_pod_runs_ends_and_leaves_nothing() {
    isolated("runtime::a_pod_runs_ends_and_leaves_nothing", || async {
        let node = Node::start().await;
        let runtime = &node.runtime;
        let status = runtime.status().await.unwrap();
        assert!(status.runtime.ready && status.network.ready, "{status:?}");
        assert_eq!(runtime.version().await.unwrap().name, "containerd");

        let mut events = runtime.subscribe();
        let sandbox = node.sandbox("one");
        let limits = Resources { memory_limit_bytes: Some(64 << 20), ..Default::default() };
        runtime.apply_pod_cgroup(&sandbox.cgroup_parent, &limits).await.unwrap();
        let sandbox_id = runtime.run_sandbox(&sandbox).await.unwrap();
        let config = node.container(&sandbox, "main", "echo out; echo err >&2; exit 7");
        let id = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        let record = runtime.container(&id).await.unwrap();
        assert_eq!(record.state, ContainerState::Created);
        assert_eq!(record.image, config.image, "as the spec has it");
        runtime.start_container(&id).await.unwrap();

        await_event(&mut events, &RuntimeEvent::PodChanged("uid-one".to_owned())).await;
        let pod = runtime.pod("uid-one").await.unwrap();
        assert_eq!(pod.containers[0].state, ContainerState::Exited, "no event before CRI knows");
        assert_eq!(pod.containers[0].exit_code, 7);
        assert_eq!(pod.containers[0].reason, "Error");
        assert!(pod.containers[0].finished_at >= pod.containers[0].started_at);
        assert_eq!(pod.containers[0].sandbox_id, sandbox_id);
        assert!(pod.sandboxes[0].ips[0].to_string().starts_with("10.245.7."), "{pod:?} in {POD_CIDR}");
        let log = std::fs::read_to_string(pod.containers[0].log_path.as_ref().unwrap()).unwrap();
        assert!(log.contains(" stdout F out") && log.contains(" stderr F err"), "{log}");
        assert_eq!(runtime.list().await.unwrap().len(), 1);

        for _ in 0..2 {
            runtime.stop_sandbox(&sandbox_id).await.unwrap();
            runtime.remove_container(&id).await.unwrap();
            runtime.remove_sandbox(&sandbox_id).await.unwrap();
        }
        assert!(runtime.list().await.unwrap().is_empty());
        assert_eq!(runtime.pod_cgroups(&node.cgroup_root).await.unwrap(), ["uid-one"]);
        runtime.remove_pod_cgroup(&sandbox.cgroup_parent).await.unwrap();
        runtime.remove_pod_cgroup(&sandbox.cgroup_parent).await.unwrap();
        assert!(cgroups_named(&sandbox.cgroup_parent).is_empty());
        node.stop().await;
    });
}

#[test]
fn errors_say_what_went_wrong() {
    isolated("runtime::errors_say_what_went_wrong", || async {
        let node = Node::start().await;
        let runtime = &node.runtime;
        let sandbox = node.sandbox("errors");
        let sandbox_id = runtime.run_sandbox(&sandbox).await.unwrap();

        let again = runtime.run_sandbox(&sandbox).await.unwrap_err();
        assert!(matches!(again, RuntimeError::AlreadyExists(_)), "{again:?}");

        let mut config = node.container(&sandbox, "nocommand", "");
        config.command = vec!["/no/such/command".to_owned()];
        let id = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        let error = runtime.start_container(&id).await.unwrap_err();
        assert!(matches!(error, RuntimeError::RunContainer(_)), "{error:?}");
        let record = runtime.container(&id).await.unwrap();
        assert_eq!((record.exit_code, record.reason.as_str()), (128, "StartError"));

        let mut config = node.container(&sandbox, "noimage", "true");
        config.image_ref = "gantry.local/absent:1".to_owned();
        let error = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap_err();
        assert!(matches!(error, RuntimeError::CreateContainer(_)), "{error:?}");

        assert!(matches!(runtime.container("none").await, Err(RuntimeError::NotFound(_))));
        runtime.stop_container("none", Duration::ZERO).await.unwrap();
        assert_eq!(runtime.image("gantry.local/absent:1").await.unwrap(), None);
        let error = runtime.pull_image("Not A Reference", None).await.unwrap_err();
        assert!(matches!(error, RuntimeError::InvalidImageName(_)), "{error:?}");
        let error = runtime.pull_image("127.0.0.1:1/absent:1", None).await.unwrap_err();
        assert!(matches!(error, RuntimeError::ImagePull(_)), "{error:?}");
        node.stop().await;
    });
}

#[test]
fn a_container_ends_within_its_grace_and_exec_reports_its_code() {
    isolated("runtime::a_container_ends_within_its_grace_and_exec_reports_its_code", || async {
        let node = Node::start().await;
        let runtime = &node.runtime;
        let (_, polite) = node.run_pod("polite", "trap 'exit 3' TERM; while true; do sleep 0.1; done").await;
        let (_, deaf) = node.run_pod("deaf", "trap '' TERM; while true; do sleep 0.1; done").await;

        let command = ["sh", "-c", "echo hello; echo oops >&2; exit 42"].map(str::to_owned);
        let output = runtime.exec_sync(&polite, &command, Duration::from_secs(10)).await.unwrap();
        assert_eq!((output.exit_code, output.stdout.as_slice()), (42, &b"hello\n"[..]));
        assert_eq!(output.stderr, b"oops\n");
        let slow = ["sleep", "60"].map(str::to_owned);
        let error = runtime.exec_sync(&polite, &slow, Duration::from_secs(1)).await.unwrap_err();
        assert!(matches!(error, RuntimeError::DeadlineExceeded(_)), "{error:?}");

        tokio::time::sleep(Duration::from_millis(300)).await;
        let (first, second) = tokio::join!(
            runtime.stop_container(&polite, Duration::from_secs(20)),
            runtime.stop_container(&deaf, Duration::from_secs(1)),
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(runtime.container(&polite).await.unwrap().exit_code, 3);
        assert_eq!(runtime.container(&deaf).await.unwrap().exit_code, 137);
        node.stop().await;
    });
}

#[test]
fn a_restarted_agent_adopts_what_runs() {
    isolated("runtime::a_restarted_agent_adopts_what_runs", || async {
        let node = Node::start().await;
        let (_, id) = node.run_pod("steady", "while true; do sleep 1; done").await;
        let before = node.runtime.container(&id).await.unwrap();
        let pid = node.containerd_pid();

        let node = node.restart_agent().await;
        assert_eq!(node.containerd_pid(), pid, "containerd was restarted");
        assert_eq!(node.runtime.container(&id).await.unwrap(), before);

        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut events = node.runtime.subscribe();
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
        eventually("containerd is restarted", || async { node.containerd_pid() != pid }).await;
        await_event(&mut events, &RuntimeEvent::Relist).await;
        eventually("CRI answers", || async { node.runtime.container(&id).await.is_ok() }).await;
        let after = node.runtime.container(&id).await.unwrap();
        assert_eq!(after.started_at, before.started_at, "the container was restarted");
        assert_eq!(after.state, ContainerState::Running);
        node.stop().await;
    });
}

async fn await_event(events: &mut tokio::sync::broadcast::Receiver<RuntimeEvent>, wanted: &RuntimeEvent) {
    let found = async { while events.recv().await.unwrap() != *wanted {} };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("the event comes");
}
