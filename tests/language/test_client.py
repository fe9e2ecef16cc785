import json
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from llm_servers import KEY, PATH, ask_once, completion, refusal

from llafs_lib.errors import LlafsError
from llafs_lib.language.client import Client, LLMError, Server
from llafs_lib.language.prompts import CONSTRAINED, OPEN, Question

QUESTION = Question(CONSTRAINED, "okapi", ("zebra", "cow"), model="some-model", temperature=0.0)


def failure(httpserver, question=QUESTION, **settings):
    """The error of one call, once it is sure that the key is nowhere in it."""
    with pytest.raises(LLMError) as failed:
        ask_once(question, **{"base_url": httpserver.url_for("/v1"), "key": KEY, "retries": 0, **settings})
    assert isinstance(failed.value, LlafsError)
    assert KEY not in "".join(traceback.format_exception(failed.value))
    assert failed.value.__context__ is None, "a chained exception would carry the request and its headers"
    return failed.value


def sent(httpserver):
    return [request.json for request, _ in httpserver.log]


# --- an answer -------------------------------------------------------------------------------------------------------


def test_an_answer_becomes_a_recording_without_the_key(httpserver):
    httpserver.expect_oneshot_request(PATH, method="POST").respond_with_json(completion())
    recording = ask_once(QUESTION, base_url=httpserver.url_for("/v1"), key=KEY)
    assert httpserver.log[0][0].headers["Authorization"] == f"Bearer {KEY}"
    (body,) = sent(httpserver)
    assert body["model"] == "some-model" and body["messages"] == QUESTION.messages and body["temperature"] == 0
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"] == QUESTION.schema
    assert recording["request"] == QUESTION.request
    assert recording["response"] == {
        "text": '{"related": [{"class": "zebra", "score": 0.9}]}',
        "finish_reason": "stop",
        "refusal": None,
        "model": "some-model-2025",
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }
    assert recording["sent"] == {"response_format": "json_schema", "temperature": 0.0}
    assert recording["provenance"] == f"some-model answered on {recording['recorded_on']}"
    assert KEY not in json.dumps(recording)


def test_a_free_answer_is_asked_for_without_a_format(httpserver):
    httpserver.expect_request(PATH).respond_with_json(completion())
    ask_once(Question(OPEN, "okapi", ("zebra",), model="m"), base_url=httpserver.url_for("/v1"))
    assert set(sent(httpserver)[0]) == {"model", "messages"}


def test_settings_come_from_the_environment(httpserver, monkeypatch):
    httpserver.expect_request(PATH).respond_with_json(completion())
    monkeypatch.setenv("OPENAI_BASE_URL", httpserver.url_for("/v1"))
    ask_once(QUESTION)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    ask_once(QUESTION)
    assert [r.headers["Authorization"] for r, _ in httpserver.log] == ["Bearer none", f"Bearer {KEY}"]


def test_a_local_server_may_leave_out_what_is_not_the_answer(httpserver):
    httpserver.expect_request(PATH).respond_with_json({"choices": [{"message": {"content": "zebra"}}]})
    response = ask_once(QUESTION, base_url=httpserver.url_for("/v1"))["response"]
    assert response == {"text": "zebra", "finish_reason": None, "refusal": None, "model": None, "usage": None}


@pytest.mark.parametrize("finish", ["content_filter", "refusal"])
def test_a_withheld_answer_is_an_answer(httpserver, finish):
    body = completion(None, finish="content_filter")
    if finish == "refusal":
        body["choices"][0].update(finish_reason="stop", message={"content": None, "refusal": "I cannot."})
    httpserver.expect_request(PATH).respond_with_json(body)
    response = ask_once(QUESTION, base_url=httpserver.url_for("/v1"))["response"]
    assert response["text"] == "" and response["finish_reason"] == finish


# --- the ladder ------------------------------------------------------------------------------------------------------


