"""Writes docs/errors.md, configuration.md, settings.md, state.md, privacy.md's tables; with --check only compares."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic_settings import BaseSettings

from fedafd.agent.settings import AgentSettings
from fedafd.agent.what_leaves import BLOBS, BLOBS_OF_REGIONS, MESSAGES, USES, unexplained
from fedafd.aggregator.settings import AggregatorSettings
from fedafd.control_plane.settings import ControlPlaneSettings
from fedafd.distiller.queries.settings import QueriesSettings
from fedafd.distiller.settings import DistillerSettings
from fedafd.domain.config import AgentConfig, FederationConfig
from fedafd.domain.config.reference import Key, keys_of
from fedafd.domain.config.region import RegionConfig
from fedafd.domain.errors import ERROR_STATUS
from fedafd.domain.leaving import SAID_BY_AGENTS, LeaveReason
from fedafd.domain.process_errors import PROCESS_ERRORS
from fedafd.domain.state_cases import CASES
from fedafd.region.settings import RegionSettings

DOCS = Path(__file__).resolve().parent.parent / "docs"
STATE_PAGE = """# When your data, agent.yaml or the federation change

May you add classes, change an encoder, or move your data? This page says what happens to what your site has
trained.

After each round the agent keeps the site's personalized state in `state_dir/state`: encoders, fusion, head, and
the optimizers' averages. Beside it the agent notes which data and settings the state was trained with. It
compares them with today's at every start, in `fedafd agent check` and in every round. For each difference the
table below has one of three answers:

- **goes on**: training continues, and the log says what changed;
- **adapts**: the state is changed so that it fits, and the log says so (`agent.state_differs`, a warning);
- **refuses**: the agent ends with exit code 2 before it joins, or leaves the round with the code
  `state-unusable`. The message names the earlier and the present value. Undo the change, or start afresh:

```sh
fedafd agent reset --config agent.yaml     # the agent must not run
```

This command moves the state to the folder `state_dir/state-before-<time>`. Nothing is deleted; the credential
and the record of what was sent stay. The next round begins with fresh weights.

| part | what changed | the state | what happens |
|---|---|---|---|
{rows}

Labels are bound to class names, never to numbers. Names are compared in Unicode's normal form NFC, because file
systems write them differently. The log also says how many samples were added and removed since the last start
(`agent.data_changed`). An older version notes less about its state: its classes and encoders are compared, and
the rest is noted from then on.

**If a file is damaged.** The state's SHA-256 is kept beside it. If it does not match, the agent logs
`agent.state_damaged` and goes on from the state of the round before, which is kept for this case. A finished
result that waits for its delivery has a hash, too: a damaged one is discarded (`agent.result_damaged`), and the
round is trained again. What was sent last stays in the folder, without the model, until the next delivery. If
the federation's store loses it before it is used, the agent is asked again and sends the same bytes
(`agent.asked_again`).
"""
PROCESSES: dict[str, type[BaseSettings]] = {
    "Control plane": ControlPlaneSettings,
    "Aggregator": AggregatorSettings,
    "Distiller": DistillerSettings,
    "Query worker": QueriesSettings,
    "Agent": AgentSettings,
    "Region": RegionSettings,
}
UNITS = ("seconds", "minutes", "hours", "days", "bytes")
SETTINGS_PAGE = """# Process settings

Each process reads its settings from environment variables when it starts. This page lists all of them. Others are
elsewhere: the keys of `federation.yaml`, `agent.yaml` and `region.yaml` in [configuration.md](configuration.md), the
variables of commands (`FEDAFD_URL` and so on) with [their options](reference/cli-federation.md), those of tracing
(`OTEL_*`) in [observability.md](observability.md), those of the Compose file in [deploy-compose.md](deploy-compose.md).

- **needed**: the process does not start without it. In a group that may be left out as a whole (`OIDC__`), it is needed
  once another variable of the group is set.
- Two underscores lead into a group: `STORE__URL` is the `url` of the `store`.
- Where a variable is missing or wrong, the process ends with exit code 2. Its last line names each of them and what is
  allowed.
- **Secrets as files.** Set `SECRETS_DIR` to a folder. Each file in it is one setting, named as the variable without its
  prefix and in small letters: `database_url`, `store__secret_key`. A variable wins over its file. The agent has no
  such folder, but `FEDAFD_AGENT_ENROLMENT_TOKEN_FILE`.
