import pytest

from llafs_lib import progress


@pytest.mark.parametrize("style", ["bar", "lines", "none"])
def test_every_item_comes_through(monkeypatch, style):
    monkeypatch.setenv("LLAFS_PROGRESS", style)
    assert list(progress.track(range(5), "counting", "number")) == list(range(5))


def test_lines_say_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setenv("LLAFS_PROGRESS", "lines")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    list(progress.track("abc", "reading", "letter"))
    assert capsys.readouterr().out.splitlines()[1].startswith("reading: 1 of 3, ")


def test_no_output_when_none_is_wanted(monkeypatch, capsys):
    monkeypatch.setenv("LLAFS_PROGRESS", "none")
    list(progress.track(range(3), "counting", "number"))
    assert capsys.readouterr() == ("", "")
