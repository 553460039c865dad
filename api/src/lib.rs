//! The object model of Gantry: kinds, schemas, defaulting, pruning, validation, merging, selection, printing and
//! wire codecs.
//!
//! Everything here is pure: no I/O, no clock, no randomness, no async. Time, identity and unique names come in
//! through [`engine::Context`]; bytes come in and go out. An object is a JSON document governed by a
//! [`schema::SchemaRef`]; a kind is a row of facts ([`kinds::Resource`]) plus a small [`strategy::Strategy`] for what a
//! schema cannot say.
//!
//! ```text
//! bytes ─▶ engine::decode ─▶ engine::prepare_create / prepare_update ─▶ codec::encode ─▶ bytes
//!                 ▲                      ▲
//!          schema (prune,          patch, apply (merge)
//!          default, validate)
//! ```

pub mod apply;
pub mod cel;
pub mod codec;
pub mod custom;
pub mod discovery;
pub mod engine;
pub mod error;
pub mod kinds;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod policy;
pub mod protobuf;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod storage;
pub mod strategy;
pub mod table;
pub mod texts;

pub use error::{ApiError, Cause, FieldError, Reason};
