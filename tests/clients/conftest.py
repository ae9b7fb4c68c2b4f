"""What the Python client tests share: one server for all of them, and clients that close themselves."""

import os
from contextlib import ExitStack

import pytest

import carillon_server

# None: polling first and then the move to a WebSocket, as clients do it by themselves.
TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": None}
KINDS = [f"{client}-{transport}" for client in ("threaded", "asyncio", "java") for transport in TRANSPORTS]


def require(reason):
    """Goes on without a reason; with one it is a visible skip, or in CI, where nothing may be missing, a failure."""
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
    """`connect(user_id, name)` gives a connected client that ends with the test."""
    from client import Client

    with ExitStack() as stack:
        yield lambda user_id, name=None: stack.enter_context(Client(server, user_id, name))


@pytest.fixture(scope="session")
def java():
    """Java clients, all in one JVM."""
    import java_people

    require(java_people.missing())
    yield java_people.JavaPerson
    java_people.JavaPerson.stop_jvm()


@pytest.fixture
def person_of(request):
    """`person_of(kind, server)` gives a person with a client of that kind, who leaves with the test."""
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
    """`person()` gives one who has not connected, with the client that the test is run for."""
    return lambda: person_of(kind, server)
