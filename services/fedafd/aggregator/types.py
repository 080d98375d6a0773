"""Names for gRPC's generic types, which only type checkers can index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

__all__ = ["Call", "Handler", "Interceptor"]

if TYPE_CHECKING:
    Call = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    Interceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    Call = grpc.aio.ServicerContext
    Handler = grpc.RpcMethodHandler
    Interceptor = grpc.aio.ServerInterceptor
