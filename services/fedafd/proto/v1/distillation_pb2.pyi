import datetime

from fedafd.proto.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StageKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_KIND_UNSPECIFIED: _ClassVar[StageKind]
    STAGE_KIND_PREPARE: _ClassVar[StageKind]
    STAGE_KIND_FOLD: _ClassVar[StageKind]
    STAGE_KIND_MERGE: _ClassVar[StageKind]
    STAGE_KIND_DISTIL: _ClassVar[StageKind]
    STAGE_KIND_EVALUATE: _ClassVar[StageKind]
    STAGE_KIND_WEIGH: _ClassVar[StageKind]
STAGE_KIND_UNSPECIFIED: StageKind
STAGE_KIND_PREPARE: StageKind
STAGE_KIND_FOLD: StageKind
STAGE_KIND_MERGE: StageKind
STAGE_KIND_DISTIL: StageKind
STAGE_KIND_EVALUATE: StageKind
STAGE_KIND_WEIGH: StageKind

class ClaimStageRequest(_message.Message):
    __slots__ = ("stage_id", "worker", "most_companions")
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    MOST_COMPANIONS_FIELD_NUMBER: _ClassVar[int]
    stage_id: str
    worker: str
    most_companions: int
    def __init__(self, stage_id: _Optional[str] = ..., worker: _Optional[str] = ..., most_companions: _Optional[int] = ...) -> None: ...

class Companion(_message.Message):
    __slots__ = ("stage_id", "token", "inputs", "modality")
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    stage_id: str
    token: int
    inputs: _containers.RepeatedCompositeFieldContainer[NamedArtifact]
    modality: _types_pb2.Modality
    def __init__(self, stage_id: _Optional[str] = ..., token: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[NamedArtifact, _Mapping]]] = ..., modality: _Optional[_Union[_types_pb2.Modality, str]] = ...) -> None: ...

class ClaimStageResponse(_message.Message):
    __slots__ = ("token", "kind", "federation_id", "round_id", "round_number", "seed", "federation_config_json", "public_set_sha256", "inputs", "output_prefix", "modality", "lease", "stage_id", "companions", "until_deadline")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_SET_SHA256_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PREFIX_FIELD_NUMBER: _ClassVar[int]
    MODALITY_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    COMPANIONS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    token: int
    kind: StageKind
    federation_id: str
    round_id: str
    round_number: int
    seed: int
    federation_config_json: str
    public_set_sha256: str
    inputs: _containers.RepeatedCompositeFieldContainer[NamedArtifact]
    output_prefix: str
    modality: _types_pb2.Modality
    lease: _duration_pb2.Duration
    stage_id: str
    companions: _containers.RepeatedCompositeFieldContainer[Companion]
    until_deadline: _duration_pb2.Duration
    def __init__(self, token: _Optional[int] = ..., kind: _Optional[_Union[StageKind, str]] = ..., federation_id: _Optional[str] = ..., round_id: _Optional[str] = ..., round_number: _Optional[int] = ..., seed: _Optional[int] = ..., federation_config_json: _Optional[str] = ..., public_set_sha256: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[NamedArtifact, _Mapping]]] = ..., output_prefix: _Optional[str] = ..., modality: _Optional[_Union[_types_pb2.Modality, str]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stage_id: _Optional[str] = ..., companions: _Optional[_Iterable[_Union[Companion, _Mapping]]] = ..., until_deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class NamedArtifact(_message.Message):
    __slots__ = ("name", "artifact")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    name: str
    artifact: _types_pb2.Artifact
    def __init__(self, name: _Optional[str] = ..., artifact: _Optional[_Union[_types_pb2.Artifact, _Mapping]] = ...) -> None: ...

class ReportStageProgressRequest(_message.Message):
    __slots__ = ("stage_id", "token", "fraction", "activity", "alive_only", "with_companions")
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    ALIVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    WITH_COMPANIONS_FIELD_NUMBER: _ClassVar[int]
    stage_id: str
    token: int
    fraction: float
    activity: str
    alive_only: bool
    with_companions: bool
    def __init__(self, stage_id: _Optional[str] = ..., token: _Optional[int] = ..., fraction: _Optional[float] = ..., activity: _Optional[str] = ..., alive_only: _Optional[bool] = ..., with_companions: _Optional[bool] = ...) -> None: ...

class ReportStageProgressResponse(_message.Message):
    __slots__ = ("keep_going",)
    KEEP_GOING_FIELD_NUMBER: _ClassVar[int]
    keep_going: bool
    def __init__(self, keep_going: _Optional[bool] = ...) -> None: ...

class CompleteStageRequest(_message.Message):
    __slots__ = ("stage_id", "token", "outputs", "metrics", "companions", "takes_next")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    COMPANIONS_FIELD_NUMBER: _ClassVar[int]
    TAKES_NEXT_FIELD_NUMBER: _ClassVar[int]
    stage_id: str
    token: int
    outputs: _containers.RepeatedCompositeFieldContainer[NamedArtifact]
    metrics: _containers.ScalarMap[str, float]
    companions: _containers.RepeatedCompositeFieldContainer[CompleteStageRequest]
    takes_next: bool
    def __init__(self, stage_id: _Optional[str] = ..., token: _Optional[int] = ..., outputs: _Optional[_Iterable[_Union[NamedArtifact, _Mapping]]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., companions: _Optional[_Iterable[_Union[CompleteStageRequest, _Mapping]]] = ..., takes_next: _Optional[bool] = ...) -> None: ...

class CompleteStageResponse(_message.Message):
    __slots__ = ("lost_stage_ids", "next")
    LOST_STAGE_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    lost_stage_ids: _containers.RepeatedScalarFieldContainer[str]
    next: ClaimStageResponse
    def __init__(self, lost_stage_ids: _Optional[_Iterable[str]] = ..., next: _Optional[_Union[ClaimStageResponse, _Mapping]] = ...) -> None: ...

class DescribeMakerRequest(_message.Message):
    __slots__ = ("stage_id", "key")
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    stage_id: str
    key: str
    def __init__(self, stage_id: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class DescribeMakerResponse(_message.Message):
    __slots__ = ("maker",)
    MAKER_FIELD_NUMBER: _ClassVar[int]
    maker: ClaimStageResponse
    def __init__(self, maker: _Optional[_Union[ClaimStageResponse, _Mapping]] = ...) -> None: ...

class FailStageRequest(_message.Message):
    __slots__ = ("stage_id", "token", "reason", "retryable", "handed_back", "outage", "bad_input")
    STAGE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    HANDED_BACK_FIELD_NUMBER: _ClassVar[int]
    OUTAGE_FIELD_NUMBER: _ClassVar[int]
    BAD_INPUT_FIELD_NUMBER: _ClassVar[int]
    stage_id: str
    token: int
    reason: str
    retryable: bool
    handed_back: bool
    outage: bool
    bad_input: str
    def __init__(self, stage_id: _Optional[str] = ..., token: _Optional[int] = ..., reason: _Optional[str] = ..., retryable: _Optional[bool] = ..., handed_back: _Optional[bool] = ..., outage: _Optional[bool] = ..., bad_input: _Optional[str] = ...) -> None: ...

class FailStageResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
