"""A stamp reaches every notebook and README, and nothing else of them."""

import json
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llafs_lib.artifacts import SERIES
from llafs_lib.errors import LlafsError
from llafs_lib.tools import colab
from llafs_lib.tools.cli import main
from llafs_lib.tools.colab import changed_files, stamp, stamped_notebook, stamped_readme
from llafs_lib.tools.tutorial import project_root

ROOT = project_root()
ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
OWNERS = st.builds("{}{}".format, st.sampled_from(ALNUM), st.text(ALNUM + "-_", max_size=38))
NAMES = st.text(ALNUM + "._-", min_size=1, max_size=100).filter(lambda n: n.strip(".") and not n.endswith(".git"))


def book(root, name):
    return json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def setup_cell(root, name):
    (cell,) = [c for c in book(root, name)["cells"] if "setup" in c["metadata"].get("tags", [])]
    return "".join(cell["source"])


def files_of(root):
    return {p: p.read_bytes() for p in [root / "README.md", *sorted((root / "notebooks").iterdir())]}


@pytest.fixture
def project(in_tmp):
    """A copy of what is stamped, as the working directory."""
    (in_tmp / "notebooks").mkdir()
    for path in ("README.md", *(f"notebooks/{name}.ipynb" for name in SERIES)):
        shutil.copy(ROOT / path, in_tmp / path)
    return in_tmp


def test_the_committed_files_agree():
    (line,) = [line for line in setup_cell(ROOT, SERIES[0]).splitlines() if line.startswith("REPOSITORY = ")]
    assert not changed_files(line.split('"')[1])


def test_the_setup_cell_is_the_same_in_all_notebooks():
    assert len({setup_cell(ROOT, name) for name in SERIES}) == 1


def test_a_stamp_is_seen_in_every_notebook_and_in_the_table(project):
    assert len(stamp("first-one/its.library_2")) == len(SERIES) + 1
    table = (project / "README.md").read_text(encoding="utf-8").partition("## The series")[2]
    for name in SERIES:
        page = f"https://colab.research.google.com/github/first-one/its.library_2/blob/main/notebooks/{name}.ipynb"
        title, blank, badge, *_ = "".join(book(project, name)["cells"][0]["source"]).splitlines()
        assert title.startswith("# ") and not blank and badge.startswith("[![Open in Colab]") and f"]({page})" in badge
        assert 'REPOSITORY = "first-one/its.library_2"  # OWNER/NAME' in setup_cell(project, name)
        (row,) = [line for line in table.splitlines() if line.startswith("|") and f"(notebooks/{name}.ipynb)" in line]
        assert f"]({page}) |" in row


def images(root, name):
    """The addresses of the images in a notebook's text."""
    text = "".join("".join(cell["source"]) for cell in book(root, name)["cells"] if cell["cell_type"] == "markdown")
    return [address for address in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text) if "colab" not in address]


def test_a_stamped_notebook_shows_its_images_without_the_folder_beside_it(project):
    before = {name: images(project, name) for name in SERIES}
    assert any(before.values()) and all(a.startswith("../docs/") for found in before.values() for a in found)
    stamp("a/b")
    stamp("owner/na.me")
    raw = "https://raw.githubusercontent.com/owner/na.me/main/docs/"
    for name, old in before.items():
        assert images(project, name) == [raw + address.removeprefix("../docs/") for address in old]
    for path, text in changed_files("").items():
        path.write_text(text, encoding="utf-8")
    assert {name: images(project, name) for name in SERIES} == before


def test_stamping_for_another_repository_changes_only_what_names_it(project):
    stamp("a/b")
    before = {name: (project / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8") for name in SERIES}
    stamp("owner/name")
    for name, old in before.items():
        new = (project / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
        pairs = [(a, b) for a, b in zip(old.splitlines(), new.splitlines(), strict=True) if a != b]
        assert len(pairs) == 2 + len(images(project, name)) and all(
            a.replace("a/b", "owner/name") == b for a, b in pairs
        )


def test_a_second_stamp_changes_no_byte_and_another_repository_takes_the_place(project):
    stamp("owner/name")
    once = files_of(project)
    assert stamp("owner/name") == [] and files_of(project) == once
    assert len(stamp("other/fork")) == len(once)
    assert not [p for p, content in files_of(project).items() if b"owner/name" in content]
    stamp("owner/name")
    assert files_of(project) == once


@given(OWNERS, NAMES)
def test_any_repository_is_taken_and_found_again(owner, name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    path = ROOT / "notebooks" / f"{SERIES[0]}.ipynb"
    repository = f"{owner}/{name}"
    assert colab._OWNER_NAME.fullmatch(repository)
    stamped = stamped_readme(readme, repository)
    assert stamped.count(f"/{repository}/blob/") == len(SERIES)
    assert stamped_readme(stamped, repository) == stamped
    assert stamped_readme(stamped, "") == stamped_readme(readme, "")
    assert f'REPOSITORY = \\"{repository}\\"  #' in stamped_notebook(path, repository)


@pytest.mark.parametrize(
    "wrong",
    ["", "name", "a/b/c", "https://github.com/a/b", "a b/c", 'a/b"', "a/b\n", "-a/b", "a/.", "a/..", "a/b.git", "ä/b"],
)
def test_what_is_no_repository_is_refused_and_nothing_written(project, wrong, capsys):
    before = files_of(project)
    assert main(["stamp", f"--repo={wrong}"]) == 2
    assert "say OWNER/NAME" in capsys.readouterr().err and files_of(project) == before


def test_a_badge_for_another_repository_than_the_setup_cells_is_found(project):
    stamp("owner/name")
    path = project / "notebooks" / f"{SERIES[1]}.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("github/owner/name/", "github/owner/fork/"), "utf-8")
    assert stamp("owner/name") == [path]


def test_a_row_that_is_missing_in_the_table_is_named_and_nothing_written(project):
    readme = project / "README.md"
    kept = [line for line in readme.read_text("utf-8").splitlines() if "| [01 · " not in line[:8]]
    readme.write_text("\n".join(kept) + "\n", "utf-8")
    before = files_of(project)
    with pytest.raises(LlafsError, match="no row for 01_data_folds"):
        stamp("owner/name")
    assert files_of(project) == before


def test_a_notebook_without_the_line_is_named(project):
    path = project / "notebooks" / f"{SERIES[0]}.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("REPOSITORY = ", "REPO = "), "utf-8")
    with pytest.raises(LlafsError, match=f"{SERIES[0]}.ipynb has no cell tagged"):
        stamp("owner/name")


def test_without_a_repository_the_command_asks_for_one(project, capsys):
    assert main(["stamp"]) == 2 and "required: --repo" in capsys.readouterr().err
