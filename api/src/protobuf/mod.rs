//! `application/vnd.kubernetes.protobuf`, both ways, for all built-in kinds.
//!
//! ```text
//! body ─▶ envelope ─▶ decode ─▶ Value          canonical JSON ─▶ encode ─▶ frame ─▶ answer
//! ```
//!
//! In: an envelope (`k8s\0` and a `runtime.Unknown`) or the JSON of an object. Out: the other of the two. One walker each
//! way for all kinds: what a field is on the wire is told by the schema, whose table carries the field numbers.

mod decode;
mod encode;
mod frame;
#[cfg(test)]
mod tests;

pub use decode::{Envelope, envelope, message};
pub use encode::encode;
pub use frame::{bookmark, document, list, metadata, metadata_bookmark, metadata_list, object, schema_of, watch_frame};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body cannot be read, or an object not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtobufError {
    /// It does not begin as such bodies do.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It ends in the middle of something.
    #[error("unexpected EOF")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("integer overflow")]
    Overflow,
    /// A field that is written in another way than its type is.
    #[error("wrong wireType = {0} for field {1}")]
    WireType(u8, String),
    /// Text that is not UTF-8, a time out of range, JSON that is none.
    #[error("field {0} holds no {1}")]
    Content(String, &'static str),
    /// Messages in messages in messages.
    #[error("nested too deeply")]
    Depth,
    /// An object that is not what its schema says.
    #[error("the object cannot be written as a message: {0}")]
    Object(String),
    /// A kind that has no messages.
    #[error(
        "object {0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    NoMessage(String),
}

type Result<T> = std::result::Result<T, ProtobufError>;
