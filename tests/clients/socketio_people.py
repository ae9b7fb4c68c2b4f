"""People with unmodified Socket.IO clients: python-socketio's threaded and asyncio clients, and the Java client. All have
the methods of `Person`, so that one test holds the server to the same words with each of them."""

import asyncio
import queue
import re
import threading
import time
from contextlib import contextmanager

import socketio

ANSWER_S_MAX = 8
# For threads that were started before the one that called back, to run.
QUIET_S = 0.05
POLL_S = 0.02
PATH_OF_TOKENS = "/api/socket"
PATH_OF_ANYBODY = "/socket.io"
RFC3339_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Person:
    """What a test does with a client, whichever it is. `transports`: a list, or None for the client's own default."""

    # Whether handlers run in the order in which events came.
    keeps_order = True

    def __init__(self, server, transports):
        self.server = server
        self.transports = transports
        self.heard = queue.SimpleQueue()
        # What to send whenever it has connected, first or again: a function that gives an event and its arguments.
        self.first_words = None
        self.opened = False

    def connect(self, token=None, path=PATH_OF_TOKENS, namespace="/"):
        """Connects and waits until the namespace is joined; raises `Refused` with what CONNECT_ERROR said if it is not."""
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
        """At the end of a test, whatever state it left the client in."""
        if self.opened:
            self.opened = False
            self.disconnect()

    def ask(self, event, *arguments):
        """Sends with a callback and returns what it was called with."""
        answers = queue.SimpleQueue()
        self.tell_with_callback(lambda *answer: answers.put(answer), event, *arguments)
        try:
            (answer,) = answers.get(timeout=ANSWER_S_MAX)
        except queue.Empty:
            raise AssertionError(f"no acknowledgement of {event} within {ANSWER_S_MAX} s") from None
        return answer

    def until(self, *names, timeout_s=ANSWER_S_MAX):
        """The argument of the next event of one of these names, whatever stands before it."""
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
        """The names of what was still on its way: everything sent before is answered before the callback is called."""
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
    """CONNECT_ERROR, or no connection at all: what the client's `connect_error` handler was given."""


class ThreadedPerson(Person):
    """`socketio.Client`. It handles every packet in a thread of its own, so handlers of two events may change places."""

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
    """`socketio.AsyncClient`, on an event loop that all of them share."""

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
    python-socketio raises an error of its own and gives what the server said to the `connect_error` handler. Who has as
    many connections as allowed is told nothing: it ends the connection, or waits for longer than the client does.
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
    """As python-socketio takes them: a tuple is several arguments, None is none."""
    return tuple(arguments) if arguments else None
