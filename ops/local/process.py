"""One server as a child process: start, wait until it is ready, stop, kill, pause."""

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_INTERVAL_S = 0.02
_LOG_TAIL_LINES = 20


class ServerError(RuntimeError):
    """A local server can't start or isn't ready in time. The message says what to do or ends with its log."""


class ServerProcess:
    """A child process in a process group of its own, so that Ctrl-C in the terminal does not reach it.

    All methods block; from a coroutine call them through `asyncio.to_thread`. After `stop` or `kill` the same
    object can be started again: it appends to the same log file. Leaving the context stops the process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`env` is the whole environment of the process; None passes on our own."""
        self.name = name
        self.log_path = log_path
        self._command = [os.fspath(part) for part in command]
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; use `wait_ready` to know when it serves.

        Raises:
            ServerError: it runs already, or the program does not exist.
        """
        if self.running:
            raise ServerError(f"{self.name} already runs as process {self.pid}")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._env,
                    process_group=0,
                )
        except OSError as error:
            raise ServerError(f"{self.name} could not be started: {error}") from error

    def wait_ready(self, check: Callable[[], bool], deadline_s: float) -> None:
        """Return as soon as `check()` is true; an OSError from it means "not yet".

        Raises:
            ServerError: the process ended, or was not ready after `deadline_s` seconds; then it is killed.
        """
        process = self._started()
        deadline = time.monotonic() + deadline_s
        last_error: OSError | None = None
        while True:
            if process.poll() is not None:
                raise ServerError(f"{self.name} {self._how_it_ended()} before it was ready\n{self.log_tail()}")
            try:
                if check():
                    return
            except OSError as error:
                last_error = error
            if time.monotonic() > deadline:
                self.kill()
                reason = f" ({last_error})" if last_error else ""
                raise ServerError(f"{self.name} was not ready after {deadline_s:g} s{reason}\n{self.log_tail()}")
            time.sleep(_POLL_INTERVAL_S)

    def stop(self, grace_s: float = 10.0) -> int:
        """Ask the process to end (SIGTERM), kill it after `grace_s` seconds, return its exit code.

        As with `subprocess`, the exit code is the negative signal number when a signal ended it. Stopping a
        process that has ended already only returns its exit code.
        """
        process = self._started()
        if process.poll() is None:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return process.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting for what comes of it."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all of its group at once (SIGKILL), as a crash would."""
        process = self._started()
        if process.poll() is None:
            self._signal(signal.SIGKILL)
            process.wait()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP) until `resume`: connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def log_tail(self, lines: int = _LOG_TAIL_LINES) -> str:
        """The last lines that the process wrote."""
        with self.log_path.open(encoding="utf-8", errors="replace") as log:
            tail = "".join(deque(log, maxlen=lines)).rstrip()
        return f"{self.log_path} ends with:\n{tail}" if tail else f"{self.log_path} is empty"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ServerError(f"{self.name} has not been started")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        process = self._started()
        # The child is not reaped before poll() says so: until then its id can't belong to another process.
        if process.poll() is None:
            try:
                os.killpg(process.pid, number)
            except PermissionError:
                # macOS says this of a process that has just ended.
                if process.poll() is None:
                    raise

    def _how_it_ended(self) -> str:
        code = self._started().wait()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
