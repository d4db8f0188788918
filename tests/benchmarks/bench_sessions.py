"""What an open session costs: memory of the server for each browser tab, beside a Streamlit app that does nothing.

``python tests/benchmarks/bench_sessions.py [SESSIONS]`` starts both apps, opens that many connections to each page, and
prints how much the server grew for each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

REPOSITORY = Path(__file__).parents[2]
PAGES = ("", "feature_maps", "cam", "filters")
TRIVIAL = "import streamlit as st\n\nst.title('nothing')\nst.slider('x', 0, 10)\n"
_MB = 2**20
_WARM_UP = 3  # sessions that come before the first measurement: what is loaded once is not a session's


@contextlib.contextmanager
def server(script: Path, data: Path) -> Iterator[tuple[int, psutil.Process]]:
    """Runs an app; gives its port and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    command += ["--server.headless", "true", "--server.address", "127.0.0.1", "--browser.gatherUsageStats", "false"]
    environment = {**os.environ, "CNNVIZ_DATA_DIR": str(data), "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=script.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health"):
                break
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


async def opened(port: int, page: str) -> websockets.ClientConnection:
    """A session whose first run has ended."""
    connection = await websockets.connect(
        f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"], max_size=None, open_timeout=60
    )
    message = BackMsg()
    message.rerun_script.page_name = page
    await connection.send(message.SerializeToString())
    while True:
        answer = ForwardMsg.FromString(await asyncio.wait_for(connection.recv(), 180))
        if answer.WhichOneof("type") == "script_finished":
            return connection


async def mb_per_session(port: int, process: psutil.Process, page: str, count: int) -> float:
    """By how much the server grows for each of some sessions, opened one after another and all kept open."""
    kept = [await opened(port, page) for _ in range(_WARM_UP)]
    await asyncio.sleep(1)
    before = process.memory_info().rss
    kept += [await opened(port, page) for _ in range(count)]
    await asyncio.sleep(1)
    grown = process.memory_info().rss - before
    for connection in kept:
        await connection.close()
    return grown / _MB / count


def main() -> None:
    """Prints a line for each page."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    with tempfile.TemporaryDirectory() as folder:
        trivial = Path(folder) / "trivial.py"
        trivial.write_text(TRIVIAL)
        with server(trivial, Path(folder)) as (port, process):
            bare = asyncio.run(mb_per_session(port, process, "", count))
        print(f"{'a Streamlit app that does nothing':36} {bare:6.2f} MB a session")
        with server(REPOSITORY / "app.py", Path(folder) / "data") as (port, process):
            for page in PAGES:
                mine = asyncio.run(mb_per_session(port, process, page, count))
                print(f"{'cnnviz ' + (page or 'home'):36} {mine:6.2f} MB a session, {mine - bare:+.2f} beyond it")


if __name__ == "__main__":
    main()
