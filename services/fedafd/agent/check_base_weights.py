"""The checkpoints under `base_weights`: whether they can be read, which the federation cannot say before joining."""

from __future__ import annotations

from fedafd.agent.findings import Finding, fine, note, warning
from fedafd.domain.config import AgentConfig, EncoderConfig
from fedafd.domain.errors import FedafdError
from fedafd.domain.hub_names import hub_name
from fedafd.domain.kinds import Modality

__all__ = ["check_base_weights"]

_ABOUT = "base weights"


def check_base_weights(config: AgentConfig) -> list[Finding]:
    """One finding for each that is named. None is an error: a round needs none of them."""
    findings = []
    for modality in Modality:
        name = config.base_weights.of(modality)
        if name is not None and modality in config.kind.modalities:
            findings.append(_look_at(name, modality))
        elif name is not None:
            findings.append(
                warning(_ABOUT, f"{modality.value}: is not used; a site of this kind gets no {modality.value} encoder")
            )
    return findings


def _look_at(name: str, modality: Modality) -> Finding:
    from fedafd.learning.pretrained import check_folder, is_folder

    try:
        check_folder(EncoderConfig(architecture="auto", pretrained=name), modality)
    except FedafdError as failed:
        return warning(_ABOUT, f"{failed}; without them the global encoder of {modality.value} is downloaded whole")
    if is_folder(name):
        return fine(_ABOUT, f"{name}: can be read; what of the global encoder is frozen and the same is not downloaded")
    pinned = hub_name(name)
    newest = "" if pinned is None or pinned.revision else ", whichever revision is its newest then"
    return note(_ABOUT, f"{name}: is looked for at the first round, in the hub's cache and on the hub{newest}")
