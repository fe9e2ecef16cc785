"""Ctrl-C and SIGTERM end a command in one line, with the status that shells expect, and keep what was finished."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from own_file import draw_own

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at once")
ENDED = "llafs: interrupted. What was finished is kept: give the same command again to go on.\n"
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
from llafs_lib import __main__

class Loads:  # says when the handlers are in place, and the program is about to be loaded
    def find_spec(name, *_):
        if name == "llafs_lib.tools.cli":
            print("ready", flush=True)

sys.meta_path.insert(0, Loads)
{}
sys.exit(__main__.run())
"""


def started(code, *arguments, **given):
    """A process of `llafs`, changed by `code`, once it is ready for signals."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **given}
    process = subprocess.Popen([sys.executable, "-c", RUN.format(code), *arguments], **pipes)
    assert process.stdout.readline() == "ready\n"
    return process


def with_main(*lines):
    """Code that puts a function of these lines in place of the command line's."""
    body = "\n".join(f"    {line}" for line in lines)
    source = f"import time\ndef main():\n    print('ready', flush=True)\n{body}"
    return (
        f"import types; c = types.ModuleType('c'); exec({source!r}, c.__dict__); sys.modules['llafs_lib.tools.cli'] = c"
    )


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "lines",
    [
        ["time.sleep(600)"],
        ["try:", "    time.sleep(600)", "except BaseException:", "    raise ValueError('of a library') from None"],
        ["try:", "    time.sleep(600)", "except BaseException:", "    return 0"],
    ],
    ids=["plain", "made another error", "swallowed"],
)
def test_whatever_becomes_of_the_interrupt_it_is_one_line(number, lines):
    process = started(with_main(*lines))
    process.send_signal(number)
    process.send_signal(number)  # as `timeout` sends it
    assert process.communicate(timeout=60)[1] == ENDED and process.returncode == SIGNALS[number]


def test_who_asks_again_is_obeyed_at_once():
    process = started(with_main("try:", "    time.sleep(600)", "finally:", "    time.sleep(600)"))
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ENDED and process.returncode == 130


@pytest.mark.parametrize(
    "command", ["demo", "tutorial --budget tiny", "sweep --seeds 0", "ask giraffe", "app --no-open"]
)
def test_an_interrupt_while_the_program_loads_is_one_line(in_tmp, command):
    process = started("pass", *command.split(), cwd=in_tmp)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[1] == ENDED and process.returncode == 130


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_bank_that_is_interrupted_is_finished_by_the_next_call(in_tmp, number):
    file = draw_own(in_tmp, [("hen",), ("pony",)] * 60)
    command = ["bank", str(file.parent / "images"), str(file), "-o", "bank"]
    slowly = (
        "from llafs_lib.retrieval import bank as b; import time; w = b._write_rows; "
        "b._write_rows = lambda *a: (w(*a), time.sleep(0.2), print('row', flush=True))"
    )
    data = os.environ | {"LLAFS_PROGRESS": "none"}
    process = started(slowly, *command, "--backbone", "small", cwd=in_tmp, env=data)
    for _ in range(3):
        assert process.stdout.readline() == "row\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert err.endswith(ENDED) and err.count("\n") == 1 and process.returncode == SIGNALS[number]
    process = started("pass", *command, "--backbone", "small", cwd=in_tmp, env=data)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "written: bank" in out, err


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_tutorial_ends_with_its_kernel(in_tmp, number):
    pytest.importorskip("papermill", reason="notebooks need papermill: pip install -e .[notebooks]")
    code = "import os, pathlib, time; pathlib.Path('begun').write_text(str(os.getpid())); time.sleep(600)"
    cells = [
        {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}
        for metadata, source in (({"tags": ["parameters"]}, "fold = 0"), ({}, code))
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (in_tmp / "notebooks").mkdir()
    for name in ("01_data_folds", "03_llm_prompting"):
        text = json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4})
        (in_tmp / "notebooks" / f"{name}.ipynb").write_text(text)
    process = started("pass", "tutorial", "--only", "01", cwd=in_tmp)
    end = time.monotonic() + 200
    while not (in_tmp / "begun").is_file() or not (in_tmp / "begun").read_text():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert err.endswith(ENDED) and "Traceback" not in err and process.returncode == SIGNALS[number]
    with pytest.raises(ProcessLookupError):
        os.kill(int((in_tmp / "begun").read_text()), 0)
    left = {p.name for p in (in_tmp / "runs" / "toy" / "fold0").rglob("*") if p.is_file()}
    assert left == {".lock", "01_data_folds.partial.ipynb", "01_data_folds.log"}
