//! What the state asks others to do, what it is told of how that went, and what it says of a pod that waits.

use std::sync::Arc;
use std::time::Duration;

use super::super::volumes::Choice;
use super::{Clearing, Pending, Victim};
use crate::core::PodKey;

/// A repeated failure with the same message is told again by an event after this long.
const EVENT_REPEAT: Duration = Duration::from_secs(60);

/// The reason of the condition of a pod that no node takes.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// The reason of the condition of a pod whose binding failed.
pub const SCHEDULER_ERROR: &str = "SchedulerError";
/// The reason of the condition of a pod with scheduling gates.
pub const SCHEDULING_GATED: &str = "SchedulingGated";
pub(super) const GATED_MESSAGE: &str = "Scheduling is blocked due to non-empty scheduling gates";

/// Which pod an action is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// The UID as a number.
    pub key: PodKey,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion` as last seen.
    pub resource_version: String,
    /// `metadata.generation` as last seen.
    pub generation: Option<i64>,
    /// The scheduler name that the pod asked for.
    pub scheduler_name: String,
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind the pod to the node, and tell how it went with [`State::bound`].
    Bind {
        /// The pod.
        pod: PodRef,
        /// The node's name.
        node: Arc<str>,
        /// The devices that the pod is to have there, if which ones matters.
        devices: Vec<u16>,
        /// How many attempts it took.
        attempts: u32,
        /// When the pod was first seen.
        first_seen: Duration,
    },
    /// Write into the pod's status.
    Status {
        /// The pod.
        pod: PodRef,
        /// Reason and message of the `PodScheduled` condition, status `False`; `None` leaves it.
        condition: Option<(&'static str, String)>,
        /// The node that it is to wait for, or that it is to wait for none; `None` leaves that.
        nominated: Option<Option<Arc<str>>>,
    },
    /// Write which volumes the pod gets on this node, and tell how it went with [`State::provided`].
    Provide {
        /// The pod.
        pod: PodRef,
        /// The node's name.
        node: Arc<str>,
        /// What is to be written.
        choice: Choice,
    },
    /// Make these pods go, and tell how it went with [`State::preempted`].
    Preempt {
        /// The pod that they make room for.
        pod: PodRef,
        /// The node's name.
        node: Arc<str>,
        /// Those that have to go.
        victims: Vec<Victim>,
    },
    /// Evict these pods, so that others take their place elsewhere, and tell how it went with [`State::preempted`].
    Move(Clearing),
    /// Record a `FailedScheduling` event.
    FailedEvent {
        /// The pod.
        pod: PodRef,
        /// The event's note.
        message: String,
    },
}

/// How a binding went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindOutcome {
    /// The API server has it. The watch will confirm.
    Bound,
    /// The pod is gone or going, or another one has its name.
    Gone,
    /// The pod is bound to another node.
    Elsewhere(String),
    /// It was refused for good, with this message; the pod is not bound.
    Refused(String),
}

/// The result of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A node was found, the binding is under way.
    Assumed,
    /// No node takes the pod.
    Unschedulable,
}

impl Pending {
    /// What to write into the pod's status, if that is not there yet.
    pub(super) fn report(
        &mut self,
        reason: &'static str,
        message: &str,
        nominated: Option<Option<Arc<str>>>,
    ) -> Option<Action> {
        let same = |(old_reason, old): &(String, String)| old_reason == reason && old == message;
        let told = self.reported.as_ref().is_some_and(same);
        if told && nominated.is_none() {
            return None;
        }
        self.reported = Some((reason.to_owned(), message.to_owned()));
        let condition = (!told).then(|| (reason, message.to_owned()));
        Some(Action::Status { pod: self.pod.clone(), condition, nominated })
    }

    pub(super) fn event(&mut self, message: String, now: Duration) -> Option<Action> {
        let recent = |(at, last): &(Duration, String)| *last == message && now < *at + EVENT_REPEAT;
        if self.last_event.as_ref().is_some_and(recent) {
            return None;
        }
        self.last_event = Some((now, message.clone()));
        Some(Action::FailedEvent { pod: self.pod.clone(), message })
    }
}
