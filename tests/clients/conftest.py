"""The fixtures of the Python client tests: one server for all of them, and clients that are closed after their test."""

import os
from contextlib import ExitStack

import pytest

import carillon_server

# None is the clients' default: polling first, then the upgrade to a WebSocket.
TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": None}
KINDS = [f"{client}-{transport}" for client in ("threaded", "asyncio", "java") for transport in TRANSPORTS]


def require(reason):
    """With a reason, skips the test visibly; in CI, where no part may be missing, the test fails."""
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def server():
    require(carillon_server.missing())
    running = carillon_server.start_carillon()
    yield running
    running.stop()


@pytest.fixture
def own_server():
    """A server that the test may kill."""
    require(carillon_server.missing())
    running = carillon_server.start_carillon()
    yield running
    running.stop()


@pytest.fixture
def connect(server):
    """`connect(user_id, name)` returns a connected client that is closed after the test."""
    from client import Client

    with ExitStack() as stack:
        yield lambda user_id, name=None: stack.enter_context(Client(server, user_id, name))


@pytest.fixture(scope="session")
def java():
    """The class of the Java clients, which share one JVM."""
    import java_people

    require(java_people.missing())
    yield java_people.JavaPerson
    java_people.JavaPerson.stop_jvm()


@pytest.fixture
def person_of(request):
    """`person_of(kind, server)` returns a person with a client of that kind, which is closed after the test."""
    if not os.environ.get("CI"):
        pytest.importorskip("socketio")
    from socketio_people import AsyncPerson, ThreadedPerson

    with ExitStack() as stack:

        def make(kind, server):
            client, transport = kind.split("-")
            known = {"threaded": ThreadedPerson, "asyncio": AsyncPerson}
            cls = known.get(client) or request.getfixturevalue("java")
            person = cls(server, TRANSPORTS[transport])
            stack.callback(person.leave)
            return person

        yield make


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def person(person_of, server, kind):
    """`person()` returns a person who is not connected, with a client of the kind that the test runs for."""
    return lambda: person_of(kind, server)
