"""The public set of a federation."""
