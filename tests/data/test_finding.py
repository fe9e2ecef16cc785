"""Names of images in an annotation file: what is found is in the folder, whatever the name."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llafs_lib.data.finding import ImageFolder
from llafs_lib.errors import LlafsError

PARTS = [
    "..",
    ".",
    "",
    "/",
    "\\",
    "a",
    "A.JPG",
    "a.jpg",
    "sub",
    "é.jpg",
    "secret.jpg",
    "C:",
    "file://",
    "http://h",
    "?d=",
    "%2e%2e",
    "\0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("finding")
    for name in ("secret.jpg", "images/a.jpg", "images/sub/a.jpg", "images/sub/é.jpg", "images/.hidden/h.jpg"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return root / "images"


@given(
    st.lists(st.sampled_from(PARTS), max_size=6).map("/".join)
    | st.lists(st.sampled_from(PARTS)).map("".join)
    | st.text()
)
@example("/data/local-files/?d=../secret.jpg")
@example("http://h/../../secret.jpg")
@example("file:///%2e%2e/secret.jpg")
@example("..%2fsecret.jpg")
def test_whatever_is_found_lies_in_the_folder(folder, name):
    try:
        found = ImageFolder(folder).find(name)
    except LlafsError as error:
        assert "leads out of the image folder" in str(error)
        return
    if found is not None:
        assert not os.path.isabs(found) and ".." not in found.split("/") and (folder / found).is_file()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("SUB/A.jpg", "sub/a.jpg"),
        ("other/sub/a.jpg", "sub/a.jpg"),
        ("é.jpg", "sub/é.jpg"),
        ("other/a.jpg", "a.jpg"),
        ("h.jpg", None),
        ("b.jpg", None),
        ("sub", None),
        ("", None),
        (".", None),
    ],
)
def test_the_longest_end_of_a_path_decides(folder, name, found):
    assert ImageFolder(folder).find(name) == found


def test_a_name_that_fits_several_files_is_not_guessed(folder, tmp_path):
    for sub in ("one", "two"):
        (tmp_path / sub).mkdir()
        (tmp_path / sub / "p.jpg").write_text("")
    assert ImageFolder(tmp_path).find("p.jpg") is None and ImageFolder(tmp_path).find("x/one/p.jpg") == "one/p.jpg"
