"""Clients: invite, list, look at, invite again, revoke."""
