"""What an agent's events are called on a terminal. JSON logs keep the names; a test holds the two together."""

from __future__ import annotations

__all__ = ["SENTENCES"]

SENTENCES: dict[str, str] = {
    "agent.started": "agent of a site with {kind} data, for the aggregator {aggregator}; its state is in {state_dir}",
    "agent.reading_data": "looking at every sample: {samples} of {of}",
    "agent.data_checked": "data are usable ({looked})",
    "agent.data_warnings": "the data raise {count} warnings; `fedafd agent check` tells them",
    "agent.data_changed": "data changed",
    "agent.words": "texts",
    "agent.enrolled": "enrolled as client {client} of federation {federation}",
    "agent.credential_refused": "the saved credential is refused, so the new invitation is taken",
    "agent.state_set_aside": "what was learned for federation {federation} is kept in {folder}; this one starts anew",
    "agent.state_damaged": "a saved state is damaged",
    "agent.idle": "waiting",
    "agent.fetch_failed": "asking for a task failed; asking again",
    "agent.second_agent_refused": "a second agent was refused",
    "agent.aggregator_unreachable": "the aggregator {aggregator} cannot be reached; trying again",
    "agent.aggregator_busy": "the aggregator {aggregator} cannot answer now; trying again",
    "agent.aggregator_reachable_again": "the aggregator {aggregator} answers again after {tries} tries",
    "agent.download_corrupt": "a download arrived damaged; fetching it again",
    "agent.tls_files_reloaded": "TLS files were renewed and are in use",
    "agent.tls_files_not_taken": "renewed TLS files cannot be used; the old ones stay",
    "agent.trained": "trained",
    "agent.result_found": "a finished result is here",
    "agent.delivered": "delivered round {round}",
    "agent.delivery_rejected": "the federation rejected the delivery of round {round}",
    "agent.old_result_discarded": "the finished result of round {round} was not taken any more",
    "agent.round_closed": "the round went on without this site",
    "agent.round_failed": "this site could not do its part of the round and left it",
    "agent.leave_refused": "leaving the round was refused",
    "agent.model_ready": "your model is ready: {folder}",
    "agent.model_not_made": "no model folder was made",
    "agent.told_to_stop": "the federation told this agent to stop",
    "agent.ended": "ended",
    "agent.stopped": "stopped",
}
