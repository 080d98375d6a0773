"""Processes of a federation on one machine: started, watched and stopped together, for `fedafd up` and the demo."""
