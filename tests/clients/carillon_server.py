"""Starts the real binary for a test on a free port with an empty data directory, and stops it by SIGTERM."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

START_ATTEMPTS_MAX = 3
READY_S_MAX = 20
POLL_S = 0.05
# Longer than the server's own drain timeout, which is 25 s.
STOP_S_MAX = 35
LOG_BYTES_MAX = 20_000
# Signs the tokens of these tests (tokens.py). The server requires at least 32 bytes.
SECRET = "a secret of the client tests, known to nobody else"

BINARY = os.environ.get("CARILLON_BIN") or str(Path(__file__).parents[2] / "target/debug/carillon")


def missing():
    """The reason why a server cannot be started here, or None."""
    return None if os.access(BINARY, os.X_OK) else f"{BINARY} is missing"


def start_carillon():
    for attempt in range(1, START_ATTEMPTS_MAX + 1):
        server = Carillon(free_port())
        try:
            server.wait_until_ready()
            return server
        except RuntimeError:
            server.kill()
            # Another program may have taken the free port meanwhile.
            if attempt == START_ATTEMPTS_MAX:
                raise


class Carillon:
    def __init__(self, port):
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="carillon-clients-"))
        self.log_path = self.directory / "log"
        self.start()

    def start(self):
        data_directory = str(self.directory / "data")
        arguments = ["standalone", "--dev", "--listen", f"127.0.0.1:{self.port}", "--data-dir", data_directory]
        environment = {**clean_environment(), "AUTH_SECRET": SECRET}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [BINARY, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def crash(self):
        """Kills the server by SIGKILL. Data that is not written to disk at this moment is lost."""
        self.process.kill()
        self.process.wait()

    def start_again(self):
        """Starts the server again on the same port and with the same data directory."""
        self.start()
        self.wait_until_ready()

    def socket_url(self, user_id, name=None):
        query = f"?name={urllib.parse.quote(name)}" if name else ""
        return f"ws://127.0.0.1:{self.port}/ws/{urllib.parse.quote(user_id, safe='')}{query}"

    def wait_until_ready(self):
        deadline = time.monotonic() + READY_S_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1) as response:
                    if response.status == 200:
                        return
            except OSError:
                pass
            time.sleep(POLL_S)
        end = self.process.poll()
        what = f"was not ready within {READY_S_MAX} s" if end is None else f"ended with {end}"
        raise RuntimeError(f"carillon {what}, it wrote:\n{self.log()}")

    def terminate(self):
        """Stops the server by SIGTERM, as an operator does. It must end with exit code 0 in time."""
        self.process.send_signal(signal.SIGTERM)
        try:
            end = self.process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            end = "nothing in time"
        if end != 0:
            raise RuntimeError(f"carillon ended with {end} on SIGTERM, it wrote:\n{self.log()}")

    def stop(self):
        """Terminates the server and deletes its data."""
        try:
            self.terminate()
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self):
        return self.log_path.read_bytes()[-LOG_BYTES_MAX:].decode(errors="replace")


def clean_environment():
    """The caller's settings are removed: the tests must not depend on them, and the server refuses unknown ones."""
    foreign = re.compile("(CARILLON_|AUTH_|NATS_|SCYLLA_|WEBSOCKET_)")
    return {name: value for name, value in os.environ.items() if not foreign.match(name)}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
