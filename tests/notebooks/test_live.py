"""Notebook 03 with a model to ask, over HTTP: it asks once, and the key is found nowhere afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from llafs_lib.artifacts import RunFolder
from llafs_lib.classes import DATASETS
from llafs_lib.data.folds import make_fold, open_dataset, save_fold
from llafs_lib.data.toy.dataset import make_toy
from llafs_lib.language.relations import load_related
from llafs_lib.tools.tutorial import project_root

pytestmark = pytest.mark.slow
KEY = "sk-recognisable-0123456789abcdef"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The drawn scenes, drawn once."""
    return make_toy(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture
def workplace(toy, tmp_path, monkeypatch):
    """A folder with the notebooks, the library and the data, and with what notebook 01 leaves behind."""
    (tmp_path / "data").mkdir()
    root = project_root()
    for name, target in (("notebooks", root / "notebooks"), ("llafs_lib", root / "llafs_lib"), ("data/toy", toy)):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    save_fold(RunFolder("runs", "toy", 0), make_fold(open_dataset("toy"), 0))
    return tmp_path


@pytest.fixture
def server():
    with HTTPServer(threaded=True) as server:
        yield server


def answer(request):
    scores = {"horse": 0.5, "car": 0.4, "vase": 0.3}
    content = json.dumps({"related": [{"class": name, "score": score} for name, score in scores.items()]})
    usage = {"prompt_tokens": 700, "completion_tokens": 40, "total_tokens": 740}
    body = {"model": "m", "usage": usage, "choices": [{"finish_reason": "stop", "message": {"content": content}}]}
    return Response(json.dumps(body), content_type="application/json")


def run(folder, server, **parameters):
    """Execute notebook 03 as a user would, with the client's debug log on; the return code and all that was printed."""
    given = [part for name, value in parameters.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "papermill", "notebooks/03_llm_prompting.ipynb", "out.ipynb", "-k", "python3"]
    done = subprocess.run(
        [*command, "--log-output", *given], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": server.url_for("/v1"), "OPENAI_LOG": "debug"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def files_with_the_key(folder: Path):
    """Every file that a run wrote and that holds the key."""
    written = [p for name in ("runs", "data/llm_cache") for p in (folder / name).rglob("*")] + list(
        folder.glob("*.ipynb")
    )
    return [p for p in written if p.is_file() and KEY.encode() in p.read_bytes()]


def test_a_live_run_asks_once_and_keeps_no_key(workplace, server):
    server.expect_request("/v1/chat/completions").respond_with_handler(answer)
    code, printed = run(workplace, server, llm="m")
    assert code == 0, printed
    assert len(server.log) == 5 and all(r.headers["Authorization"] == f"Bearer {KEY}" for r, _ in server.log)
    related = load_related(RunFolder("runs", "toy", 0))
    assert set(related) == set(DATASETS["toy"].novel(0)) and {a.source for a in related.values()} == {"live"}
    assert "5 calls, 5 of them made now; 3,500 prompt and 200 completion tokens" in printed
    assert len(list(workplace.glob("data/llm_cache/*/*.json"))) == 5
    code, printed = run(workplace, server, llm="m")
    assert code == 0 and "5 calls, 0 of them made now" in printed and len(server.log) == 5
    assert not files_with_the_key(workplace) and KEY not in printed


def test_a_run_that_fails_shows_no_key(workplace, server):
    body = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    server.expect_request("/v1/chat/completions").respond_with_json(body, status=401)
    code, printed = run(workplace, server, llm="m")
    assert code != 0 and "refused the key (401)" in printed
    assert not files_with_the_key(workplace) and KEY not in printed


def test_a_budget_stops_the_notebook_before_anything_is_sent(workplace, server):
    server.expect_request("/v1/chat/completions").respond_with_handler(answer)
    code, printed = run(workplace, server, llm="gpt-5.4-mini", llm_budget="0.001")
    assert code != 0 and "budget of $0.001 might be exceeded" in printed and not server.log
