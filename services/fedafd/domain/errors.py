"""Errors that know themselves: a stable code, a public text, whether a retry may help, and their data.

`docs/errors.md` lists the codes; `ERROR_STATUS` is the one table that maps each to HTTP and gRPC.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

__all__ = [
    "ERROR_STATUS",
    "AlreadyEnrolledError",
    "ArtifactCorruptError",
    "ArtifactNotFoundError",
    "BundleError",
    "ConcurrentChangeError",
    "ConfigurationError",
    "ConflictError",
    "DataError",
    "DatabaseUnavailableError",
    "FedafdError",
    "ForbiddenError",
    "IdempotencyConflictError",
    "IdentityInUseError",
    "IdentityProviderUnavailableError",
    "IllegalTransitionError",
    "InvalidRequestError",
    "MethodNotAllowedError",
    "NotFoundError",
    "ProofStaleError",
    "PublicSetError",
    "PublicSetMismatchError",
    "QueriesUnavailableError",
    "RangeNotSatisfiableError",
    "RepresentationError",
    "RequestTimeoutError",
    "RequestTooLargeError",
    "RoundClosedError",
    "SchemaError",
    "StageLostError",
    "StateUnusableError",
    "Status",
    "StorageError",
    "StorageFullError",
    "StorageUnavailableError",
    "TicketsUnavailableError",
    "TooManyRequestsError",
    "UnauthenticatedError",
    "UploadError",
    "UploadIncompleteError",
    "VersionRemovedError",
]


class Status(NamedTuple):
    """How an error looks on each border: HTTP status and the name of the gRPC status code."""

    http: int
    grpc: str


class FedafdError(Exception):
    """Base of every error that may reach a user.

    `code` is stable and documented; `str(error)` says what was wrong, where, and what to do;
    `retryable` tells whether the same call may succeed later; `data` holds the particulars.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **data: Any) -> None:
        super().__init__(message)
        self.data = data


class InvalidRequestError(FedafdError):
    """A request's field is missing, malformed or out of range."""

    code = "invalid-request"


class MethodNotAllowedError(FedafdError):
    """The path exists, but not with this method."""

    code = "method-not-allowed"


class RequestTooLargeError(FedafdError):
    """The body is longer than this path takes."""

    code = "request-too-large"


class RequestTimeoutError(FedafdError):
    """The request did not arrive in time."""

    code = "request-timeout"
    retryable = True


class TooManyRequestsError(FedafdError):
    """Too many of one caller or address at once: wrong keys, requests, event streams, calls, or deliveries."""

    code = "too-many-requests"
    retryable = True


class RangeNotSatisfiableError(FedafdError):
    """`Range` asks for no part of the file: it lies outside, or is none."""

    code = "range-not-satisfiable"


class ConfigurationError(FedafdError):
    """A configuration key or value is not allowed; the message lists each with its path and what is allowed."""

    code = "invalid-configuration"


class StateUnusableError(ConfigurationError):
    """A site's saved state is damaged, or was made for something else than its data or configuration now are."""

    code = "state-unusable"


class DataError(FedafdError):
    """A data set is unreadable, empty or malformed; the message names the file and the place in it."""

    code = "invalid-data"


class PublicSetError(DataError):
    """A public set cannot be read: it is nobody's private data that are at fault."""

    code = "public-set-unusable"


class BundleError(DataError):
    """A global encoder cannot be loaded from its bundle."""

    code = "bundle-unusable"


class UnauthenticatedError(FedafdError):
    """No credential, an unknown one, a revoked one, or a used-up token."""

    code = "unauthenticated"


class ProofStaleError(FedafdError):
    """The proof of a client's key was made at another time, or was used before; the next one may be good."""

    code = "proof-stale"
    retryable = True


class ForbiddenError(FedafdError):
    """The credential is good, but not for this."""

    code = "forbidden"


class NotFoundError(FedafdError):
    """The named thing does not exist."""

    code = "not-found"


class ConflictError(FedafdError):
    """The request does not fit the present state, such as a name that is taken."""

    code = "conflict"


class ConcurrentChangeError(ConflictError):
    """Another request changed the same thing at the same moment; repeating it shows how things stand."""

    code = "concurrent-change"
    retryable = True


class IdempotencyConflictError(ConflictError):
    """An Idempotency-Key was used before with another request."""

    code = "idempotency-conflict"


class TicketsUnavailableError(ConflictError):
    """The object store gives no download tickets; fetch the archive instead."""

    code = "tickets-unavailable"


class QueriesUnavailableError(ConflictError):
    """No query worker is running, or none answers in time; the message says what to start."""

    code = "queries-unavailable"


class VersionRemovedError(ConflictError):
    """Retention let go what is asked for of a model version: its server state, or its folder."""

    code = "version-removed"


class AlreadyEnrolledError(ConflictError):
    """The enrolment token was used before."""

    code = "already-enrolled"


class IdentityInUseError(ConflictError):
    """Another agent with the same client's credential is alive: one of the two state folders is a copy."""

    code = "identity-in-use"


