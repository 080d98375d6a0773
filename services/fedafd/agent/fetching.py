"""What a round needs comes here: first it is found out what of it is here already, then whether the rest may come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fedafd.agent.cache import ArtifactCache
from fedafd.agent.connection import AggregatorConnection
from fedafd.agent.own_bases import patch_of_own_weights
from fedafd.agent.patch import Patch
from fedafd.agent.patching import patch_of_last
from fedafd.agent.policy import SitePolicy
from fedafd.domain.config import AgentConfig, FederationConfig
from fedafd.proto.v1 import types_pb2

__all__ = ["fetch"]


async def fetch(
    connection: AggregatorConnection,
    cache: ArtifactCache,
    artifacts: Sequence[types_pb2.Artifact],
    *,
    own: AgentConfig,
    federation: FederationConfig,
    policy: SitePolicy,
    tell: Callable[[int], Awaitable[None]],
) -> dict[str, Path]:
    """The files of the artifacts, by hash. `tell` hears before each, from 0 on, how many are here.

    Raises PolicyRefusedError before more bytes come than the policy allows, and what `tell` raises.
    """
    await tell(0)
    sizes = {artifact.sha256: artifact.size_bytes for artifact in artifacts}
    async with AsyncExitStack() as stack:
        patches = {}
        for artifact in artifacts:
            patch = await stack.enter_async_context(_best_patch(connection, cache, artifact, own, federation, sizes))
            if patch is not None:
                patches[artifact.sha256] = patch
        coming = cache.missing_bytes({sha256: size for sha256, size in sizes.items() if sha256 not in patches})
        coming += sum(patch.missing_bytes(cache.begin(sha256, sizes[sha256])) for sha256, patch in patches.items())
        policy.need_small_downloads(coming)

        def once_more(num_bytes: int) -> None:
            nonlocal coming
            coming += num_bytes
            policy.need_small_downloads(coming)

        paths: dict[str, Path] = {}
        for number, artifact in enumerate(artifacts):
            if number:
                await tell(number)
            paths[artifact.sha256] = await connection.download(
                artifact, cache, patches.get(artifact.sha256), before_next_try=once_more
            )
    return paths


@asynccontextmanager
async def _best_patch(
    connection: AggregatorConnection,
    cache: ArtifactCache,
    artifact: types_pb2.Artifact,
    own: AgentConfig,
    federation: FederationConfig,
    sizes: dict[str, int],
) -> AsyncIterator[Patch | None]:
    """Of the last artifact of the purpose, or of the site's own weights where more than half would have to come."""
    last = await patch_of_last(connection, artifact, cache)
    if last is not None and 2 * last.changed_bytes <= artifact.size_bytes:
        yield last
        return
    async with patch_of_own_weights(connection, cache, artifact, own, federation, sizes=sizes) as patch:
        yield patch or last
