"""Clients: invite, list, look at, invite again, exclude, revoke, forget."""
