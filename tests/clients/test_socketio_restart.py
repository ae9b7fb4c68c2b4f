"""Unmodified Socket.IO clients reconnect by themselves after a kill and restart of the server, and miss nothing."""

import os

import pytest

from conftest import KINDS
from tokens import token_of

if not os.environ.get("CI"):
    pytest.importorskip("socketio")

# The clients wait about 1 s before the first attempt and 2 s more before the next one.
BACK_S_MAX = 20


class Reader:
    """Joins after every connect, from the last message that it received."""

    def __init__(self, kind, person, conversation_id):
        self.kind, self.person, self.conversation_id = kind, person, conversation_id
        self.messages = []
        person.first_words = self.join_again

    def join_again(self):
        last = max((message["seq"] for message in self.messages), default=0)
        return "join_conversation", {"conversationId": self.conversation_id, "afterSeq": last}

    def hear(self, count, timeout_s):
        for _ in range(count):
            self.messages.append(self.person.until("message_received", timeout_s=timeout_s))

    def heard(self):
        messages = self.messages
        if not self.person.keeps_order:
            messages = sorted(messages, key=lambda message: message["seq"])
        return [(message["seq"], message["content"]) for message in messages]


def say(speaker, conversation_id, seqs):
    """Sends messages one by one. Each is stored before the next is sent, because it waits for the acknowledgement."""
    for seq in seqs:
        ack = speaker.ask("send_message", {"conversationId": conversation_id, "content": f"m{seq}"})
        assert (ack["ok"], ack["seq"]) == (True, seq), ack


def test_all_kinds_of_clients_reconnect_after_a_crash_and_receive_everything_once(own_server, person_of):
    conversation_id = "restart"

    def connected(kind, user_id):
        one = person_of(kind, own_server)
        one.connect(token_of(user_id))
        return one

    readers = []
    for kind in KINDS:
        reader = Reader(kind, person_of(kind, own_server), conversation_id)
        reader.person.connect(token_of(f"reader-{kind}"))
        readers.append(reader)
    say(connected("asyncio-websocket", "speaker"), conversation_id, [1, 2, 3])
    for reader in readers:
        reader.hear(3, BACK_S_MAX)
        left = reader.person.ask("leave_conversation", {"conversationId": conversation_id})
        assert left["ok"] is True, reader.kind
    say(connected("asyncio-websocket", "second-speaker"), conversation_id, [4, 5])

    own_server.crash()
    for reader in readers:
        reader.person.until("disconnect", timeout_s=BACK_S_MAX)
    own_server.start_again()
    # Readers that have reconnected before these messages receive them live; the others get them by the replay.
    say(connected("asyncio-websocket", "third-speaker"), conversation_id, [6, 7])
    for reader in readers:
        reader.hear(4, BACK_S_MAX)
    say(connected("asyncio-websocket", "fourth-speaker"), conversation_id, [8])
    for reader in readers:
        reader.hear(1, BACK_S_MAX)
        assert "message_received" not in reader.person.nothing_more(), reader.kind
    heard = {reader.kind: reader.heard() for reader in readers}
    assert heard == {kind: [(seq, f"m{seq}") for seq in range(1, 9)] for kind in KINDS}


def test_a_client_reconnects_by_itself_after_the_server_was_stopped(own_server, person_of):
    """On SIGTERM the server closes the transport. It sends no DISCONNECT, after which clients would not reconnect."""
    one = person_of("asyncio-websocket", own_server)
    one.connect(token_of("patient"))
    one.until("connect")
    own_server.terminate()
    assert one.until("disconnect", timeout_s=BACK_S_MAX) == "transport error"
    own_server.start_again()
    one.until("connect", timeout_s=BACK_S_MAX)
    assert one.ask("ping")["ok"] is True
