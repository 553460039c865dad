//! Holds the machine's shutdown up, where systemd-logind is in charge of it, until the pods have had their time.
//!
//! The lock that is taken delays a shutdown for as long as it is held, and at most as long as logind's configuration says.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::dbus::{Bus, Message};
use super::{Ask, lines};

/// The system's bus.
pub const BUS: &str = "/run/dbus/system_bus_socket";
/// After a connection broke.
const RETRY: Duration = Duration::from_secs(1);

const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SIGNAL: &str = "PrepareForShutdown";

/// Asks for a shutdown of the pods whenever logind announces one of the machine. `needed` is how long the pods want.
pub async fn follow(bus: PathBuf, needed: Duration, asks: mpsc::Sender<Ask>) {
    if !bus.exists() {
        info!("there is no system bus: a shutdown of the machine has to be announced by `gantry node shutdown`");
        return std::future::pending().await;
    }
    let mut failing = false;
    loop {
        if let Err(error) = session(&bus, needed, &asks, &mut failing).await {
            if !failing {
                warn!(%error, "cannot follow the machine's shutdown; `gantry node shutdown` announces one");
            }
            failing = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn session(bus: &Path, needed: Duration, asks: &mpsc::Sender<Ask>, failing: &mut bool) -> io::Result<()> {
    let mut bus = Bus::connect(bus).await?;
    let dbus =
        |member: &str| Message::call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member);
    let rule = format!("type='signal',sender='{SERVICE}',path='{OBJECT}',interface='{MANAGER}',member='{SIGNAL}'");
    bus.ask(dbus("AddMatch").with(&[&rule])).await?;
    let property = Message::call(SERVICE, OBJECT, "org.freedesktop.DBus.Properties", "Get");
    let most = bus.ask(property.with(&[MANAGER, "InhibitDelayMaxUSec"])).await?.number()?;
    if Duration::from_micros(most) < needed {
        warn!(
            allowed_s = most / 1_000_000,
            needed_s = needed.as_secs(),
            "logind does not wait as long as the pods may take; set InhibitDelayMaxSec in its configuration"
        );
    }
    let mut lock = Some(inhibit(&mut bus).await?);
    *failing = false;
    info!("the machine's shutdown waits for the pods");
    loop {
        let signal = bus.signal().await?;
        if signal.member != SIGNAL || signal.interface != MANAGER {
            continue;
        }
        let (sender, mut receiver) = lines();
        if signal.boolean()? {
            if asks.send(Ask::Begin(sender)).await.is_err() {
                return Ok(());
            }
            while receiver.recv().await.is_some() {}
            // The machine may go now.
            lock = None;
        } else {
            if asks.send(Ask::Cancel(sender)).await.is_err() {
                return Ok(());
            }
            if lock.is_none() {
                lock = Some(inhibit(&mut bus).await?);
            }
        }
    }
}

async fn inhibit(bus: &mut Bus) -> io::Result<std::os::fd::OwnedFd> {
    let call = Message::call(SERVICE, OBJECT, MANAGER, "Inhibit");
    bus.ask(call.with(&["shutdown", "gantry", "The pods of this node are given time to end", "delay"])).await?;
    bus.descriptor()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A bus of its own, and a service on it that does what logind does.
    struct Logind {
        daemon: Child,
        path: PathBuf,
        bus: Bus,
        _dir: tempfile::TempDir,
    }

    impl Drop for Logind {
        fn drop(&mut self) {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }

    impl Logind {
        async fn start() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("bus");
            let config = dir.path().join("bus.conf");
            let text = format!(
                "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
                 <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy></busconfig>",
                path.display()
            );
            std::fs::write(&config, text).unwrap();
            let mut command = Command::new("dbus-daemon");
            command.arg("--nofork").arg("--print-address").arg(format!("--config-file={}", config.display()));
            let Ok(mut daemon) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
                assert!(std::env::var_os("CI").is_none(), "this test needs dbus-daemon (Debian: dbus-daemon)");
                eprintln!("skipped: this test needs dbus-daemon (Debian: dbus-daemon)");
                return None;
            };
            let mut address = String::new();
            BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
            let mut bus = Bus::connect(&path).await.unwrap();
            let mut own =
                Message::call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName");
            own = own.with(&[SERVICE]);
            own.signature = "su".into();
            own.body.resize(own.body.len().next_multiple_of(4), 0);
            own.body.extend(0u32.to_le_bytes());
            bus.ask(own).await.unwrap();
            Some(Self { daemon, path, bus, _dir: dir })
        }

        fn answer(call: &Message) -> Message {
            let mut answer = Message::call(&call.sender, "", "", "");
            answer.kind = super::super::dbus::Kind::Return;
            answer.reply_to = call.serial;
            answer
        }

        async fn tell_delay(&mut self) {
            let call = self.bus.called().await.unwrap();
            assert_eq!(call.member, "Get");
            let mut answer = Self::answer(&call);
            answer.signature = "v".into();
            answer.body = [&[1, b't', 0, 0, 0, 0, 0, 0][..], &5_000_000u64.to_le_bytes()].concat();
            self.bus.send(answer).await.unwrap();
        }

        /// Gives a lock; what it returns ends when the lock is given back.
        async fn lock(&mut self) -> std::io::PipeReader {
            let call = self.bus.called().await.unwrap();
            assert_eq!((call.member.as_str(), call.signature.as_str()), ("Inhibit", "ssss"));
            let (reader, writer) = std::io::pipe().unwrap();
            let mut answer = Self::answer(&call);
            answer.signature = "h".into();
            answer.body = 0u32.to_le_bytes().to_vec();
            self.bus.send_with(answer, writer.as_fd()).await.unwrap();
            reader
        }

        async fn announce(&mut self, begins: bool) {
            let mut signal = Message::call("", OBJECT, MANAGER, SIGNAL);
            signal.kind = super::super::dbus::Kind::Signal;
            signal.signature = "b".into();
            signal.body = u32::from(begins).to_le_bytes().to_vec();
            self.bus.send(signal).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_the_pods_and_may_be_called_off() {
        let all = tokio::time::timeout(Duration::from_secs(60), all());
        all.await.expect("it does not come to a standstill");
    }

    async fn all() {
        let Some(mut logind) = Logind::start().await else { return };
        let (asks, mut asked) = mpsc::channel(1);
        let following = tokio::spawn(follow(logind.path.clone(), Duration::from_secs(30), asks));
        logind.tell_delay().await;
        let lock = logind.lock().await;
        logind.announce(true).await;
        let Some(Ask::Begin(pods)) = asked.recv().await else { panic!("the pods are to end") };
        let held = tokio::task::spawn_blocking(move || {
            let mut lock = lock;
            lock.read(&mut [0]).unwrap()
        });
        tokio::task::yield_now().await;
        assert!(!held.is_finished(), "the machine waits while the pods end");
        drop(pods);
        assert_eq!(held.await.unwrap(), 0, "and no longer");
        logind.announce(false).await;
        assert!(matches!(asked.recv().await, Some(Ask::Cancel(_))));
        let _lock = logind.lock().await;
        following.abort();
    }
}
