//! What etcd's errors mean. In: an error of the client. Out: [`Fault`], by what can be done about it.

use etcd_client::Error as ClientError;
use tonic::Code;

use crate::{Error, Source};

/// Why a request failed, as far as a client can know.
#[derive(Debug)]
pub(super) enum Fault {
    /// The revision has been compacted.
    Compacted,
    /// The revision is in the future.
    Future,
    /// The request was larger than this etcd takes.
    TooLarge,
    /// The response was larger than this client takes: ask for less.
    ResponseTooLarge(Source),
    /// etcd refused, for good; nothing happened.
    Refused(Error),
    /// etcd refused for now; nothing happened.
    Busy(Source),
    /// The connection or the server failed: a write may have happened.
    Lost(Source),
}

impl Fault {
    /// What a failed read is reported as.
    pub(super) fn of_read(self) -> Error {
        match self {
            Fault::Refused(error) => error,
            Fault::Busy(source) | Fault::Lost(source) => Error::Unavailable(source),
            Fault::ResponseTooLarge(source) => Error::Engine(source),
            // Callers that ask for a revision, or write, handle these; others never get them.
            Fault::TooLarge => Error::Engine("the request is too large".into()),
            Fault::Compacted => Error::Engine("the revision has been compacted".into()),
            Fault::Future => Error::Engine("the revision is in the future".into()),
        }
    }

    /// What a failed write is reported as.
    pub(super) fn of_write(self) -> Error {
        match self {
            Fault::Lost(source) | Fault::ResponseTooLarge(source) => Error::UnknownOutcome(source),
            other => other.of_read(),
        }
    }

    /// Whether the same read may succeed in a moment.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Fault::Busy(_) | Fault::Lost(_))
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        let ClientError::GRpcStatus(status) = &error else { return Fault::Lost(error.into()) };
        let (code, message) = (status.code(), status.message());
        let says = |text: &str| message.contains(text);
        if says("required revision has been compacted") {
            Fault::Compacted
        } else if says("required revision is a future revision") {
            Fault::Future
        } else if says("database space exceeded") {
            Fault::Refused(Error::NoSpace(error.into()))
        } else if says("request is too large") {
            Fault::TooLarge
        } else if says("received message larger than max") {
            // What etcd's gRPC server says before etcd itself has seen the request.
            Fault::TooLarge
        } else if says("message length too large") {
            Fault::ResponseTooLarge(error.into())
        } else if says("too many requests") || says("no leader") {
            // Refused before it was proposed to the cluster.
            Fault::Busy(error.into())
        } else if is_denial(code, message) {
            Fault::Refused(Error::Denied(error.into()))
        } else {
            match code {
                Code::InvalidArgument | Code::Unimplemented | Code::NotFound => Fault::Refused(Error::invalid(message)),
                Code::FailedPrecondition => Fault::Refused(Error::Engine(error.into())),
                _ => Fault::Lost(error.into()),
            }
        }
    }
}

/// Whether etcd does not let this client in. It tells a wrong password, and that it wants one, as invalid arguments.
fn is_denial(code: Code, message: &str) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
        || ["authentication failed", "user name is empty", "authentication is not enabled"]
            .iter()
            .any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        let fault = |code, message: &str| Fault::from(ClientError::GRpcStatus(tonic::Status::new(code, message)));
        let compacted = fault(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
        assert!(matches!(compacted, Fault::Compacted));
        let future = fault(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
        assert!(matches!(future, Fault::Future));
        let full = fault(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full.of_write(), Error::NoSpace(_)));
        let busy = fault(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(busy.of_write(), Error::Unavailable(_)));
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Unknown, Code::Internal, Code::Cancelled] {
            assert!(matches!(fault(code, "etcdserver: request timed out").of_write(), Error::UnknownOutcome(_)));
            assert!(fault(code, "transport error").is_passing());
            assert!(matches!(fault(code, "transport error").of_read(), Error::Unavailable(_)));
        }
        for (code, message) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
        ] {
            assert!(matches!(fault(code, message).of_write(), Error::Denied(_)), "{message}");
        }
        let large = fault(Code::InvalidArgument, "etcdserver: request is too large");
        assert!(matches!(large, Fault::TooLarge));
        let larger = fault(Code::ResourceExhausted, "grpc: received message larger than max (2097300 vs. 2097152)");
        assert!(matches!(larger, Fault::TooLarge));
        let leaderless = fault(Code::Unavailable, "etcdserver: no leader");
        assert!(matches!(leaderless.of_write(), Error::Unavailable(_)));
    }
}
