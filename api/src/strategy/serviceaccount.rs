//! ServiceAccount: a kind whose schema says it all.

use super::Strategy;

/// ServiceAccount.
pub struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {}
