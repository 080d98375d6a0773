"""Rounds: start, list, look at, cancel."""
