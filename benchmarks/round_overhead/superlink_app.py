"""An app of Flower whose rounds train nothing, for its SuperLink and SuperNodes.

It imports nothing of this project: `superlink.py` copies it into an app's folder. The server's part writes a JSON list,
the seconds of each round from its first message to the end of its averaging, to the path that it is configured with.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

__all__ = ["client", "server"]

_BYTES_OF_NUMBER = 4
_PAUSE_SECONDS = 0.1

server = ServerApp()
client = ClientApp()


@client.train()  # type: ignore[untyped-decorator]
def answer(message: Message, context: Context) -> Message:
    """Reads the numbers that came, and answers with numbers of its own."""
    message.content["numbers"].to_numpy_ndarrays()
    own = _numbers(int(context.run_config["bytes-up"]))
    return Message(content=RecordDict({"numbers": own}), reply_to=message)


@server.main()  # type: ignore[untyped-decorator]
def rounds(grid: Grid, context: Context) -> None:
    """All rounds, one after the other, once all clients are there."""
    values = context.run_config
    clients, sent = int(values["clients"]), _numbers(int(values["bytes-down"]))
    while len(nodes := list(grid.get_node_ids())) < clients:
        time.sleep(_PAUSE_SECONDS)
    seconds = []
    for number in range(int(values["rounds"])):
        begun = time.perf_counter()
        replies = list(grid.send_and_receive([_message(sent, node, number) for node in nodes]))
        if len(replies) != clients:
            raise RuntimeError(f"a round had {len(replies)} replies of {clients}")
        np.mean([reply.content["numbers"].to_numpy_ndarrays()[0] for reply in replies], axis=0)
        seconds.append(time.perf_counter() - begun)
    Path(str(values["path"])).write_text(json.dumps(seconds))


def _message(sent: Any, node: int, number: int) -> Message:
    content = RecordDict({"numbers": sent})
    return Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node, group_id=str(number))


def _numbers(size_bytes: int) -> Any:
    return ArrayRecord([np.ones(max(1, size_bytes // _BYTES_OF_NUMBER), dtype=np.float32)])
