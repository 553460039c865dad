//! The Node object: registration, capacity, conditions, lease.
