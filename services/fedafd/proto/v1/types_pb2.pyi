from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Modality(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODALITY_UNSPECIFIED: _ClassVar[Modality]
    MODALITY_IMAGE: _ClassVar[Modality]
    MODALITY_TEXT: _ClassVar[Modality]

class ClientKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLIENT_KIND_UNSPECIFIED: _ClassVar[ClientKind]
    CLIENT_KIND_IMAGE: _ClassVar[ClientKind]
    CLIENT_KIND_TEXT: _ClassVar[ClientKind]
    CLIENT_KIND_PAIR: _ClassVar[ClientKind]
    CLIENT_KIND_REGION: _ClassVar[ClientKind]
MODALITY_UNSPECIFIED: Modality
MODALITY_IMAGE: Modality
MODALITY_TEXT: Modality
CLIENT_KIND_UNSPECIFIED: ClientKind
CLIENT_KIND_IMAGE: ClientKind
CLIENT_KIND_TEXT: ClientKind
CLIENT_KIND_PAIR: ClientKind
CLIENT_KIND_REGION: ClientKind

class Artifact(_message.Message):
    __slots__ = ("sha256", "size_bytes", "purpose", "key")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    purpose: str
    key: str
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ..., purpose: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...
