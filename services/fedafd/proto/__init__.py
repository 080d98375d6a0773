"""Protobuf and gRPC code, generated from `protos/`."""