def refuse_formats(httpserver, *formats, **error):
    """A server that refuses these response formats, and answers any other request."""

    def answer(request):
        from werkzeug import Response

        asked = (request.json.get("response_format") or {}).get("type", "text")
        problem = refusal("response_format", **error)
        body, status = (problem["response_json"], problem["status"]) if asked in formats else (completion(), 200)
        return Response(json.dumps(body), status, content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(answer)


def formats(httpserver):
    return [(body.get("response_format") or {}).get("type", "text") for body in sent(httpserver)]


@pytest.mark.parametrize("status", [400, 422])
def test_the_ladder_is_descended_once_and_remembered(httpserver, status):
    refuse_formats(httpserver, "json_schema", "json_object", status=status)
    for _ in range(2):
        recording = ask_once(QUESTION, base_url=httpserver.url_for("/v1"))
        assert recording["sent"]["response_format"] == "text"
    assert formats(httpserver) == ["json_schema", "json_object", "text", "text"]


def test_what_one_model_refuses_another_is_asked(httpserver):
    refuse_formats(httpserver, "json_schema")
    for model in ("one", "two"):
        ask_once(Question(CONSTRAINED, "okapi", ("zebra",), model), base_url=httpserver.url_for("/v1"))
    assert formats(httpserver) == ["json_schema", "json_object"] * 2


def test_a_validation_error_in_fastapis_form_is_understood(httpserver):
    detail = [{"loc": ["body", "response_format", "type"], "msg": "unexpected value", "type": "value_error"}]
    httpserver.expect_ordered_request(PATH).respond_with_json({"detail": detail}, status=422)
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    ask_once(QUESTION, base_url=httpserver.url_for("/v1"))
    assert formats(httpserver) == ["json_schema", "json_object"]


def test_questions_at_the_same_time_find_out_together(httpserver):
    refuse_formats(httpserver, "json_schema")

    with Client(Server.find(httpserver.url_for("/v1"))) as asked, ThreadPoolExecutor(6) as pool:
        list(pool.map(asked.ask, [QUESTION] * 6))
    assert sorted(formats(httpserver)) == ["json_object"] * 6 + ["json_schema"]


@pytest.mark.parametrize("status", [401, 429])
def test_a_wrong_key_or_a_busy_server_descends_nowhere(httpserver, status):
    httpserver.expect_request(PATH).respond_with_json(**refusal("response_format", status=status))
    failure(httpserver)
    assert formats(httpserver) == ["json_schema"]


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Failed to parse grammar"}},
        [{"error": {"code": 400, "message": "The schema has too many states"}}],
        {"object": "error", "message": "features not supported by xgrammar", "param": None},
        {"detail": "no such thing"},
    ],
    ids=str,
)
def test_a_refusal_in_any_words_takes_the_next_rung(httpserver, body, status):
    httpserver.expect_ordered_request(PATH).respond_with_json(body, status=status)
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    ask_once(QUESTION, base_url=httpserver.url_for("/v1"))
    assert formats(httpserver) == ["json_schema", "json_object"]


@pytest.mark.parametrize(
    "body",
    [[{"error": {"message": "Your location is not supported"}}], {"detail": "Your location is not supported"},
     {"detail": [{"loc": ["body"], "msg": "Your location is not supported"}]}, "Your location is not supported"],
    ids=str,
)  # fmt: skip
def test_a_refusal_of_nothing_in_particular_ends_after_two_guesses_and_is_quoted(httpserver, body):
    httpserver.expect_request(PATH).respond_with_json(body, status=400)
    assert "(400): Your location is not supported" in str(failure(httpserver))
    assert formats(httpserver) == ["json_schema", "json_object", "text"]


def test_two_settings_that_are_refused_at_once_are_both_given_up(httpserver):
    message = "Unsupported parameters: temperature, response_format"
    httpserver.expect_ordered_request(PATH).respond_with_json(**refusal("temperature", message=message))
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    ask_once(QUESTION, base_url=httpserver.url_for("/v1"))
    second = sent(httpserver)[1]
    assert second["response_format"]["type"] == "json_object" and "temperature" not in second


def test_a_refused_temperature_is_dropped_once_recorded_and_remembered(httpserver):
    httpserver.expect_ordered_request(PATH).respond_with_json(**refusal("temperature"))
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    for _ in range(2):
        recording = ask_once(QUESTION, base_url=httpserver.url_for("/v1"))
        assert recording["sent"]["temperature"] is None and recording["request"]["temperature"] == 0
    assert ["temperature" in body for body in sent(httpserver)] == [True, False, False]


