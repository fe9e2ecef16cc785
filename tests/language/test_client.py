import json
import threading
import traceback

import pytest

from llafs_lib.errors import LlafsError
from llafs_lib.language.client import LLMError, ask
from llafs_lib.language.prompts import CONSTRAINED

KEY = "sk-recognisable-0123456789"
REQUEST = CONSTRAINED.request("okapi", ("zebra", "cow"), model="some-model")
PATH = "/v1/chat/completions"


def completion(text='{"related": [{"class": "zebra", "score": 0.9}]}', **changes):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "some-model-2025",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}},
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **changes,
    }


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No setting of the machine reaches a test, and no request leaves it."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def failure(httpserver, **kwargs):
    """The error that `ask` raises, once it is sure that the key is nowhere in it."""
    with pytest.raises(LLMError) as failed:
        ask(REQUEST, base_url=httpserver.url_for("/v1"), **{"api_key": KEY, "max_retries": 0, **kwargs})
    assert isinstance(failed.value, LlafsError)
    assert KEY not in "".join(traceback.format_exception(failed.value))
    assert failed.value.__context__ is None, "a chained exception would carry the request and its headers"
    return str(failed.value)


def test_an_answer_becomes_a_recording_without_the_key(httpserver):
    httpserver.expect_oneshot_request(PATH, method="POST").respond_with_json(completion())
    recording = ask(REQUEST, base_url=httpserver.url_for("/v1"), api_key=KEY)
    sent, _ = httpserver.log[0]
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.json == {"model": "some-model", "messages": REQUEST["messages"]}
    assert recording["request"] == REQUEST
    assert recording["response"] == {
        "text": '{"related": [{"class": "zebra", "score": 0.9}]}',
        "finish_reason": "stop",
        "model": "some-model-2025",
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    assert recording["provenance"] == f"some-model answered on {recording['recorded_on']}"
    assert KEY not in json.dumps(recording)


def test_settings_come_from_the_environment(httpserver, monkeypatch):
    httpserver.expect_request(PATH).respond_with_json(completion())
    monkeypatch.setenv("OPENAI_BASE_URL", httpserver.url_for("/v1"))
    ask(REQUEST)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask(REQUEST, base_url="")
    assert [sent.headers["Authorization"] for sent, _ in httpserver.log] == ["Bearer none", f"Bearer {KEY}"]


def test_a_local_server_may_leave_out_what_is_not_the_answer(httpserver):
    sparse = {"choices": [{"message": {"content": "zebra"}}]}
    httpserver.expect_request(PATH).respond_with_json(sparse)
    response = ask(REQUEST, base_url=httpserver.url_for("/v1"))["response"]
    assert response == {"text": "zebra", "finish_reason": None, "model": None, "usage": None}


@pytest.mark.parametrize("base_url", [None, ""])
def test_no_key_and_no_server(monkeypatch, base_url):
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    with pytest.raises(LLMError, match="set OPENAI_API_KEY, or OPENAI_BASE_URL"):
        ask(REQUEST, base_url=base_url)


def test_no_model():
    with pytest.raises(LLMError, match="No model is named"):
        ask({**REQUEST, "model": None}, api_key=KEY)


@pytest.mark.parametrize("key", [KEY + "\n", KEY + "\r\nX: y", "é" + KEY, KEY + "\u200b"], ids=ascii)
def test_malformed_keys_are_refused_unseen(httpserver, key):
    assert "API key holds" in failure(httpserver, api_key=key)
    assert not httpserver.log


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "refused the key"),
        (404, "knows no model 'some-model'"),
        (429, "too many requests or no credit left"),
        (400, "said so"),
        (500, "said so"),
    ],
)
def test_a_refusal_is_one_sentence(httpserver, status, sentence):
    body = {"error": {"message": f"the server\nsaid so of {KEY}"}}
    httpserver.expect_request(PATH).respond_with_json(body, status=status)
    message = failure(httpserver)
    assert sentence in message and str(status) in message and "\n" not in message


def test_a_busy_server_is_asked_again_but_not_for_ever(httpserver):
    httpserver.expect_request(PATH).respond_with_json({}, status=429, headers={"retry-after-ms": "1"})
    failure(httpserver, max_retries=2)
    assert len(httpserver.log) == 3


@pytest.mark.parametrize(
    "body",
    [completion(choices=None), completion(choices=[]), completion(choices={"a": 1}), [], "zebra", {}],
    ids=lambda body: json.dumps(body)[-30:],
)
def test_json_of_another_kind(httpserver, body):
    httpserver.expect_request(PATH).respond_with_json(body)
    assert "did not answer as the OpenAI API does" in failure(httpserver)


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
def test_a_web_page_with_status_200(httpserver, content_type):
    httpserver.expect_request(PATH).respond_with_data("<html>Log in</html>", content_type=content_type)
    assert "did not answer as the OpenAI API does" in failure(httpserver)


@pytest.mark.parametrize("text", [None, "", " \n", ["zebra"]])
def test_an_answer_without_text(httpserver, text):
    httpserver.expect_request(PATH).respond_with_json(completion(text))
    assert "answered without text (finish reason: stop)" in failure(httpserver)


def test_a_slow_server(httpserver):
    answered = threading.Event()

    def slow(_):
        answered.wait(5)

    httpserver.expect_request(PATH).respond_with_handler(slow)
    try:
        assert "did not answer in time" in failure(httpserver, timeout=0.2)
    finally:
        answered.set()


def test_no_server():
    with pytest.raises(LLMError, match="cannot be reached"):
        ask(REQUEST, base_url="http://127.0.0.1:1/v1", max_retries=0)
