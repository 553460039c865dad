//! Network namespaces for a test: one for each member of a cluster, and a hub in which the test's own thread runs, all
//! on one bridge. Nothing of the machine's own network is touched.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The namespaces; removed when dropped.
pub struct Net {
    name: String,
    members: usize,
}

thread_local! {
    /// The hub that this thread is in.
    static HUB: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

impl Net {
    /// Runs a test in a hub of its own, with a runtime whose threads are all in it. False, with a word about it, where the
    /// rights for that are missing.
    pub fn inside(test: impl Future<Output = ()> + Send + 'static) -> bool {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gst{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        if !rustix::process::geteuid().is_root() || !ip(&["netns", "add", &format!("{name}-hub")]) {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no network namespaces, and CI must not skip tests");
            eprintln!("SKIPPED: this test makes network namespaces and needs root for it");
            return false;
        }
        let guard = Hub(name.clone());
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::open(format!("/run/netns/{name}-hub")).unwrap();
            rustix::thread::move_into_link_name_space(file.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network))
                .unwrap();
            let inside = name.clone();
            HUB.with(|hub| *hub.borrow_mut() = Some(inside.clone()));
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .on_thread_start(move || HUB.with(|hub| *hub.borrow_mut() = Some(inside.clone())))
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(test);
        });
        let result = thread.join();
        drop(guard);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
        true
    }

    /// Namespaces for so many members, on the bridge of the hub that this thread is in.
    pub fn inside_with(members: usize) -> Self {
        let name = HUB.with(|hub| hub.borrow().clone()).expect("run inside Net::inside");
        let net = Net { name, members };
        let hub = format!("{}-hub", net.name);
        must(&["-n", &hub, "link", "set", "lo", "up"]);
        must(&["-n", &hub, "link", "add", "bridge0", "type", "bridge"]);
        must(&["-n", &hub, "addr", "add", "10.0.0.254/24", "dev", "bridge0"]);
        must(&["-n", &hub, "link", "set", "bridge0", "up"]);
        for i in 0..members {
            let (own, port) = (net.namespace(i), format!("port{i}"));
            must(&["netns", "add", &own]);
            must(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &own]);
            must(&["-n", &hub, "link", "set", &port, "master", "bridge0"]);
            must(&["-n", &hub, "link", "set", &port, "up"]);
            must(&["-n", &own, "addr", "add", &format!("{}/24", net.address(i)), "dev", "eth0"]);
            must(&["-n", &own, "link", "set", "lo", "up"]);
            must(&["-n", &own, "link", "set", "eth0", "up"]);
        }
        net
    }

    fn namespace(&self, i: usize) -> String {
        format!("{}-{i}", self.name)
    }

    /// A member's address.
    pub fn address(&self, i: usize) -> String {
        format!("10.0.0.{}", i + 1)
    }

    /// A command that runs at a member.
    pub fn command(&self, i: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(i)]).arg(program);
        command
    }

    /// Cuts a member off from everybody, or ends that.
    pub fn isolate(&self, i: usize, cut: bool) {
        must(&["-n", &self.namespace(i), "link", "set", "eth0", if cut { "down" } else { "up" }]);
    }

    /// Cuts a member off from the other members, but not from clients, or ends that.
    pub fn cut_from_peers(&self, i: usize, cut: bool) {
        for peer in (0..self.members).filter(|peer| *peer != i) {
            let verb = if cut { "add" } else { "del" };
            must(&["-n", &self.namespace(i), "route", verb, "blackhole", &format!("{}/32", self.address(peer))]);
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for i in 0..self.members {
            ip(&["netns", "del", &self.namespace(i)]);
        }
    }
}

struct Hub(String);

impl Drop for Hub {
    fn drop(&mut self) {
        ip(&["netns", "del", &format!("{}-hub", self.0)]);
    }
}

fn ip(args: &[&str]) -> bool {
    let done = Command::new("ip").args(args).stdin(Stdio::null()).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

fn must(args: &[&str]) {
    assert!(ip(args), "ip {} failed", args.join(" "));
}
