"""Publishing a model version, in the transaction that completes its round."""

from __future__ import annotations

from fedafd.aggregator.step import COORDINATOR, Step
from fedafd.artifacts.stage_io import EvaluateOutputs
from fedafd.persistence.event_repository import record_event
from fedafd.persistence.federation_repository import get_federation
from fedafd.persistence.look_repository import StageLook
from fedafd.persistence.model_repository import add_files
from fedafd.persistence.models import ModelVersionRow

__all__ = ["publish_version"]


async def publish_version(step: Step, evaluated: StageLook) -> None:
    """Make the evaluated model the federation's current version."""
    outputs = EvaluateOutputs.of(evaluated.outputs or {})
    state = outputs.server_state
    version = ModelVersionRow(
        federation_id=step.row.federation_id,
        version=step.row.number,
        round_id=step.row.id,
        parent_version=step.row.base_version,
        state_key=state["key"],
        state_sha256=state["sha256"],
        metrics=evaluated.metrics or {},
    )
    step.session.add(version)
    await step.session.flush()
    await add_files(step.session, version, outputs.model_files)
    federation = await get_federation(step.session, step.row.federation_id)
    federation.current_version = version.version
    record_event(
        step.session,
        "model.published",
        federation_id=federation.id,
        actor=COORDINATOR,
        version=version.version,
        parent=version.parent_version,
        metrics=version.metrics,
    )
