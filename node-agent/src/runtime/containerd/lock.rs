//! One agent a data directory: a lock that ends with the process, however it ends.

use std::fs::File;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::runtime::instance::Instance;

/// How long an agent that is just ending is waited for.
const TAKE_TIME_MAX: Duration = Duration::from_secs(3);
/// Between tries.
const TAKE_POLL: Duration = Duration::from_millis(20);

/// Held while an agent uses a data directory, or takes it down.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub(super) async fn take(instance: &Instance) -> Result<Self, String> {
        let folder = instance.containerd_dir();
        let path = folder.join("agent.lock");
        let opened = std::fs::create_dir_all(&folder)
            .and_then(|()| File::options().create(true).truncate(false).write(true).open(&path));
        let file = opened.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        let deadline = tokio::time::Instant::now() + TAKE_TIME_MAX;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(Errno::WOULDBLOCK) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(TAKE_POLL).await;
                }
                Err(Errno::WOULDBLOCK) => {
                    return Err(format!("a node agent is running on {}", instance.data_dir.display()));
                }
                Err(error) => return Err(format!("cannot lock {}: {error}", path.display())),
            }
        }
    }
}
