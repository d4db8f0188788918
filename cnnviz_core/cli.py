"""The commands ``cnnviz``, which starts the app from a checkout or an installed package, and ``cnnviz-health``."""

from __future__ import annotations

import os
import sys
import urllib.request
from pathlib import Path

from cnnviz_core import settings
from cnnviz_core.errors import BadSetting

_PACKAGE = Path(__file__).parent


def app_folder() -> Path:
    """Where app.py lies: beside the package in a checkout, inside it when installed.

    Raises:
        FileNotFoundError: In neither place.
    """
    for folder in (_PACKAGE / "_app", _PACKAGE.parent):
        if (folder / "app.py").is_file():
            return folder
    raise FileNotFoundError("app.py is missing from this installation of cnnviz; install it again.")


def main() -> None:
    """Runs ``streamlit run app.py`` with the arguments given, such as ``--server.port 8080``.

    Raises:
        SystemExit: Settings are wrong; says which.
    """
    try:
        settings.current()
    except BadSetting as error:
        raise SystemExit(f"cnnviz does not start, since its settings are wrong.\n{error}") from None
    folder = app_folder()
    arguments = [sys.executable, "-m", "streamlit", "run", str(folder / "app.py"), *sys.argv[1:]]
    if data_dir := os.environ.get("CNNVIZ_DATA_DIR"):
        os.environ["CNNVIZ_DATA_DIR"] = str(Path(data_dir).expanduser().resolve())
    os.chdir(folder)  # where Streamlit looks for .streamlit/config.toml
    os.execv(sys.executable, arguments)  # noqa: S606 - the same interpreter, no shell


def health() -> None:
    """Asks the app on this machine whether it is there; for a container's health check.

    Port and base path are those of Streamlit's variables ``STREAMLIT_SERVER_PORT`` and
    ``STREAMLIT_SERVER_BASE_URL_PATH``.

    Raises:
        SystemExit: It is not, with the reason.
    """
    port = os.environ.get("STREAMLIT_SERVER_PORT", "8501")
    base = os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", "").strip("/")
    url = f"http://127.0.0.1:{port}/{base}{'/' if base else ''}_stcore/health"
    try:
        with urllib.request.urlopen(url, timeout=4):
            pass
    except OSError as error:
        raise SystemExit(f"{url}: {error}") from error


if __name__ == "__main__":
    main()
