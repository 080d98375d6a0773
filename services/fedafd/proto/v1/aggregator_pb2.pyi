import datetime

from fedafd.proto.v1 import privacy_pb2 as _privacy_pb2
from fedafd.proto.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientActivity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLIENT_ACTIVITY_UNSPECIFIED: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_DOWNLOADING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_READING_DATA: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_TRAINING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_CALIBRATING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_REPRESENTING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_EVALUATING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_UPLOADING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_COLLECTING: _ClassVar[ClientActivity]
    CLIENT_ACTIVITY_WAITING_FOR_DISK: _ClassVar[ClientActivity]

class UploadPurpose(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPLOAD_PURPOSE_UNSPECIFIED: _ClassVar[UploadPurpose]
    UPLOAD_PURPOSE_REPRESENTATIONS: _ClassVar[UploadPurpose]
    UPLOAD_PURPOSE_PERSONALIZED_MODEL: _ClassVar[UploadPurpose]
    UPLOAD_PURPOSE_WEIGHTS: _ClassVar[UploadPurpose]
    UPLOAD_PURPOSE_MERGED_STATES: _ClassVar[UploadPurpose]

class LeaveReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEAVE_REASON_UNSPECIFIED: _ClassVar[LeaveReason]
    LEAVE_REASON_DATA_UNUSABLE: _ClassVar[LeaveReason]
    LEAVE_REASON_CONFIGURATION_UNSUITABLE: _ClassVar[LeaveReason]
    LEAVE_REASON_WEIGHTS_NOT_SHARED: _ClassVar[LeaveReason]
    LEAVE_REASON_STATE_UNUSABLE: _ClassVar[LeaveReason]
    LEAVE_REASON_DEVICE_UNAVAILABLE: _ClassVar[LeaveReason]
    LEAVE_REASON_OUT_OF_MEMORY: _ClassVar[LeaveReason]
    LEAVE_REASON_DISK_FULL: _ClassVar[LeaveReason]
    LEAVE_REASON_DISK_FAILED: _ClassVar[LeaveReason]
    LEAVE_REASON_TRAINING_DIVERGED: _ClassVar[LeaveReason]
    LEAVE_REASON_DOWNLOAD_CORRUPT: _ClassVar[LeaveReason]
    LEAVE_REASON_TASK_NOT_UNDERSTOOD: _ClassVar[LeaveReason]
    LEAVE_REASON_UNEXPECTED: _ClassVar[LeaveReason]
    LEAVE_REASON_REGION_ROUND_FAILED: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_ENCODER: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_EFFORT: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_VALUES: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_PUBLIC_SET: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_HOURS: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_ROUNDS: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_APPROVAL: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_DOWNLOAD: _ClassVar[LeaveReason]
    LEAVE_REASON_POLICY_PRETRAINED: _ClassVar[LeaveReason]
    LEAVE_REASON_PUBLIC_SET_UNUSABLE: _ClassVar[LeaveReason]
    LEAVE_REASON_BUNDLE_UNUSABLE: _ClassVar[LeaveReason]
CLIENT_ACTIVITY_UNSPECIFIED: ClientActivity
CLIENT_ACTIVITY_DOWNLOADING: ClientActivity
CLIENT_ACTIVITY_READING_DATA: ClientActivity
CLIENT_ACTIVITY_TRAINING: ClientActivity
CLIENT_ACTIVITY_CALIBRATING: ClientActivity
CLIENT_ACTIVITY_REPRESENTING: ClientActivity
CLIENT_ACTIVITY_EVALUATING: ClientActivity
CLIENT_ACTIVITY_UPLOADING: ClientActivity
CLIENT_ACTIVITY_COLLECTING: ClientActivity
CLIENT_ACTIVITY_WAITING_FOR_DISK: ClientActivity
UPLOAD_PURPOSE_UNSPECIFIED: UploadPurpose
UPLOAD_PURPOSE_REPRESENTATIONS: UploadPurpose
UPLOAD_PURPOSE_PERSONALIZED_MODEL: UploadPurpose
UPLOAD_PURPOSE_WEIGHTS: UploadPurpose
UPLOAD_PURPOSE_MERGED_STATES: UploadPurpose
LEAVE_REASON_UNSPECIFIED: LeaveReason
LEAVE_REASON_DATA_UNUSABLE: LeaveReason
LEAVE_REASON_CONFIGURATION_UNSUITABLE: LeaveReason
LEAVE_REASON_WEIGHTS_NOT_SHARED: LeaveReason
LEAVE_REASON_STATE_UNUSABLE: LeaveReason
LEAVE_REASON_DEVICE_UNAVAILABLE: LeaveReason
LEAVE_REASON_OUT_OF_MEMORY: LeaveReason
LEAVE_REASON_DISK_FULL: LeaveReason
LEAVE_REASON_DISK_FAILED: LeaveReason
LEAVE_REASON_TRAINING_DIVERGED: LeaveReason
LEAVE_REASON_DOWNLOAD_CORRUPT: LeaveReason
LEAVE_REASON_TASK_NOT_UNDERSTOOD: LeaveReason
LEAVE_REASON_UNEXPECTED: LeaveReason
LEAVE_REASON_REGION_ROUND_FAILED: LeaveReason
LEAVE_REASON_POLICY_ENCODER: LeaveReason
LEAVE_REASON_POLICY_EFFORT: LeaveReason
LEAVE_REASON_POLICY_VALUES: LeaveReason
LEAVE_REASON_POLICY_PUBLIC_SET: LeaveReason
LEAVE_REASON_POLICY_HOURS: LeaveReason
LEAVE_REASON_POLICY_ROUNDS: LeaveReason
LEAVE_REASON_POLICY_APPROVAL: LeaveReason
LEAVE_REASON_POLICY_DOWNLOAD: LeaveReason
LEAVE_REASON_POLICY_PRETRAINED: LeaveReason
LEAVE_REASON_PUBLIC_SET_UNUSABLE: LeaveReason
LEAVE_REASON_BUNDLE_UNUSABLE: LeaveReason

class EnrollRequest(_message.Message):
    __slots__ = ("token", "kind", "software", "nonce", "certificate_request")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    token: str
    kind: _types_pb2.ClientKind
    software: SoftwareVersion
    nonce: bytes
    certificate_request: bytes
    def __init__(self, token: _Optional[str] = ..., kind: _Optional[_Union[_types_pb2.ClientKind, str]] = ..., software: _Optional[_Union[SoftwareVersion, _Mapping]] = ..., nonce: _Optional[bytes] = ..., certificate_request: _Optional[bytes] = ...) -> None: ...

class SoftwareVersion(_message.Message):
    __slots__ = ("major", "minor", "patch")
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    PATCH_FIELD_NUMBER: _ClassVar[int]
    major: int
    minor: int
    patch: int
    def __init__(self, major: _Optional[int] = ..., minor: _Optional[int] = ..., patch: _Optional[int] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("federation_id", "client_id", "client_name", "credential", "certificate", "authority")
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_NAME_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    federation_id: str
    client_id: str
    client_name: str
    credential: str
    certificate: bytes
    authority: bytes
    def __init__(self, federation_id: _Optional[str] = ..., client_id: _Optional[str] = ..., client_name: _Optional[str] = ..., credential: _Optional[str] = ..., certificate: _Optional[bytes] = ..., authority: _Optional[bytes] = ...) -> None: ...

class RenewCertificateRequest(_message.Message):
    __slots__ = ("certificate_request",)
    CERTIFICATE_REQUEST_FIELD_NUMBER: _ClassVar[int]
    certificate_request: bytes
    def __init__(self, certificate_request: _Optional[bytes] = ...) -> None: ...

class RenewCertificateResponse(_message.Message):
    __slots__ = ("certificate", "authority")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    authority: bytes
    def __init__(self, certificate: _Optional[bytes] = ..., authority: _Optional[bytes] = ...) -> None: ...

class FetchTaskRequest(_message.Message):
    __slots__ = ("wait", "known_revision")
    WAIT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_REVISION_FIELD_NUMBER: _ClassVar[int]
    wait: _duration_pb2.Duration
    known_revision: int
    def __init__(self, wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., known_revision: _Optional[int] = ...) -> None: ...

class FetchTaskResponse(_message.Message):
    __slots__ = ("revision", "idle", "train", "other_agent_refused_at")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    IDLE_FIELD_NUMBER: _ClassVar[int]
    TRAIN_FIELD_NUMBER: _ClassVar[int]
    OTHER_AGENT_REFUSED_AT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    idle: IdleTask
    train: TrainTask
    other_agent_refused_at: _timestamp_pb2.Timestamp
    def __init__(self, revision: _Optional[int] = ..., idle: _Optional[_Union[IdleTask, _Mapping]] = ..., train: _Optional[_Union[TrainTask, _Mapping]] = ..., other_agent_refused_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class IdleTask(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class TrainTask(_message.Message):
    __slots__ = ("round_id", "round_number", "federation_config_json", "seed", "public_set_sha256", "public_set", "global_representations", "encoder_bundles", "deadline", "accepts_personalized_model", "traceparent", "averaged_weights", "takes_model_in_parts")
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_NUMBER_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SET_SHA256_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SET_FIELD_NUMBER: _ClassVar[int]
    GLOBAL_REPRESENTATIONS_FIELD_NUMBER: _ClassVar[int]
    ENCODER_BUNDLES_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_PERSONALIZED_MODEL_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    AVERAGED_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TAKES_MODEL_IN_PARTS_FIELD_NUMBER: _ClassVar[int]
    round_id: str
    round_number: int
    federation_config_json: str
    seed: int
    public_set_sha256: str
    public_set: _containers.RepeatedCompositeFieldContainer[_types_pb2.Artifact]
    global_representations: _types_pb2.Artifact
    encoder_bundles: _containers.RepeatedCompositeFieldContainer[_types_pb2.Artifact]
    deadline: _timestamp_pb2.Timestamp
    accepts_personalized_model: bool
    traceparent: str
    averaged_weights: _containers.RepeatedCompositeFieldContainer[_types_pb2.Artifact]
    takes_model_in_parts: bool
    def __init__(self, round_id: _Optional[str] = ..., round_number: _Optional[int] = ..., federation_config_json: _Optional[str] = ..., seed: _Optional[int] = ..., public_set_sha256: _Optional[str] = ..., public_set: _Optional[_Iterable[_Union[_types_pb2.Artifact, _Mapping]]] = ..., global_representations: _Optional[_Union[_types_pb2.Artifact, _Mapping]] = ..., encoder_bundles: _Optional[_Iterable[_Union[_types_pb2.Artifact, _Mapping]]] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., accepts_personalized_model: _Optional[bool] = ..., traceparent: _Optional[str] = ..., averaged_weights: _Optional[_Iterable[_Union[_types_pb2.Artifact, _Mapping]]] = ..., takes_model_in_parts: _Optional[bool] = ...) -> None: ...

class ReportProgressRequest(_message.Message):
    __slots__ = ("round_id", "fraction", "doing", "step", "steps", "alive_only", "work_done")
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    DOING_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    ALIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WORK_DONE_FIELD_NUMBER: _ClassVar[int]
    round_id: str
    fraction: float
    doing: ClientActivity
    step: int
    steps: int
    alive_only: bool
    work_done: int
    def __init__(self, round_id: _Optional[str] = ..., fraction: _Optional[float] = ..., doing: _Optional[_Union[ClientActivity, str]] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., alive_only: _Optional[bool] = ..., work_done: _Optional[int] = ...) -> None: ...

class ReportProgressResponse(_message.Message):
    __slots__ = ("keep_going",)
    KEEP_GOING_FIELD_NUMBER: _ClassVar[int]
    keep_going: bool
    def __init__(self, keep_going: _Optional[bool] = ...) -> None: ...

class BeginUploadRequest(_message.Message):
    __slots__ = ("round_id", "upload_purpose", "sha256", "size_bytes", "chunk_size_bytes", "chunk_sha256", "direct")
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_PURPOSE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNK_SHA256_FIELD_NUMBER: _ClassVar[int]
    DIRECT_FIELD_NUMBER: _ClassVar[int]
    round_id: str
    upload_purpose: UploadPurpose
    sha256: str
    size_bytes: int
    chunk_size_bytes: int
    chunk_sha256: _containers.RepeatedScalarFieldContainer[str]
    direct: bool
    def __init__(self, round_id: _Optional[str] = ..., upload_purpose: _Optional[_Union[UploadPurpose, str]] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., chunk_size_bytes: _Optional[int] = ..., chunk_sha256: _Optional[_Iterable[str]] = ..., direct: _Optional[bool] = ...) -> None: ...

class BeginUploadResponse(_message.Message):
    __slots__ = ("upload_id", "missing_chunks", "forms")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    MISSING_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    FORMS_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    missing_chunks: _containers.RepeatedScalarFieldContainer[int]
    forms: _containers.RepeatedCompositeFieldContainer[StoreForm]
    def __init__(self, upload_id: _Optional[str] = ..., missing_chunks: _Optional[_Iterable[int]] = ..., forms: _Optional[_Iterable[_Union[StoreForm, _Mapping]]] = ...) -> None: ...

class StoreForm(_message.Message):
    __slots__ = ("url", "fields", "offset_bytes", "length_bytes")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    URL_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    url: str
    fields: _containers.ScalarMap[str, str]
    offset_bytes: int
    length_bytes: int
    def __init__(self, url: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ..., offset_bytes: _Optional[int] = ..., length_bytes: _Optional[int] = ...) -> None: ...

class UploadChunksRequest(_message.Message):
    __slots__ = ("upload_id", "index", "data")
    UPLOAD_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    upload_id: str
    index: int
    data: bytes
    def __init__(self, upload_id: _Optional[str] = ..., index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class UploadChunksResponse(_message.Message):
    __slots__ = ("accepted_chunks",)
    ACCEPTED_CHUNKS_FIELD_NUMBER: _ClassVar[int]
    accepted_chunks: int
    def __init__(self, accepted_chunks: _Optional[int] = ...) -> None: ...

class CommitUploadRequest(_message.Message):
    __slots__ = ("round_id", "upload_ids", "metrics", "num_private_samples", "model_bytes")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_IDS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    NUM_PRIVATE_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    round_id: str
    upload_ids: _containers.RepeatedScalarFieldContainer[str]
    metrics: _containers.ScalarMap[str, float]
    num_private_samples: int
    model_bytes: int
    def __init__(self, round_id: _Optional[str] = ..., upload_ids: _Optional[_Iterable[str]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., num_private_samples: _Optional[int] = ..., model_bytes: _Optional[int] = ...) -> None: ...

class CommitUploadResponse(_message.Message):
    __slots__ = ("receipt", "accepted", "rejection_reason", "settled_at")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTION_REASON_FIELD_NUMBER: _ClassVar[int]
    SETTLED_AT_FIELD_NUMBER: _ClassVar[int]
    receipt: str
    accepted: bool
    rejection_reason: str
    settled_at: _timestamp_pb2.Timestamp
    def __init__(self, receipt: _Optional[str] = ..., accepted: _Optional[bool] = ..., rejection_reason: _Optional[str] = ..., settled_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class DownloadArtifactRequest(_message.Message):
    __slots__ = ("sha256", "offset_bytes", "damaged", "ranges")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    RANGES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    offset_bytes: int
    damaged: bool
    ranges: _containers.RepeatedCompositeFieldContainer[ByteRange]
    def __init__(self, sha256: _Optional[str] = ..., offset_bytes: _Optional[int] = ..., damaged: _Optional[bool] = ..., ranges: _Optional[_Iterable[_Union[ByteRange, _Mapping]]] = ...) -> None: ...

class ByteRange(_message.Message):
    __slots__ = ("offset_bytes", "length_bytes")
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset_bytes: int
    length_bytes: int
    def __init__(self, offset_bytes: _Optional[int] = ..., length_bytes: _Optional[int] = ...) -> None: ...

class DescribeArtifactRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class DescribeArtifactResponse(_message.Message):
    __slots__ = ("block_bytes", "digests")
    BLOCK_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    block_bytes: int
    digests: bytes
    def __init__(self, block_bytes: _Optional[int] = ..., digests: _Optional[bytes] = ...) -> None: ...

class DownloadArtifactResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class LeaveRoundRequest(_message.Message):
    __slots__ = ("round_id", "leave_reason", "num_affected")
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    LEAVE_REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_AFFECTED_FIELD_NUMBER: _ClassVar[int]
    round_id: str
    leave_reason: LeaveReason
    num_affected: int
    def __init__(self, round_id: _Optional[str] = ..., leave_reason: _Optional[_Union[LeaveReason, str]] = ..., num_affected: _Optional[int] = ...) -> None: ...

class LeaveRoundResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndSessionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EndSessionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