- `fedafd doctor` checks the settings of each process whose variables are set where it runs
  ([operator.md](operator.md#is-it-set-up-right)). `fedafd up` also takes them from a file ([up.md](up.md#settings)).

"""


def errors() -> str:
    """The table of error codes."""
    rows = [
        f"| `{kind.code}` | {status.http} | {status.grpc} | {(kind.__doc__ or '').splitlines()[0]} |"
        for kind, status in sorted(ERROR_STATUS.items(), key=lambda item: item[0].code)
    ]
    head = "# Errors\n\nOver REST an error is problem+json of type `urn:fedafd:error:<code>`; over gRPC the code is\n"
    head += "in the trailing metadata `fedafd-error-code`.\n\n| code | HTTP | gRPC | meaning |\n|---|---|---|---|\n"
    own = [
        f"| `{kind.code}` | {'yes' if kind.retryable else 'no'} | {(kind.__doc__ or '').splitlines()[0]} |"
        for kind in sorted(PROCESS_ERRORS, key=lambda kind: kind.code)
    ]
    behind = "\n## Errors of one process\n\nThey stand in logs and in the last line of a command; none is sent.\n\n"
    behind += "| code | may pass by itself | meaning |\n|---|---|---|\n"
    return head + "\n".join(rows) + "\n" + behind + "\n".join(own) + "\n"


def state() -> str:
    """What becomes of a site's saved state where something is another today."""
    rows = [f"| {case.part} | {case.change} | {case.answer.value} | {case.effect} |" for case in CASES.values()]
    return STATE_PAGE.format(rows="\n".join(rows))


def configuration() -> str:
    """Every key of the files. Raises ValueError naming keys that say nothing of themselves."""
    parts = [
        "# Configuration\n\nUnknown keys and bad values are refused with the key's path and what is allowed.\n"
        "`needed` inside a block that may be left out: needed where the block is there.\n"
    ]
    silent = []
    for name, model in (
        ("federation.yaml", FederationConfig),
        ("agent.yaml", AgentConfig),
        ("region.yaml", RegionConfig),
    ):
        keys = list(keys_of(model))
        silent += [f"{name}: {key.path}" for key in keys if not key.meaning]
        rows = [f"| `{key.path}` | {key.default} | {key.allowed} | {key.meaning} |" for key in keys]
        parts.append(
            f"## `{name}`\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    if silent:
        raise ValueError(f"keys without a description in fedafd.domain.config: {', '.join(silent)}")
    return "\n".join(parts)


def settings() -> str:
    """Every environment variable of every process. Raises ValueError naming those that say nothing of themselves."""
    silent = [name for kind in PROCESSES.values() for name, key in variables_of(kind) if not key.meaning]
    if silent:
        raise ValueError(f"settings without a description: {', '.join(silent)}")
    parts = [
        f"## {process}\n\n| variable | default | allowed | meaning |\n|---|---|---|---|\n"
        + "".join(
            f"| `{name}` | {_set_by_default(key)} | {_settable(key)} | {key.meaning} |\n"
            for name, key in variables_of(kind)
        )
        for process, kind in PROCESSES.items()
    ]
    return SETTINGS_PAGE + "\n".join(parts)


def variables_of(kind: type[BaseSettings]) -> Iterator[tuple[str, Key]]:
    """Each environment variable of a process, as it must be written, with what it means."""
    for key in keys_of(kind):
        yield str(kind.model_config["env_prefix"]) + key.path.replace(".", "__").upper(), key


def _set_by_default(key: Key) -> str:
    """The default value; a size also in GiB."""
    if key.default in ("`null`", "``"):
        return "unset"
    size = int(key.default.strip("`")) if _unit(key) == "bytes" else 0
    return f"{key.default} ({size >> 30} GiB)" if size and size % 2**30 == 0 else key.default


def _settable(key: Key) -> str:
    """What may be written, with its unit. No variable can be null."""
    words = key.allowed.removesuffix(", or null").replace("keys and values", "JSON object")
    unit = _unit(key)
    return words if unit is None else re.sub(r"\bnumber\b", f"number of {unit}", words, count=1)


def _unit(key: Key) -> str | None:
    """The unit that the name ends with."""
    last = key.path.rpartition("_")[2]
    return last if last in UNITS else None


def privacy() -> str:
    """The page on what leaves a site, its tables as the protos say. Raises ValueError naming what they leave out."""
    if unexplained():
        raise ValueError(f"no words on what leaves, or why, in protos/fedafd/v1: {', '.join(unexplained())}")
    page = (DOCS / "privacy.md").read_text(encoding="utf-8")
    codes = [f"| `{reason.value}` | {reason.words} |" for reason in LeaveReason if reason in SAID_BY_AGENTS]
    page = _with_table(page, "Messages", [f"| `{row.name}` | {row.holds} | {row.when} |" for row in MESSAGES])
    blobs = [f"| {row.name} | {row.holds} | {row.when} |" for row in (*BLOBS, *BLOBS_OF_REGIONS)]
    uses = [f"| `{use.name}` | {use.why} | {use.readers} | {use.kept} |" for use in USES]
    page = _with_table(page, "Blobs", blobs)
    page = _with_table(page, "Why, who reads it, and for how long", uses)
    return _with_table(page, "Codes of a refusal", codes)


def _with_table(page: str, heading: str, rows: list[str]) -> str:
    """The page with other rows in the first table below a heading. Raises ValueError where there is none."""
    before, found, section = page.partition(f"\n## {heading}\n")
    head, ruled, table = section.partition("|\n|---")
    if not found or not ruled:
        raise ValueError(f"privacy.md: no table below {heading!r}")
    rule, _, rest = table.partition("\n")
    while rest.startswith("|"):
        rest = rest.partition("\n")[2]
    return "".join([before, found, head, ruled, rule, "\n", "\n".join(rows), "\n", rest])


def main() -> int:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    status = 0
    pages = {
        "errors.md": errors(),
        "configuration.md": configuration(),
        "settings.md": settings(),
        "state.md": state(),
        "privacy.md": privacy(),
    }
    for path, text in ((DOCS / name, text) for name, text in pages.items()):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path.name} is out of date; run: make reference", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
