"""The agent: one process per site that trains beside the private data and dials out to the aggregator."""
