"""Which tests share a process, where two of them run the suite (`make test`), and which of these groups begin first."""

import pytest

# A group that takes minutes must not begin when the other process is about to end. The first takes longest.
LONGEST = ("the tiny run", "test_colab", "test_series", "test_sweep")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items):
    """Group the tests of a file, and the files in which any test needs the run of `finished_run`."""
    sharing = {item.path for item in items if "killed_run" in getattr(item, "fixturenames", ())}

    def place(item):
        name = "the tiny run" if item.path in sharing else item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)
    for item in items:
        item.add_marker(pytest.mark.xdist_group("the tiny run" if item.path in sharing else str(item.path)))
