import getpass
import sys
import types

import pytest

from llafs_lib.language.server import Server, find_key


@pytest.fixture
def typed(monkeypatch):
    """Somebody at the keyboard; the list of what was asked."""
    asked = []

    def answer(prompt):
        asked.append(prompt)
        return " typed-key "

    monkeypatch.setattr(getpass, "getpass", answer)
    return asked


def colab(monkeypatch, get):
    module = types.ModuleType("google.colab")
    module.userdata = types.SimpleNamespace(get=get)
    monkeypatch.setitem(sys.modules, "google.colab", module)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))


def test_the_environment_comes_first(monkeypatch, typed):
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    colab(monkeypatch, lambda name: "from-colab")
    assert find_key() == "from-the-environment" and not typed


def test_then_colabs_secret(monkeypatch, typed):
    colab(monkeypatch, {"OPENAI_API_KEY": "from-colab"}.get)
    assert find_key() == "from-colab" and not typed


def test_then_whoever_is_there(monkeypatch, typed):
    def no_such_secret(name):
        raise LookupError(name)

    colab(monkeypatch, no_such_secret)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert find_key() == "typed-key" and len(typed) == 1


def test_nobody_is_asked_where_nobody_is_there(monkeypatch, typed):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert find_key() is None and not typed


def test_a_notebook_that_is_executed_without_a_reader_goes_on(monkeypatch):
    def not_allowed(_):
        raise NotImplementedError("getpass was called, but this frontend does not support input requests.")

    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(getpass, "getpass", not_allowed)
    assert find_key() is None


def test_a_server_of_ones_own_needs_none(monkeypatch, typed):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    assert find_key() is None and not typed


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "0.0.0.0", "[::]", "ollama.localhost"])
def test_no_proxy_stands_before_this_machine(host, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:8080")
    assert Server(f"http://{host}:11434/v1", "k").proxy is None
    assert Server("http://localhost.example/v1", "k").proxy == "HTTP_PROXY"