def test_a_temperature_that_is_refused_for_ever_ends(httpserver):
    httpserver.expect_request(PATH).respond_with_json(**refusal("temperature"))
    assert "not supported" in str(failure(httpserver))
    assert len(httpserver.log) == 3, "the refused setting, then one guess"


def test_an_older_server_gets_the_older_name_of_the_limit(httpserver):
    httpserver.expect_ordered_request(PATH).respond_with_json(**refusal("max_completion_tokens"))
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    ask_once(QUESTION, max_tokens=77, base_url=httpserver.url_for("/v1"))
    first, second = sent(httpserver)
    assert first["max_completion_tokens"] == 77 and "max_tokens" not in first
    assert second["max_tokens"] == 77 and "max_completion_tokens" not in second


# --- what is wrong before anything is sent ---------------------------------------------------------------------------


def test_no_key_and_no_server():
    with pytest.raises(LLMError, match="set OPENAI_API_KEY, or OPENAI_BASE_URL"):
        Server.find()


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_address_does_not_send_the_key_to_openai(monkeypatch, empty):
    monkeypatch.setenv("OPENAI_BASE_URL", empty)
    with pytest.raises(LLMError, match="OPENAI_BASE_URL is empty: unset it"):
        Server.find(key=KEY)


@pytest.mark.parametrize("address", ["localhost:11434/v1", "ftp://x/v1", "http://", "http://[::1"])
def test_an_address_that_cannot_be_read(address):
    with pytest.raises(LLMError, match="must be like http://"):
        Server.find(address, KEY)


def test_no_model(httpserver):
    unnamed = Question(CONSTRAINED, "okapi", ("zebra",))
    assert "No model is named" in str(failure(httpserver, unnamed))


@pytest.mark.parametrize("key", [KEY + "\r\nX: y", "é" + KEY, KEY + "\u200b"], ids=ascii)
def test_malformed_keys_are_refused_unseen(httpserver, key):
    error = failure(httpserver, key=key)
    assert "API key holds" in str(error) and error.for_all
    assert not httpserver.log


def test_a_server_prints_without_its_secrets():
    server = Server.find(f"https://user:{KEY}@example.org/v1?key={KEY}", KEY)
    assert KEY not in repr(server.shown) and server.shown == "https://example.org/v1"


# --- what comes back wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "sentence", "for_all"),
    [
        (401, "refused the key", True),
        (403, "does not let this key", True),
        (404, "knows no model 'some-model'", True),
        (429, "too many requests", False),
        (400, "said so", False),
        (500, "said so", False),
    ],
)
def test_a_refusal_is_one_sentence(httpserver, status, sentence, for_all):
    body = {"error": {"message": f"the server\nsaid so of {KEY}"}}
    httpserver.expect_request(PATH).respond_with_json(body, status=status)
    error = failure(httpserver)
    assert sentence in str(error) and str(status) in str(error) and "\n" not in str(error)
    assert error.for_all == for_all


@pytest.mark.parametrize(
    "said", ["Invalid model name passed in model=m", "Model 'm' does not exist", "unknown model m"]
)
def test_an_unknown_model_is_for_all_whatever_its_status(httpserver, said):
    httpserver.expect_request(PATH).respond_with_json({"error": {"message": said}}, status=400)
    assert failure(httpserver).for_all


def test_a_busy_server_is_asked_again_but_not_for_ever(httpserver):
    httpserver.expect_request(PATH).respond_with_json({}, status=429, headers={"retry-after-ms": "1"})
    failure(httpserver, retries=2)
    assert len(httpserver.log) == 3


def test_retry_after_is_honoured(httpserver):
    httpserver.expect_ordered_request(PATH).respond_with_json({}, status=429, headers={"retry-after": "1"})
    httpserver.expect_ordered_request(PATH).respond_with_json(completion())
    began = time.monotonic()
    ask_once(QUESTION, base_url=httpserver.url_for("/v1"))
    assert time.monotonic() - began >= 1


def test_a_wait_of_hours_is_not_cut_short(httpserver):
    httpserver.expect_request(PATH).respond_with_json({}, status=429, headers={"retry-after": "7200"})
    failure(httpserver, retries=2)
    assert len(httpserver.log) == 1


