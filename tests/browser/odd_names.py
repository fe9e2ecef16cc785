"""Names of classes and files that would run in a page which took them for HTML, and how to see whether one did."""

import random

IMAGE = '"><img src=x>.png'
FIRST = "<script>alert(1)</script>"
_OPEN = ("", '">', "'>", "</textarea>", "</td>", "-->", "</script>", "&lt;", "$a$ ", "{{7*7}} ", "](")
_RUN = (
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<b onmouseover=alert(1)>x</b>",
    "<iframe src=javascript:alert(1)>",
    "[x](javascript:alert(1))",
    "<details open ontoggle=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "![](x)",
    "<style onload=alert(1)></style>",
    "<script>alert(1)</script>",
)


def odd_names(n: int = 20) -> list[str]:
    """`FIRST`, and n drawn ones of at most 64 characters."""
    draw, found = random.Random(0), {FIRST: None}
    while len(found) <= n:
        name = draw.choice(_OPEN) + draw.choice(_RUN) + draw.choice(("", " ", "<", '"', "&amp;"))
        if len(name.strip()) <= 64:
            found[name.strip()] = None
    return list(found)


class Watch:
    """What happened on a page that must not: `alarms` are dialogs, errors, and elements that a name has made.

    Args:
        own: beginnings of the addresses that the page may ask for.
    """

    def __init__(self, page, *own):
        self.page, self.own, self.alarms = page, (*own, "data:", "blob:"), []
        page.on("dialog", self._dialog)
        page.on("pageerror", lambda error: self.alarms.append(f"error: {error}"))
        page.on("request", self._request)

    def _dialog(self, dialog):
        self.alarms.append(f"ran: {dialog.message}")
        dialog.dismiss()

    def _request(self, request):
        if not request.url.startswith(self.own) or request.url.endswith("/x"):
            self.alarms.append(f"asked for: {request.url}")

    def made(self):
        """How many elements of the page can only be from a name."""
        from_names = (
            "img[src=x], [onload], [onerror], [onmouseover], [ontoggle], [href^='javascript:'], [src^='javascript:']"
        )
        script = "query => document.querySelectorAll(query).length"
        inline = "() => [...document.scripts].filter(s => s.textContent.trim() === 'alert(1)').length"
        return self.page.evaluate(script, from_names) + self.page.evaluate(inline)
