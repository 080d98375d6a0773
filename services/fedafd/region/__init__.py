"""A region's process: one participant above, the source of rounds for a federation of its own below."""
