//! Drivers of storage that run on this node (Container Storage Interface 1.x).
//!
//! ```text
//!   plugins_registry/*.sock ─▶ registration ─┬─▶ Drivers: name → socket
//!                                            └─▶ CSINode: what drivers call this node
//! ```
//!
//! A driver puts a socket into the folder, is asked who it is, and is known until the socket is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub mod client;
pub mod messages;
pub mod node;
pub mod registration;

pub use crate::socket::{CallError, Socket};

/// A driver that is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Its own socket.
    pub socket: Socket,
    /// What it can do on this node.
    pub capabilities: Vec<i32>,
    /// The socket in the folder that it registered with.
    pub registered_by: PathBuf,
}

impl Driver {
    /// Whether it can do something.
    pub fn can(&self, capability: i32) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// The drivers of this node, by name.
#[derive(Clone, Debug, Default)]
pub struct Drivers {
    known: Arc<Mutex<BTreeMap<String, Driver>>>,
}

impl Drivers {
    /// The driver of that name, or why there is none.
    pub fn get(&self, name: &str) -> Result<Driver, String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || format!("driver name {name} not found in the list of registered CSI drivers");
        known.get(name).cloned().ok_or_else(missing)
    }

    fn put(&self, name: String, driver: Driver) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name, driver);
    }

    /// Forgets the driver that registered with this socket; returns its name.
    fn remove(&self, registered_by: &std::path::Path) -> Option<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = known.iter().find(|(_, driver)| driver.registered_by == registered_by)?.0.clone();
        known.remove(&name);
        Some(name)
    }
}
