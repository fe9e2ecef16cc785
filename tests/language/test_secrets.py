"""Whatever a server repeats, neither the key nor the address's password is printed, logged, kept or shown."""

import io
import json
import logging
import re
import traceback
from pathlib import Path

import pytest
from llm_servers import KEY, PATH, completion
from werkzeug import Response

from llafs_lib.classes import COCO_CLASSES
from llafs_lib.errors import LlafsError
from llafs_lib.language.asking import Asker
from llafs_lib.language.server import Server
from llafs_lib.tools.cli import main

PASSWORD, CODE = "sw0rdfish", "c0de-of-the-query"
CLIENTS = ("openai", "httpx", "httpcore")  # the loggers that see addresses
ROOT = Path(__file__).parents[2]
ECHO = f"\x1b[31mcalled as http://me:{PASSWORD}@localhost/v1 with ?code={CODE} and Authorization: Bearer {KEY}"
BODIES = {
    "error": {"error": {"message": ECHO, "code": ECHO, "param": ECHO}},
    "list": [{"error": {"message": ECHO}}],
    "detail": {"detail": [{"msg": ECHO, "input": {"headers": {"authorization": KEY}}}]},
    "text": ECHO,
    "answer": completion(f'{ECHO}\n["zebra", "{KEY}"]', model=KEY),
    "refusal": completion(None) | {"choices": [{"message": {"content": None, "refusal": ECHO}, "finish_reason": ECHO}]},
    "inside": {"choices": None, "error": {"message": ECHO, "code": 400, "metadata": {"raw": KEY}}},
}


def secrets_in(*texts):
    return [secret for secret in (KEY, PASSWORD, CODE, "\x1b") for text in texts if secret in text]


TRIES = [(kind, status) for kind in BODIES for status in (200, 400)]
TRIES += [("error", status) for status in (301, 401, 403, 404, 422, 429, 500)]
# Each starts a process: every kind of body once in the fast suite, the rest in the slow one.
QUICK = {(kind, 200 if kind in ("answer", "refusal", "inside") else 400) for kind in BODIES}
TRIES = [pytest.param(*one, marks=() if one in QUICK else pytest.mark.slow) for one in TRIES]


@pytest.mark.parametrize(("kind", "status"), TRIES)
def test_what_a_server_repeats_is_in_no_output_log_file_or_repr(
    httpserver, monkeypatch, capsys, tmp_path, kind, status
):
    body = BODIES[kind]
    httpserver.expect_request(PATH).respond_with_handler(
        lambda _: Response(json.dumps(body), status, content_type="application/json", headers={"retry-after-ms": "1"})
    )
    address = httpserver.url_for("/v1").replace("http://", f"http://me:{PASSWORD}@") + f"?code={CODE}"
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    for name in CLIENTS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.DEBUG)
    try:
        asker = Asker("m", api_key=KEY, base_url=address, cache=tmp_path / "cache", retries=1)
        try:
            said = repr(asker.related("okapi", COCO_CLASSES))
        except LlafsError as error:
            said = "".join(traceback.format_exception(error)) + repr(error)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        main(["ask", "okapi", "--llm", "m"])
    finally:
        for name in CLIENTS:
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(logging.NOTSET)
    printed = capsys.readouterr()
    kept = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert kept or status != 200 or kind != "answer"
    assert "HTTP" in logged.getvalue()
    shown = [said, repr(asker), str(asker), repr(Server.find()), printed.out, printed.err, logged.getvalue(), *kept]
    assert not secrets_in(*shown)


def test_no_committed_recording_or_notebook_holds_a_key_or_an_address_with_a_password():
    secret = re.compile(r"\bsk-[A-Za-z0-9_-]{16,}|Bearer [A-Za-z0-9_.-]{8,}|https?://[^\s/\"'\\]+:[^\s/\"'\\]+@")
    files = [*ROOT.glob("llafs_lib/language/recorded/*/*.json"), *ROOT.glob("notebooks/*.ipynb")]
    assert len(files) > 100
    assert not [path for path in files if secret.search(path.read_text(encoding="utf-8"))]
