"""`agent.yaml` with a comment beside each key, for a person to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fedafd.agent.proposal import DataProposal
from fedafd.domain.config import AgentConfig, parse_agent_config
from fedafd.domain.yaml_files import parse_yaml

__all__ = ["agent_file"]

_POLICY = (
    "# policy:  # what your agent refuses to do for the federation, beside pretrained weights: docs/site.md",
    "#   approve: [configuration, public-set]  # each waits for your yes: fedafd agent approve",
    "#   max_bundle_bytes: 500000000  # longest encoder that is downloaded",
    "#   max_download_bytes: 5000000000  # that a round may bring down",
    "#   max_bundle_parameters: 100000000",
    "#   max_epochs: 5  # in a round",
    "#   max_minutes: 60  # of training in a round",
    "#   max_rounds: 100  # that your data are used for",
    "#   encoders: [resnet, bert]  # by architecture",
    "#   pretrained: [org/name@REVISION]  # weights that the federation may name for your model; left out: none",
    "#   allow: {averaging: off, alignment.mode: [adversarial+pairing, pairing]}",
    "#   hours: [22:00-06:00]  # with time_zone: Europe/Berlin, else by this machine's clock",
)


def agent_file(
    proposal: DataProposal,
    *,
    aggregator: str,
    state_dir: str,
    authorities: Path | None,
    plaintext: bool | None = None,
) -> tuple[str, AgentConfig]:
    """The file's text for the data of `proposal`, and the configuration that it reads as. Raises ConfigurationError."""
    path, task = proposal.path, proposal.task
    lines = [
        "# One site of a federation. `fedafd agent check` looks at all of it before you join.",
        "# Every key: docs/configuration.md",
        f"aggregator: {_plain(aggregator)}  # host:port; the agent dials out and opens no port",
        f"kind: {proposal.kind.value}  # what the data are: image, text or pair (image with captions)",
        *([f"task: {{name: {_plain(task)}}}  # what is learned of the labels: docs/tasks.md"] if task else []),
        "data:",
        f"  adapter: {_plain(proposal.adapter)}  # how they are read: docs/data.md",
        *([f"  path: {_plain(str(path))}"] if path is not None else []),
        *(["  options:"] if proposal.options else []),
        *(f"    {_plain(name)}: {_plain(value)}" for name, value in proposal.options.items()),
        "  drop_repeats: false  # true: training samples that another split holds, too, are left out",
        f"state_dir: {_plain(state_dir)}  # credential, personalized model, downloads; for this user alone",
        "device: auto  # auto, cpu, cuda, cuda:N or mps",
        "baseline: off  # background: your model is also trained alone, to see what the federation gives",
        "share:",
        "  personalized_model: false  # true: your personalized model is sent up, too",
        "  metrics: true  # false: no scores and no number of samples leave either",
        "  representation_noise: 0  # length of noise on each representation, which has length 1: docs/privacy.md",
        "  weights: false  # true: for federations that average the encoders' weights",
        *_POLICY,
        *_tls(authorities),
        *([] if plaintext is None else [f"plaintext: {str(plaintext).lower()}  # false: TLS on this machine, too"]),
    ]
    text = "\n".join(lines) + "\n"
    return text, parse_agent_config(parse_yaml(text), "agent.yaml")


def _tls(authorities: Path | None) -> list[str]:
    if authorities is not None:
        return ["tls:", f"  authorities: {_plain(str(authorities))}  # PEM of who signed the aggregator's certificate"]
    return [
        "# TLS needs nothing here: the token says whom to trust. Where your operator gives you a file instead:",
        "# tls:",
        "#   authorities: authority.pem",
    ]


def _plain(value: Any) -> str:
    """A value on one line of YAML."""
    plain = str(value).isprintable()  # YAML folds some line ends of Unicode, such as U+0085, unless they are escaped
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=plain)
    return text.removesuffix("\n").removesuffix("\n...").rstrip("\n")
