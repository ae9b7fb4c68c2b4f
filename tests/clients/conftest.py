"""What the Python client tests share: one server for all of them, and clients that close themselves."""

import os
from contextlib import ExitStack

import pytest

import carillon_server


@pytest.fixture(scope="session")
def server():
    reason = carillon_server.missing()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    running = carillon_server.start_carillon()
    yield running
    running.stop()


@pytest.fixture
def connect(server):
    """`connect(user_id, name)` gives a connected client that ends with the test."""
    from client import Client

    with ExitStack() as stack:
        yield lambda user_id, name=None: stack.enter_context(Client(server, user_id, name))