class IllegalTransitionError(ConflictError):
    """A state may not follow another."""

    code = "illegal-transition"

    def __init__(self, *, old: str, new: str) -> None:
        super().__init__(f"a transition from {old} to {new} is not allowed", old=old, new=new)


class RoundClosedError(ConflictError):
    """The round no longer takes part in what was asked."""

    code = "round-closed"


class StageLostError(ConflictError):
    """Another distiller holds the stage, or it is settled: drop the work."""

    code = "stage-lost"


class PublicSetMismatchError(FedafdError):
    """The representations are of another public set than the round's."""

    code = "public-set-mismatch"


class RepresentationError(FedafdError):
    """Uploaded representations have a wrong name, dtype, shape or value."""

    code = "invalid-representations"


class UploadError(FedafdError):
    """A chunk or manifest does not fit what was announced."""

    code = "invalid-upload"


class UploadIncompleteError(UploadError):
    """Chunks or named parts of an upload are missing or damaged in the store: begin it again, and send them."""

    code = "upload-incomplete"


class ArtifactNotFoundError(NotFoundError):
    """No artifact of that hash or key."""

    code = "artifact-not-found"


class ArtifactCorruptError(FedafdError):
    """Stored or received bytes do not have the announced hash."""

    code = "artifact-corrupt"
    retryable = True


class SchemaError(FedafdError):
    """The database's schema is not the one that this program works on, or cannot be made so."""

    code = "schema"


class DatabaseUnavailableError(FedafdError):
    """The database cannot be reached."""

    code = "database-unavailable"
    retryable = True


class IdentityProviderUnavailableError(FedafdError):
    """The identity provider, which knows the people who log in, cannot be reached or makes no sense."""

    code = "identity-provider-unavailable"
    retryable = True


class StorageError(FedafdError):
    """The object store refused or failed."""

    code = "storage"


class StorageFullError(StorageError):
    """The object store has no space left; the same call may succeed once somebody frees some."""

    code = "storage-full"
    retryable = True


class StorageUnavailableError(StorageError):
    """The object store cannot be reached."""

    code = "storage-unavailable"
    retryable = True


ERROR_STATUS: dict[type[FedafdError], Status] = {
    FedafdError: Status(500, "INTERNAL"),
    InvalidRequestError: Status(422, "INVALID_ARGUMENT"),
    MethodNotAllowedError: Status(405, "UNIMPLEMENTED"),
    RequestTooLargeError: Status(413, "RESOURCE_EXHAUSTED"),
    RequestTimeoutError: Status(408, "DEADLINE_EXCEEDED"),
    TooManyRequestsError: Status(429, "RESOURCE_EXHAUSTED"),
    RangeNotSatisfiableError: Status(416, "OUT_OF_RANGE"),
    ConfigurationError: Status(422, "INVALID_ARGUMENT"),
    StateUnusableError: Status(422, "INVALID_ARGUMENT"),
    DataError: Status(422, "INVALID_ARGUMENT"),
    PublicSetError: Status(422, "INVALID_ARGUMENT"),
    BundleError: Status(422, "INVALID_ARGUMENT"),
    UnauthenticatedError: Status(401, "UNAUTHENTICATED"),
    ProofStaleError: Status(401, "UNAUTHENTICATED"),
    ForbiddenError: Status(403, "PERMISSION_DENIED"),
    NotFoundError: Status(404, "NOT_FOUND"),
    ConflictError: Status(409, "FAILED_PRECONDITION"),
    ConcurrentChangeError: Status(409, "ABORTED"),
    IdempotencyConflictError: Status(409, "FAILED_PRECONDITION"),
    TicketsUnavailableError: Status(409, "FAILED_PRECONDITION"),
    QueriesUnavailableError: Status(409, "FAILED_PRECONDITION"),
    VersionRemovedError: Status(409, "FAILED_PRECONDITION"),
    AlreadyEnrolledError: Status(409, "ALREADY_EXISTS"),
    IdentityInUseError: Status(409, "FAILED_PRECONDITION"),
    IllegalTransitionError: Status(409, "FAILED_PRECONDITION"),
    RoundClosedError: Status(409, "FAILED_PRECONDITION"),
    StageLostError: Status(409, "ABORTED"),
    PublicSetMismatchError: Status(422, "INVALID_ARGUMENT"),
    RepresentationError: Status(422, "INVALID_ARGUMENT"),
    UploadError: Status(422, "INVALID_ARGUMENT"),
    UploadIncompleteError: Status(409, "FAILED_PRECONDITION"),
    ArtifactNotFoundError: Status(404, "NOT_FOUND"),
    ArtifactCorruptError: Status(502, "DATA_LOSS"),
    SchemaError: Status(503, "FAILED_PRECONDITION"),
    DatabaseUnavailableError: Status(503, "UNAVAILABLE"),
    IdentityProviderUnavailableError: Status(503, "UNAVAILABLE"),
    StorageError: Status(502, "INTERNAL"),
    StorageFullError: Status(507, "RESOURCE_EXHAUSTED"),
    StorageUnavailableError: Status(503, "UNAVAILABLE"),
}
