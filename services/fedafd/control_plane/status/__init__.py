"""What waits for what, since when, and what to do about it: one source for REST, the command line and the dashboard."""
