//! The placement engine: pure, deterministic, no I/O, no clock, no Kubernetes client types.
//!
//! In go nodes, the pods that sit on them, and the *classes* of pods that want a place. Out comes,
//! for a class, the best node ([`Engine::place`]) or, per node, why not ([`Engine::explain`]).
//!
//! How the cost of a decision is kept independent of the number of nodes:
//!
//! * pods that are the same to the scheduler are one [`ClassSpec`], interned to a [`ClassId`];
//! * nodes are rows of plain numbers, two lines of cache each, addressed by a slot number;
//! * what changes slowly (taints, labels, names) is compiled for a class once, through bitsets;
//! * what changes with every placement (resources, ports) is kept per class in an index ordered
//!   by (score, node name); every change of a node goes into one log, and a class that has to
//!   decide reads just the part of the log that it has not seen;
//! * what pods ask of each other is counted per selector and place as pods come and go, and a
//!   class's nodes are grouped by what the counts depend on.
//!
//! Each rule is one file in [`rules`]. [`oracle`] says the same again in plain loops over plain
//! structures, and a property test holds the engine against it.

pub mod bitset;
mod changelog;
mod class;
mod constraints;
mod counters;
pub mod devices;
mod engine;
pub mod expected;
pub mod explain;
mod fragments;
mod index;
mod labels;
mod maps;
mod moves;
mod nodes;
mod nominations;
pub mod oracle;
mod order;
mod preemption;
mod residents;
pub mod resources;
pub mod rules;
pub mod score;
mod selector;
pub mod spec;
mod survey;
mod topology;
mod tournament;

pub use class::ClassId;
pub use devices::{DEVICES_MAX, DeviceDemand, WHOLE};
pub use engine::{Engine, NodeChange, PodChange, PodKey, PodMap, PodRemoval, Standing};
pub use explain::{Diagnosis, Explanation, Preemption, Reason};
pub use moves::{Leaver, LeavingSet};
pub use nodes::{NodeId, Nodes};
pub use nominations::Ask;
pub use preemption::{Away, Budget, Budgets, Victims};
pub use resources::{Demand, PodDemand, ResourceId, Resources};
pub use rules::{Plugin, PluginSet};
pub use spec::{
    AffinityTerm, Attachment, ClassSpec, HostPort, NodeSpec, PodAffinity, PodSelector, PreferredTerm, Protocol,
    Requirement, Scoring, Spread, SpreadMode, Strategy, Taint, Term, Toleration, VolumeNeed, VolumeNeedKind,
    WeightedAffinityTerm,
};
pub use survey::Opinion;
