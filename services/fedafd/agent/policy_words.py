"""What a site's policy refuses, in words: for `fedafd agent check` and `fedafd agent explain`."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fedafd.domain.config import PolicyConfig

__all__ = ["policy_words"]

_APPROVED = {
    "configuration": "a configuration of the federation that you have not approved (fedafd agent approve)",
    "public-set": "a public set that you have not approved (fedafd agent approve)",
}


def policy_words(policy: PolicyConfig) -> Iterator[str]:
    """One phrase for each thing that a round is refused for; without a policy the first one alone."""
    named = "" if not policy.pretrained else f" and are not {_either(policy.pretrained)}"
    yield f"pretrained weights that the federation names for your model{named}"
    yield from (_APPROVED[approval] for approval in dict.fromkeys(policy.approve))
    if policy.public_sets is not None and "public-set" not in policy.approve:
        yield f"a public set that is neither among the {len(policy.public_sets)} that you name nor approved by you"
    if policy.max_download_bytes is not None:
        yield f"a round for which more than {policy.max_download_bytes:,} bytes have to be downloaded"
    if policy.max_bundle_bytes is not None:
        yield f"an encoder bundle of more than {policy.max_bundle_bytes:,} bytes"
    if policy.max_bundle_parameters is not None:
        yield f"an encoder bundle of more than {policy.max_bundle_parameters:,} parameters"
    if policy.encoders is not None:
        yield f"an encoder whose architecture is not {_either(policy.encoders)}"
    if policy.max_epochs is not None:
        yield f"more than {policy.max_epochs:,} local epochs in a round"
    if policy.max_minutes is not None:
        yield f"to train longer than {policy.max_minutes:g} minutes in a round"
    if policy.max_rounds is not None:
        yield f"to use your data for more than {policy.max_rounds:,} rounds"
    for key, values in policy.allow.items():
        yield f"a federation whose {key} is not {_either(tuple(json.dumps(value) for value in values))}"
    if policy.hours is not None:
        zone = "by this machine's clock" if policy.time_zone is None else f"in {policy.time_zone}"
        yield f"to train outside of {', '.join(policy.hours) or 'no hour'}, {zone}"


def _either(names: tuple[str, ...]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]][len(names) < 2 :]) if names else "one of none"
