"""Which tests share a process, where two of them run the suite (`make test`), and which of these groups begin first."""

import pytest

# A group that takes minutes must not begin when the other process is about to end. The first takes longest.
LONGEST = ("the tiny run", "test_colab", "test_series", "test_wheel", "test_sweep")


def group_of(item) -> str:
    """All tests of a file, or all tests of any file that share the run of `finished_run`."""
    return "the tiny run" if "killed_run" in getattr(item, "fixturenames", ()) else str(item.path)


def _place(item) -> int:
    names = (group_of(item), item.path.stem)
    return next((n for n, group in enumerate(LONGEST) if group in names), len(LONGEST))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items):
    items.sort(key=_place)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
