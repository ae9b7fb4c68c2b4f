"""People with unmodified Socket.IO clients: python-socketio's threaded and asyncio clients, and the Java client. All
have the methods of `Person`, so that one test can run with each of them."""

import asyncio
import queue
import re
import threading
import time
from contextlib import contextmanager

import socketio

ANSWER_S_MAX = 8
# Enough time for the client's handler threads that were started before the callback's thread to run.
QUIET_S = 0.05
POLL_S = 0.02
PATH_OF_TOKENS = "/api/socket"
PATH_OF_ANYBODY = "/socket.io"
RFC3339_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Person:
    """The methods that a test uses on any client. `transports` is a list, or None for the client's default."""

    # Whether handlers run in the order in which events arrived.
    keeps_order = True

    def __init__(self, server, transports):
        self.server = server
        self.transports = transports
        self.heard = queue.SimpleQueue()
        # A function that returns an event and its arguments, which the client sends after every connect.
        self.first_words = None
        self.opened = False

    def connect(self, token=None, path=PATH_OF_TOKENS, namespace="/"):
        """Connects and waits until the namespace is joined. Raises `Refused` with the CONNECT_ERROR if refused."""
        raise NotImplementedError

    def tell(self, event, *arguments):
        raise NotImplementedError

    def tell_with_callback(self, callback, event, *arguments):
        raise NotImplementedError

    def disconnect(self):
        raise NotImplementedError

    def transport(self):
        raise NotImplementedError

    def leave(self):
        """Disconnects at the end of a test, in any state of the client."""
        if self.opened:
            self.opened = False
            self.disconnect()

    def ask(self, event, *arguments):
        """Sends an event with a callback and returns the callback's argument."""
        answers = queue.SimpleQueue()
        self.tell_with_callback(lambda *answer: answers.put(answer), event, *arguments)
        try:
            (answer,) = answers.get(timeout=ANSWER_S_MAX)
        except queue.Empty:
            raise AssertionError(f"no acknowledgement of {event} within {ANSWER_S_MAX} s") from None
        return answer

    def until(self, *names, timeout_s=ANSWER_S_MAX):
        """The argument of the next event with one of these names. Events before it are dropped."""
        deadline = time.monotonic() + timeout_s
        passed = []
        while True:
            try:
                name, *arguments = self.heard.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"none of {names} within {timeout_s} s, only {passed}") from None
            if name in names:
                assert len(arguments) == 1, (name, arguments)
                return arguments[0]
            passed.append((name, *arguments))

    def nothing_more(self):
        """The names of the events still in flight: the server sends them before it answers this ping."""
        self.ask("ping")
        names = []
        try:
            while True:
                names.append(self.heard.get(timeout=QUIET_S)[0])
        except queue.Empty:
            return names

    def wait_for_transport(self, name):
        deadline = time.monotonic() + ANSWER_S_MAX
        while self.transport() != name:
            assert time.monotonic() < deadline, f"still {self.transport()}, not {name}"
            time.sleep(POLL_S)


class Refused(Exception):
    """The server refused the connection or closed it. Holds the argument of the client's `connect_error` handler."""


class ThreadedPerson(Person):
    """`socketio.Client`. It handles every packet in a thread of its own, so handlers may run out of order."""

    keeps_order = False

    def connect(self, token=None, path=PATH_OF_TOKENS, namespace="/"):
        self.namespace, self.opened = namespace, True
        self.client = socketio.Client(handle_sigint=False)
        self.client.on("*", lambda name, *arguments: self.heard.put((name, *arguments)), namespace=namespace)
        self.client.on("connect", self.connected, namespace=namespace)
        self.client.on("connect_error", lambda *given: self.heard.put(("connect_error", *given)), namespace=namespace)
        self.client.on("disconnect", lambda reason: self.heard.put(("disconnect", reason)), namespace=namespace)
        with refusals(self):
            self.client.connect(self.server.url, **options(self, token, path))

    def connected(self):
        self.heard.put(("connect", None))
        if self.first_words:
            self.tell(*self.first_words())

    def tell(self, event, *arguments):
        self.tell_with_callback(None, event, *arguments)

    def tell_with_callback(self, callback, event, *arguments):
        self.client.emit(event, data_of(arguments), namespace=self.namespace, callback=callback)

    def disconnect(self):
        self.client.shutdown()

    def transport(self):
        return self.client.transport()


class AsyncPerson(Person):
    """`socketio.AsyncClient`. All such people share one event loop."""

    loop = None

    @classmethod
    def run(cls, coroutine):
        if cls.loop is None:
            cls.loop = asyncio.new_event_loop()
            threading.Thread(target=cls.loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, cls.loop).result(2 * ANSWER_S_MAX)

    def connect(self, token=None, path=PATH_OF_TOKENS, namespace="/"):
        with refusals(self):
            self.run(self.connect_in_loop(token, path, namespace))

    async def connect_in_loop(self, token, path, namespace):
        self.namespace, self.opened = namespace, True
        self.client = socketio.AsyncClient(handle_sigint=False)
        self.client.on("*", self.hears, namespace=namespace)
        self.client.on("connect", self.connected, namespace=namespace)
        self.client.on("connect_error", lambda *given: self.heard.put(("connect_error", *given)), namespace=namespace)
        self.client.on("disconnect", lambda reason: self.heard.put(("disconnect", reason)), namespace=namespace)
        await self.client.connect(self.server.url, **options(self, token, path))

    async def hears(self, name, *arguments):
        self.heard.put((name, *arguments))

    async def connected(self):
        self.heard.put(("connect", None))
        if self.first_words:
            event, *arguments = self.first_words()
            await self.client.emit(event, data_of(arguments), namespace=self.namespace)

    def tell(self, event, *arguments):
        self.tell_with_callback(None, event, *arguments)

    def tell_with_callback(self, callback, event, *arguments):
        self.run(self.client.emit(event, data_of(arguments), namespace=self.namespace, callback=callback))

    def disconnect(self):
        self.run(self.client.shutdown())

    def transport(self):
        return self.client.transport()


@contextmanager
def refusals(person):
    """
    Turns python-socketio's own error into `Refused`. The library passes the server's answer to the `connect_error`
    handler only. A user with too many connections gets no answer: the server closes the connection, or waits longer
    than the client does.
    """
    try:
        yield
    except socketio.exceptions.ConnectionError as error:
        try:
            said = person.until("connect_error", timeout_s=1)
        except AssertionError:
            said = None
        raise Refused(said) from error


def options(person, token, path):
    return {
        "transports": person.transports,
        "auth": {"token": token} if token else None,
        "socketio_path": path,
        "wait_timeout": ANSWER_S_MAX,
    }


def data_of(arguments):
    """The arguments as python-socketio expects them: a tuple for several, None for none."""
    return tuple(arguments) if arguments else None
