"""The aggregator: gRPC for agents and distillers, and the coordinator that moves rounds along. Holds no state."""
