from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
LEAVES_FIELD_NUMBER: _ClassVar[int]
leaves: _descriptor.FieldDescriptor
USE_FIELD_NUMBER: _ClassVar[int]
use: _descriptor.FieldDescriptor
BLOB_FIELD_NUMBER: _ClassVar[int]
blob: _descriptor.FieldDescriptor

class Leaves(_message.Message):
    __slots__ = ("holds", "when", "needs")
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    WHEN_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    holds: str
    when: str
    needs: str
    def __init__(self, holds: _Optional[str] = ..., when: _Optional[str] = ..., needs: _Optional[str] = ...) -> None: ...

class Use(_message.Message):
    __slots__ = ("why", "readers", "kept")
    WHY_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    why: str
    readers: str
    kept: str
    def __init__(self, why: _Optional[str] = ..., readers: _Optional[str] = ..., kept: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("name", "leaves", "use", "of_region")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEAVES_FIELD_NUMBER: _ClassVar[int]
    USE_FIELD_NUMBER: _ClassVar[int]
    OF_REGION_FIELD_NUMBER: _ClassVar[int]
    name: str
    leaves: Leaves
    use: Use
    of_region: bool
    def __init__(self, name: _Optional[str] = ..., leaves: _Optional[_Union[Leaves, _Mapping]] = ..., use: _Optional[_Union[Use, _Mapping]] = ..., of_region: _Optional[bool] = ...) -> None: ...
