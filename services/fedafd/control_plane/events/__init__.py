"""The audit log, in pages and as it happens."""
