"""Drain mode: no queued round starts, running ones run to their end."""
