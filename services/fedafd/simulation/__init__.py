"""Every role of a federation in one process, for comparing methods on one machine."""
