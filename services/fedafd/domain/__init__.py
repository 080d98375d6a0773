"""States, kinds, configuration and errors of a federation: plain values, no I/O."""