def test_a_wait_until_a_date_is_a_busy_server_too(httpserver):
    headers = {"retry-after": "Wed, 21 Oct 2065 07:28:00 GMT"}
    httpserver.expect_request(PATH).respond_with_json({}, status=429, headers=headers)
    assert "too many requests" in str(failure(httpserver))


def test_no_credit_is_not_tried_again(httpserver):
    body = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota", "type": "insufficient_quota"}}
    httpserver.expect_request(PATH).respond_with_json(body, status=429, headers={"retry-after-ms": "1"})
    error = failure(httpserver, retries=2)
    assert "no credit is left" in str(error) and error.for_all and len(httpserver.log) == 1


@pytest.mark.parametrize(
    "body",
    [completion(choices=None), completion(choices=[]), completion(choices={"a": 1}), [], "zebra", {}],
    ids=lambda body: json.dumps(body)[-30:],
)
def test_json_of_another_kind(httpserver, body):
    httpserver.expect_request(PATH).respond_with_json(body)
    assert "did not answer as the OpenAI API does" in str(failure(httpserver))


@pytest.mark.parametrize("content_type", ["text/html", "application/json"])
def test_a_web_page_with_status_200(httpserver, content_type):
    httpserver.expect_request(PATH).respond_with_data("<html>Log in</html>", content_type=content_type)
    assert "did not answer as the OpenAI API does" in str(failure(httpserver))


@pytest.mark.parametrize("text", [None, "", " \n", ["zebra"]])
def test_an_answer_without_text(httpserver, text):
    httpserver.expect_request(PATH).respond_with_json(completion(text))
    assert "answered without text (finish reason: stop)" in str(failure(httpserver))


def test_a_slow_server(httpserver):
    answered = threading.Event()
    httpserver.expect_request(PATH).respond_with_handler(lambda _: answered.wait(5))
    try:
        assert "did not answer in time" in str(failure(httpserver, timeout=0.2))
    finally:
        answered.set()


def test_a_server_that_drips(httpserver):
    from werkzeug import Response

    def drip(_):
        def bytes_one_by_one():
            for _ in range(30):
                time.sleep(0.1)
                yield b" "

        return Response(bytes_one_by_one(), content_type="application/json")

    httpserver.expect_request(PATH).respond_with_handler(drip)
    assert "did not answer in time" in str(failure(httpserver, timeout=0.5))


def test_no_server():
    with pytest.raises(LLMError, match="cannot be reached") as failed:
        ask_once(QUESTION, base_url="http://127.0.0.1:1/v1", retries=0)
    assert failed.value.for_all


# --- other forms of an answer ----------------------------------------------------------------------------------------


def stream(*deltas, **last):
    chunks = [{"choices": [{"delta": {"content": d}}]} for d in deltas] + [{"choices": [], **last}]
    return "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"


def test_a_server_that_only_streams_is_asked_to_stream(httpserver):
    httpserver.expect_ordered_request(PATH).respond_with_json(
        **refusal(None, message="This model only support stream mode, please enable the stream parameter")
    )
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    httpserver.expect_ordered_request(PATH).respond_with_data(
        stream('["ze', 'bra"]', usage=usage), content_type="text/event-stream"
    )
    response = ask_once(QUESTION, base_url=httpserver.url_for("/v1"))["response"]
    assert response["text"] == '["zebra"]' and response["usage"] == usage
    assert [body.get("stream") for body in sent(httpserver)] == [None, True]


@pytest.mark.parametrize(
    "message",
    [
        {"content": [{"type": "text", "text": '["ze'}, {"type": "text", "text": 'bra"]'}]},
        {"content": None, "tool_calls": [{"function": {"name": "answer", "arguments": '["zebra"]'}}]},
    ],
    ids=["parts", "tool call"],
)
def test_an_answer_in_parts_or_as_a_call_of_a_tool_is_read(httpserver, message):
    httpserver.expect_request(PATH).respond_with_json({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert ask_once(QUESTION, base_url=httpserver.url_for("/v1"))["response"]["text"] == '["zebra"]'


def test_only_thoughts_say_to_give_more_tokens(httpserver):
    message = {"content": "", "reasoning_content": "zebra ..."}
    httpserver.expect_request(PATH).respond_with_json({"choices": [{"message": message, "finish_reason": "length"}]})
    assert "larger max_tokens" in str(failure(httpserver))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("insufficient_quota", "no credit is left"),
        ("invalid_api_key", "refused the key"),
        ("model_not_found", "no model"),
    ],
)
def test_an_error_inside_a_200_counts_by_the_word_of_its_code(httpserver, code, words):
    httpserver.expect_request(PATH).respond_with_json({"error": {"message": "said so", "code": code}})
    error = failure(httpserver, retries=1)
    assert words in str(error) and error.for_all and len(httpserver.log) == 1


