"""gRPC and what travels over it: tensors, bundles, chunks, credentials, errors."""
