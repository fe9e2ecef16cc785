import numpy as np
import pytest
from llm_servers import KEY

from llafs_lib.language.client import LLMError
from llafs_lib.language.embedding import embedded_similarity
from llafs_lib.language.prompts import ClassNameError
from llafs_lib.language.relations import by_text

PATH = "/v1/embeddings"


def embeddings(*vectors):
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return {"object": "list", "data": data[::-1], "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}


def test_names_are_embedded_in_one_request_once(httpserver, tmp_path):
    httpserver.expect_request(PATH).respond_with_json(embeddings([1, 0], [3, 3], [0, 2]))
    for _ in range(2):
        table = embedded_similarity(("cup", "mug", "tv", "cup"), "e", base_url=httpserver.url_for("/v1"), key=KEY)
    np.testing.assert_allclose(table.matrix, [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0.5**0.5], [0, 0.5**0.5, 1]])
    assert len(httpserver.log) == 1 and httpserver.log[0][0].json["input"] == ["cup", "mug", "tv"]
    (kept,) = tmp_path.glob("data/llm_cache/embedding-v1/*.json")
    assert KEY not in kept.read_text(encoding="utf-8")
    assert "cosine of the names by e" in by_text("cup", ("mug", "tv"), table).provenance


@pytest.mark.parametrize(
    "body",
    [embeddings([1, 0]), embeddings([1, 0], [1]), embeddings([], []), {"data": None}, [], "x",
     {"data": [{"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": [1]}]}],
)  # fmt: skip
def test_anything_but_one_vector_for_each_name_is_an_error(httpserver, body, tmp_path):
    httpserver.expect_request(PATH).respond_with_json(body)
    with pytest.raises(LLMError, match="did not answer as the OpenAI API does"):
        embedded_similarity(("cup", "tv"), "e", base_url=httpserver.url_for("/v1"), retries=0)
    assert not list(tmp_path.rglob("*.json"))


def test_errors_are_those_of_the_client(httpserver):
    httpserver.expect_request(PATH).respond_with_json({}, status=404)
    with pytest.raises(LLMError, match="knows no model 'e'"):
        embedded_similarity(("cup", "tv"), "e", base_url=httpserver.url_for("/v1"))
    with pytest.raises(ClassNameError):
        embedded_similarity(("cup\n",), "e")
