"""Unmodified Socket.IO clients come back by themselves when the server was killed and started again, and miss nothing."""

import os

import pytest

from conftest import KINDS
from tokens import token_of

if not os.environ.get("CI"):
    pytest.importorskip("socketio")

# The clients' own backoff: a first attempt after a second or so, the next after two more.
BACK_S_MAX = 20


class Reader:
    """Joins whenever the client has connected, from the last message heard on."""

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
    """Each is stored before the next is sent: an acknowledgement means so."""
    for seq in seqs:
        ack = speaker.ask("send_message", {"conversationId": conversation_id, "content": f"m{seq}"})
        assert (ack["ok"], ack["seq"]) == (True, seq), ack


def test_all_kinds_of_clients_come_back_after_a_crash_and_hear_everything_once(own_server, person_of):
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
    # Some readers are back before these, and hear them live; the others find them stored.
    say(connected("asyncio-websocket", "third-speaker"), conversation_id, [6, 7])
    for reader in readers:
        reader.hear(4, BACK_S_MAX)
    say(connected("asyncio-websocket", "fourth-speaker"), conversation_id, [8])
    for reader in readers:
        reader.hear(1, BACK_S_MAX)
        assert "message_received" not in reader.person.nothing_more(), reader.kind
    heard = {reader.kind: reader.heard() for reader in readers}
    assert heard == {kind: [(seq, f"m{seq}") for seq in range(1, 9)] for kind in KINDS}


def test_a_client_that_waits_for_a_stopped_server_is_told_nothing_wrong(own_server, person_of):
    """SIGTERM closes the transport and sends no DISCONNECT, after which clients would not come back."""
    one = person_of("asyncio-websocket", own_server)
    one.connect(token_of("patient"))
    one.until("connect")
    own_server.terminate()
    assert one.until("disconnect", timeout_s=BACK_S_MAX) == "transport error"
    own_server.start_again()
    one.until("connect", timeout_s=BACK_S_MAX)
    assert one.ask("ping")["ok"] is True
