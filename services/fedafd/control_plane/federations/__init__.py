"""Federations and their configuration."""