def test_an_error_inside_a_200_counts_by_its_code(httpserver):
    busy = {"choices": None, "error": {"message": "Provider returned error", "code": 429}}
    httpserver.expect_ordered_request(PATH).respond_with_json(busy)
    httpserver.expect_ordered_request(PATH).respond_with_json(
        {"error": {"message": "Insufficient credits", "code": 402}}
    )
    error = failure(httpserver, retries=1)
    assert "no credit is left (402" in str(error) and error.for_all and len(httpserver.log) == 2
    assert str(error).endswith("It says: Insufficient credits."), "a sentence, to which others may be added"
    httpserver.clear()
    late = completion("", finish="error")
    late["choices"][0]["error"] = {"code": 502, "message": "Upstream idle timeout exceeded"}
    httpserver.expect_request(PATH).respond_with_json(late)
    assert "Upstream idle timeout exceeded" in str(failure(httpserver))


# --- the environment of an office ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "value"), [("ALL_PROXY", "socks5://127.0.0.1:1"), ("HTTP_PROXY", "nonsense://x")])
def test_a_proxy_is_for_others_and_one_that_cannot_be_is_named(httpserver, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    httpserver.expect_request(PATH).respond_with_json(completion())
    assert ask_once(QUESTION, base_url=httpserver.url_for("/v1")), "this machine is asked directly"
    with pytest.raises(LLMError, match=variable):
        Client(Server.find("http://example.org/v1", KEY))


def test_a_proxy_that_answers_in_a_servers_place_is_named(httpserver, monkeypatch):
    httpserver.expect_request("/v1/chat/completions").respond_with_data("<html>no way</html>", status=503)
    monkeypatch.setenv("http_proxy", httpserver.url_for(""))
    error = failure(httpserver, base_url="http://model.example:9/v1")
    assert "model.example:9/v1 (asked through http_proxy) answered" in str(error)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert "(asked through http_proxy) cannot be reached" in str(
        failure(httpserver, base_url="http://model.example/v1")
    )
    monkeypatch.setenv("no_proxy", "model.example")
    assert Server.find("http://model.example/v1").proxy is None is Server.find("http://127.0.0.1/v1").proxy


def test_addresses_with_blanks_or_slashes_and_without_v1(httpserver):
    httpserver.expect_request(PATH).respond_with_json(completion())
    for end in (" ", "//"):
        assert ask_once(QUESTION, base_url=httpserver.url_for("/v1") + end, key=f" {KEY}\n")
    httpserver.expect_request("/chat/completions").respond_with_json({}, status=404)
    assert "many end in /v1" in str(failure(httpserver, base_url=httpserver.url_for("")))


def test_a_server_that_has_moved(httpserver):
    httpserver.expect_request(PATH).respond_with_data("", status=301, headers={"Location": "/v2/chat/completions"})
    error = failure(httpserver)
    assert "has moved (301)" in str(error) and error.for_all and len(httpserver.log) == 1


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_what_a_server_repeats_of_a_secret_is_kept_nowhere(httpserver):
    address = httpserver.url_for("/v1").replace("http://", "http://me:sw0rdfish@")
    httpserver.expect_request(PATH).respond_with_json(completion(f"{KEY} sw0rdfish \x1b[31mzebra"))
    recording = json.dumps(ask_once(QUESTION, base_url=address, key=KEY))
    assert KEY not in recording and "sw0rdfish" not in recording
    assert "sw0rdfish" not in repr(Server.find(address, KEY))


def test_the_key_of_the_environment_is_for_the_server_of_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert Server.find().key == KEY == Server.find("https://api.openai.com/v1").key
    assert Server.find("http://localhost:11434/v1").key == "none"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    assert Server.find("http://localhost:11434/v1").key == KEY
