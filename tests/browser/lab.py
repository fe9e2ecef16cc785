"""JupyterLab as a reader meets it: a server of its own, a page per notebook, the menus below a figure."""

import base64
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
from PIL import Image
from tiny_run import children_of, is_running, wait_for

STATE = """() => {
    const panel = window.jupyterapp?.shell.currentWidget, cells = panel?.content?.widgets ?? [];
    const code = cells.map(cell => cell.model).filter(model => model.type === 'code');
    const failed = code.flatMap(model => model.outputs.toJSON()).filter(o => o.output_type === 'error');
    const left = code.filter(model => model.executionCount === null).length;
    const status = panel?.sessionContext?.session?.kernel?.status;
    return {cells: code.length, left, status, failed: failed.map(o => `${o.ename}: ${o.evalue}`)};
}"""
FINISHED = f"() => {{ const s = ({STATE})(); return s.failed.length || s.cells && !s.left && s.status === 'idle' }}"
BYTES = """async image => {
    const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
    return btoa(bytes.reduce((text, byte) => text + String.fromCharCode(byte), ''));
}"""
WATCH = """note => {
    window.said = [];
    new MutationObserver(() => window.said.push(note.textContent)).observe(note, {subtree: true, childList: true});
}"""


@contextmanager
def served(root, state):
    """Yield the address of JupyterLab on `root`, which keeps all that is its own in `state`, and end it afterwards.

    Its kernels end with it. Should nobody be left to end it, it does so itself after five idle minutes.
    """
    folders = {f"JUPYTER_{n}_DIR": str(state / n.lower()) for n in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {f"JUPYTERLAB_{n}_DIR": str(state / n.lower()) for n in ("SETTINGS", "WORKSPACES")}
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={root}"),
        *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--expose-app-in-browser"),
        *("--LabApp.extension_manager=readonly", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"),
        *("--ServerApp.shutdown_no_activity_timeout=300", "--MappingKernelManager.cull_idle_timeout=300"),
    ]
    asks = state / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    asks.parent.mkdir(parents=True)
    asks.write_text('{"fetchNews": "false"}')  # or it asks over the figures whether it may
    log = state / "jupyter.log"
    with log.open("w") as said:
        own = os.environ | folders | {"IPYTHONDIR": str(state / "ipython")}
        server = subprocess.Popen(command, cwd=root, env=own, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
    try:
        facts = state / "runtime" / f"jpserver-{server.pid}.json"
        wait_for(lambda: facts.is_file() or server.poll() is not None, 60)
        assert server.poll() is None, log.read_text()
        wait_for(lambda: "is running at" in log.read_text(), 60)
        yield json.loads(facts.read_text())
    finally:
        kernels = children_of(server.pid)
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        wait_for(lambda: not any(is_running(k) for k in kernels), 60)


class Book:
    """A notebook in a page of JupyterLab; a workspace of its own, or the tabs of the one before come back.

    Attributes:
        complaints: what the browser's console and the page itself reported as errors.
        strangers: addresses outside this machine that were asked for.
    """

    def __init__(self, browser, lab, name):
        self.page = browser.new_page(viewport={"width": 1280, "height": 1000})
        self.complaints, self.strangers = [], []
        self.page.on("console", self._listen)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url, lab["url"]))
        self.page.goto(f"{lab['url']}lab/workspaces/{name}/tree/notebooks/{name}.ipynb?token={lab['token']}")

    def _listen(self, message):
        if message.type == "error":
            self.complaints.append(f"{message.text} {message.location['url']}")

    def _note(self, url, own):
        if not url.startswith((own, own.replace("http", "ws"), "data:", f"blob:{own}")):
            self.strangers.append(url)

    def run_all(self):
        """Run every cell from the menu and wait for the last; how that went."""
        self.page.wait_for_function(f"() => ({STATE})().status === 'idle'", timeout=60_000)
        self.page.locator("#jp-MainMenu").get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(FINISHED, timeout=240_000)
        return self.page.evaluate(STATE)

    def close(self):
        """Leave the page, and with it nothing that runs."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()


class Widget:
    """The menus and the figure that `llafs_lib.widgets.browse` shows."""

    def __init__(self, book):
        self.page = book.page
        self.box = self.page.locator(".jp-OutputArea-output .widget-vbox")
        self.image = self.box.locator("img")
        self.note = self.box.locator(".widget-html-content")
        self.box.scroll_into_view_if_needed()
        self.note.evaluate(WATCH)

    def menu(self, label):
        return self.box.get_by_label(label, exact=True)

    def figure(self):
        """The figure that is shown, [H, W, 3]."""
        data = base64.b64decode(self.image.evaluate(BYTES))
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def choose(self, **choices):
        """Change menus as a reader would, wait for the figure that follows, and return it."""
        for label, option in choices.items():
            with self.another_figure():
                self.menu(label.replace("_", " ")).select_option(option)
        return self.figure()

    @contextmanager
    def another_figure(self):
        before = self.image.get_attribute("src")
        yield
        self.page.wait_for_function(
            "([image, note, before]) => image.src !== before && image.naturalWidth > 0 && !note.textContent",
            arg=[self.image.element_handle(), self.note.element_handle(), before],
            timeout=60_000,
        )

    def said(self):
        """All that the note below the menus has said so far."""
        return self.page.evaluate("window.said")

    def screenshot(self, path):
        self.box.scroll_into_view_if_needed()
        self.page.screenshot(path=path)
