"""The control plane: REST under /v1 for operators, the command line and dashboards. Never talks to agents."""
