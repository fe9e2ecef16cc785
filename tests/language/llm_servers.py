"""Answers in OpenAI's form, and one call to whoever gives them."""

from llafs_lib.language import client

KEY = "sk-recognisable-0123456789"
PATH = "/v1/chat/completions"


def completion(text='{"related": [{"class": "zebra", "score": 0.9}]}', finish="stop", **changes):
    """A chat completion as a server sends it."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "some-model-2025",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        **changes,
    }


def refusal(parameter, status=400, message="not supported"):
    """An error as OpenAI sends it, about one parameter."""
    body = {"error": {"message": message, "type": "invalid_request_error", "param": parameter, "code": None}}
    return {"response_json": body, "status": status}


def ask_once(question, max_tokens=None, **server):
    """One call over a connection of its own."""

    with client.Client(client.Server.find(**server)) as connection:
        return connection.ask(question, max_tokens)
