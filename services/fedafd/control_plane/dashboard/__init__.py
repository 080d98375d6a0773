"""The dashboard: pages for people, rendered here, live by server-sent events, with no request to anywhere else."""
