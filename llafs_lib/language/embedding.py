"""Text similarity from any OpenAI-compatible embeddings endpoint, asked once and kept like every other answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llafs_lib.language.client import Connection, Server
from llafs_lib.language.prompts import check_class_name
from llafs_lib.language.relations import TextSimilarity
from llafs_lib.language.replay import DEFAULT_CACHE, claimed, find, make_recording, save
from llafs_lib.language.running import run_now


def embedded_similarity(
    names: Iterable[str], model: str, cache: Path | str | None = DEFAULT_CACHE, **server: Any
) -> TextSimilarity:
    """How alike `names` are to an embedding model, asked in one request of an OpenAI-compatible server, once.

    Args:
        server: `base_url`, `key`, `timeout`, `retries` of `client.Server.find`.

    Raises:
        ClassNameError: a name that is not fit to be sent.
        LLMError: the server cannot be asked, or does not answer with one vector for each name.
    """
    names = tuple(dict.fromkeys(check_class_name(n) for n in names))
    vectors = run_now(_embed(names, model, cache, server))
    return TextSimilarity.from_embeddings(model, names, vectors)


async def _embed(names: tuple[str, ...], model: str, cache: Path | str | None, server: dict) -> list[list[float]]:
    request = {"prompt": "embedding", "version": 1, "class": f"{len(names)} names", "model": model, "temperature": None}
    request["input"] = list(names)
    async with claimed(request, cache):
        recording = find(request, cache)
        if recording is None:
            async with Connection(Server.find(**server)) as connection:
                vectors, usage = await connection.embed(names, model)
            response = {"text": json.dumps(vectors), "finish_reason": None, "model": model, "usage": usage}
            recording = make_recording(request, response, None, f"embeddings by {model}", None)
            if cache is not None:
                save(recording, cache)
    return json.loads(recording["response"]["text"])
