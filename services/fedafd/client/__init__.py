"""The REST client: requests to a control plane, one federation's operations, model downloads, typed answers."""
