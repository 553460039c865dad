//! gRPC statuses of containerd in the agent's own words.
//!
//! containerd gives much the code `Unknown` and says the rest in its message, so a few
//! messages have to be recognised; what is not recognised keeps its text.

use tonic::{Code, Status};

use crate::runtime::RuntimeError;

/// What was asked when the status came, where the same code means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// Pulling an image.
    Pull,
    /// Asking for or removing an image.
    Image,
    /// Creating a container.
    Create,
    /// Starting a container.
    Start,
    /// All else.
    Other,
}

/// Translates a status.
pub(super) fn translate(call: Call, status: &Status) -> RuntimeError {
    let message = text(status);
    if is_unavailable(status) {
        return RuntimeError::Unavailable(message);
    }
    if is_invalid_reference(status.code(), &message) && matches!(call, Call::Pull | Call::Image) {
        return RuntimeError::InvalidImageName(message);
    }
    if message.contains("is reserved for") {
        return RuntimeError::AlreadyExists(message);
    }
    match (call, status.code()) {
        (_, Code::DeadlineExceeded | Code::Cancelled) => RuntimeError::DeadlineExceeded(message),
        (_, Code::Unimplemented) => RuntimeError::Unsupported(message),
        (Call::Pull, Code::NotFound) => RuntimeError::ImageNotFound(message),
        (Call::Pull, _) => RuntimeError::ImagePull(message),
        (Call::Create, Code::AlreadyExists) => RuntimeError::AlreadyExists(message),
        (Call::Create, _) => RuntimeError::CreateContainer(message),
        (Call::Start, _) => RuntimeError::RunContainer(message),
        // The call's own deadline, met by containerd while it waited for something else.
        (Call::Other, Code::Unknown) if message.contains("context deadline exceeded") => {
            RuntimeError::DeadlineExceeded(message)
        }
        (_, Code::NotFound) => RuntimeError::NotFound(message),
        (_, Code::AlreadyExists) => RuntimeError::AlreadyExists(message),
        _ => RuntimeError::Failed(message),
    }
}

/// True if containerd is away or has not started its CRI service yet.
pub(super) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || status.message().contains("server is not initialized yet")
        || (status.code() == Code::Unimplemented && status.message().contains("unknown service runtime.v1"))
        || (status.code() == Code::Unknown && status.message().contains("transport error"))
}

fn is_invalid_reference(code: Code, message: &str) -> bool {
    code == Code::InvalidArgument
        || message.contains("invalid reference format")
        || message.contains("failed to parse image reference")
}

/// The status's message, or its code's name if it has none.
fn text(status: &Status) -> String {
    if status.message().is_empty() { status.code().description().to_owned() } else { status.message().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_containerd_are_told_apart() {
        let cases = [
            (Call::Other, Code::Unknown, "server is not initialized yet", "Unavailable"),
            (Call::Other, Code::Unavailable, "connection refused", "Unavailable"),
            (Call::Pull, Code::NotFound, "manifest unknown", "ImageNotFound"),
            (Call::Pull, Code::Unknown, "dial tcp: i/o timeout", "ImagePull"),
            (Call::Pull, Code::Unknown, "invalid reference format", "InvalidImageName"),
            (Call::Create, Code::Unknown, "no such device", "CreateContainer"),
            (Call::Create, Code::NotFound, "image not found", "CreateContainer"),
            (Call::Start, Code::Unknown, "exec: \"x\": not found", "RunContainer"),
            (Call::Other, Code::NotFound, "no such container", "NotFound"),
            (
                Call::Other,
                Code::Unknown,
                "failed to reserve sandbox name: name \"a\" is reserved for \"b\"",
                "AlreadyExists",
            ),
            (Call::Other, Code::DeadlineExceeded, "", "DeadlineExceeded"),
            (Call::Other, Code::Unknown, "failed to kill: context deadline exceeded: unknown", "DeadlineExceeded"),
            (Call::Other, Code::Unimplemented, "no such method", "Unsupported"),
        ];
        for (call, code, message, expected) in cases {
            let error = translate(call, &Status::new(code, message));
            assert!(format!("{error:?}").starts_with(expected), "{error:?} is not {expected}");
            assert!(!error.to_string().is_empty());
        }
    }
}
