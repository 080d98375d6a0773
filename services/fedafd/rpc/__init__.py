"""Transport between processes over gRPC: channels, sessions, TLS, credentials, errors. It knows no content."""
