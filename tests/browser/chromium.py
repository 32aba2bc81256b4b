"""Where Chromium is, and how it is started for tests: without a network of its own."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
LAUNCH_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class ChromiumMissing(Exception):
    """No Chromium is installed; the message says what was looked for."""


def chromium_path() -> str:
    """The executable of the system's Chromium.

    Raises:
        ChromiumMissing: none of the usual names is on the PATH.
    """
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise ChromiumMissing(f"The browser tests need Chromium: none of {', '.join(NAMES)} is on the PATH.")
