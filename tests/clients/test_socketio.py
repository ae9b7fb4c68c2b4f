"""Unmodified Socket.IO clients use the three vocabularies. Each test runs with python-socketio's two clients and the
Java client, over a WebSocket, by polling, and with the client's default transports."""

import itertools
import os
import time

import pytest

from tokens import token_of

if not os.environ.get("CI"):
    pytest.importorskip("socketio")
from socketio_people import ANSWER_S_MAX, PATH_OF_ANYBODY, PATH_OF_TOKENS, RFC3339_MS, Refused

# Every test has users and conversations of its own, so that it gets no events of an earlier test.
numbers = itertools.count(1)


@pytest.fixture
def fresh(kind):
    """`fresh(name)` returns an id that no other test has."""
    number = next(numbers)
    return lambda name: f"{name}-{kind}-{number}"


@pytest.fixture
def ring(person, fresh):
    """`ring(name)` returns a person who is connected as Ring's clients are, with their user id."""

    def connect(name, **options):
        one = person()
        one.user_id = fresh(name)
        one.connect(token_of(one.user_id, name.title()), **options)
        return one

    return connect


@pytest.fixture
def chordme(person, fresh):
    """`chordme(name)` returns a person who has connected as ChordMe's clients do and has authenticated."""

    def connect(name):
        one = person()
        one.user_id = fresh(name)
        one.connect(path=PATH_OF_ANYBODY)
        assert one.until("connected")["message"]
        one.tell("authenticate", {"token": f"Bearer {token_of(one.user_id, name.title())}"})
        assert one.until("authenticated", "auth_error")["user_id"] == one.user_id
        return one

    return connect


def join(one, conversation_id, **fields):
    answer = one.ask("join_conversation", {"conversationId": conversation_id, **fields})
    assert answer["ok"] is True, answer
    return answer


def heard_messages(one, count):
    """The next messages, in the order of the handlers if the client keeps the order, else sorted by seq."""
    messages = [one.until("message_received") for _ in range(count)]
    return messages if one.keeps_order else sorted(messages, key=lambda message: message["seq"])


# ---- connecting -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token, message, code",
    [
        (None, "No authentication token provided", "unauthorized"),
        ("not.a.token", "Invalid authentication token", "unauthorized"),
        (token_of("thief", secret="another secret, of at least 32 bytes"), "Invalid authentication token", "unauthorized"),
        (token_of("late", lives_s=-60), None, "token_expired"),
    ],
    ids=["none", "malformed", "forged", "expired"],
)
def test_without_a_good_token_the_connection_is_refused(person, token, message, code):
    with pytest.raises(Refused) as refused:
        person().connect(token, path=PATH_OF_TOKENS)
    (said,) = refused.value.args
    assert said["data"]["code"] == code
    assert said["message"] == message or message is None and said["message"]


def test_a_bad_token_is_refused_where_none_is_needed(person):
    with pytest.raises(Refused) as refused:
        person().connect("not.a.token", path=PATH_OF_ANYBODY)
    assert refused.value.args[0]["data"]["code"] == "unauthorized"


@pytest.mark.parametrize("path", [PATH_OF_TOKENS, PATH_OF_ANYBODY])
def test_a_token_in_the_handshake_is_enough_on_both_paths(ring, fresh, path):
    one = ring("anna", path=path)
    assert one.until("connected")["message"]
    if path == PATH_OF_ANYBODY:
        assert one.until("authenticated")["user_id"] == one.user_id
    join(one, fresh("both-paths"))


def test_the_namespace_api_socket_is_an_alias_of_the_main_one(ring, fresh):
    conversation_id = fresh("alias")
    alias, main = ring("anna", path=PATH_OF_ANYBODY, namespace="/api/socket"), ring("ben")
    join(alias, conversation_id)
    join(main, conversation_id)
    assert main.ask("send_message", {"conversationId": conversation_id, "content": "hello"})["ok"] is True
    assert alias.until("message_received")["content"] == "hello"


def test_the_clients_default_transports_end_on_a_websocket(ring, kind):
    one = ring("anna")
    one.wait_for_transport("polling" if kind.endswith("polling") else "websocket")
    assert one.ask("ping")["ok"] is True


def test_the_sixth_connection_of_a_user_is_refused_until_another_one_ends(person, fresh):
    token = token_of(fresh("many"))
    five = [person() for _ in range(5)]
    for one in five:
        one.connect(token)
    assert not connects(person(), token)
    assert all(one.ask("ping")["ok"] for one in five)
    five[0].leave()
    deadline = time.monotonic() + ANSWER_S_MAX
    while not connects(person(), token):
        assert time.monotonic() < deadline, "the place of who left is still taken"


def connects(one, token):
    try:
        one.connect(token)
    except Refused:
        return False
    return True


# ---- Ring -----------------------------------------------------------------------------------------------------


def test_ring_a_message_reaches_both_and_is_acknowledged(ring, fresh):
    anna, ben = ring("anna"), ring("ben")
    conversation_id = fresh("ring")
    first = join(anna, conversation_id)
    assert (first["conversationId"], first["headSeq"], first["participantCount"]) == (conversation_id, 0, 1)
    assert ben.ask("join_conversation", conversation_id)["participantCount"] == 2

    forged = {"senderId": "somebody-else", "senderName": "Somebody Else"}
    content = "hello, wörld 🎉 <b>"
    ack = anna.ask("send_message", {"conversationId": conversation_id, "content": content, "clientId": "c-1", **forged})
    assert (ack["ok"], ack["seq"]) == (True, 1)
    assert RFC3339_MS.fullmatch(ack["timestamp"])
    for message in (anna.until("message_received"), ben.until("message_received")):
        assert message == {
            "id": ack["id"],
            "conversationId": conversation_id,
            "seq": 1,
            "senderId": anna.user_id,
            "senderName": "Anna",
            "content": content,
            "type": "text",
            "timestamp": ack["timestamp"],
            "clientId": "c-1",
        }

    again = anna.ask("send_message", {"conversationId": conversation_id, "content": content, "clientId": "c-1"})
    assert (again["id"], again["seq"]) == (ack["id"], 1)
    assert "message_received" not in ben.nothing_more()


def test_ring_typing_reaches_the_other_member_and_not_the_typist(ring, fresh):
    typist, other = ring("typist"), ring("other")
    conversation_id = fresh("ring-typing")
    join(typist, conversation_id)
    join(other, conversation_id)
    for event, argument, is_typing in [
        ("typing_start", {"conversationId": conversation_id}, True),
        ("typing_stop", conversation_id, False),
    ]:
        assert typist.ask(event, argument)["ok"] is True
        seen = other.until("user_typing")
        assert RFC3339_MS.fullmatch(seen.pop("timestamp"))
        assert seen == {
            "conversationId": conversation_id,
            "userId": typist.user_id,
            "userName": "Typist",
            "isTyping": is_typing,
        }
    assert "user_typing" not in typist.nothing_more()


def test_ring_a_client_that_left_gets_no_messages_and_may_still_send(ring, fresh):
    leaver, other = ring("leaver"), ring("other")
    conversation_id = fresh("ring-leave")
    join(leaver, conversation_id)
    join(other, conversation_id)
    assert leaver.ask("leave_conversation", {"conversationId": conversation_id})["ok"] is True
    assert other.ask("send_message", {"conversationId": conversation_id, "content": "without you"})["ok"] is True
    assert leaver.ask("send_message", {"conversationId": conversation_id, "content": "from outside"})["seq"] == 2
    assert [message["content"] for message in heard_messages(other, 2)] == ["without you", "from outside"]
    assert "message_received" not in leaver.nothing_more()


def test_ring_missed_messages_come_before_new_ones(ring, fresh):
    speaker, late = ring("speaker"), ring("late")
    conversation_id = fresh("ring-missed")
    for number in range(1, 8):
        sent = speaker.ask("send_message", {"conversationId": conversation_id, "content": f"m{number}"})
        assert sent["seq"] == number
    assert join(late, conversation_id, afterSeq=4)["headSeq"] == 7
    speaker.ask("send_message", {"conversationId": conversation_id, "content": "m8"})
    heard = [(message["seq"], message["content"]) for message in heard_messages(late, 4)]
    assert heard == [(5, "m5"), (6, "m6"), (7, "m7"), (8, "m8")]
    assert "message_received" not in late.nothing_more()


def test_ring_many_missed_messages_come_in_order_and_once(ring, fresh):
    speaker, late = ring("speaker"), ring("late")
    conversation_id = fresh("ring-many-missed")
    expected = [(number + 1, f"m{number}") for number in range(40)]
    for seq, content in expected:
        assert speaker.ask("send_message", {"conversationId": conversation_id, "content": content})["seq"] == seq
    join(late, conversation_id, afterSeq=0)
    assert [(message["seq"], message["content"]) for message in heard_messages(late, 40)] == expected
    assert "message_received" not in late.nothing_more()


def test_ring_sends_that_do_not_wait_keep_their_order(ring, fresh):
    hasty, other = ring("hasty"), ring("other")
    conversation_id = fresh("ring-hasty")
    join(other, conversation_id)
    for number in range(40):
        hasty.tell("send_message", {"conversationId": conversation_id, "content": f"m{number}"})
    heard = [(message["seq"], message["content"]) for message in heard_messages(other, 40)]
    assert heard == [(number + 1, f"m{number}") for number in range(40)]


def test_ring_presence_reaches_users_who_share_a_conversation(ring, fresh):
    anna, ben = ring("anna"), ring("ben")
    conversation_id = fresh("ring-presence")
    join(anna, conversation_id)
    join(ben, conversation_id)
    seen = anna.until("presence_update")
    assert (seen["userId"], seen["isOnline"], seen["status"]) == (ben.user_id, True, "active")
    assert ben.ask("presence_update", {"status": "away"})["ok"] is True
    seen = anna.until("presence_update")
    assert (seen["userId"], seen["isOnline"], seen["status"]) == (ben.user_id, True, "away")
    assert RFC3339_MS.fullmatch(seen["timestamp"])


@pytest.mark.parametrize(
    "event, argument, code",
    [
        ("no_such_event", {}, "invalid_payload"),
        ("join_conversation", {}, "invalid_payload"),
        ("join_conversation", "no spaces", "invalid_payload"),
        ("send_message", {"conversationId": "bad", "content": 7}, "invalid_payload"),
        ("send_message", {"conversationId": "bad", "content": " \n "}, "empty_content"),
        ("send_message", {"conversationId": "bad", "content": "x" * 5001}, "too_large"),
    ],
)
def test_ring_a_bad_event_gets_an_error_and_the_connection_stays_open(ring, event, argument, code):
    clumsy = ring("clumsy")
    answer = clumsy.ask(event, argument)
    assert (answer["ok"], answer["error"]["code"]) == (False, code)
    assert answer["error"]["message"]
    clumsy.tell(event, argument)
    assert clumsy.until("error")["code"] == code
    assert clumsy.ask("ping")["ok"] is True


# ---- ChordMe --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["join_room", "broadcast_message", "cursor_update", "leave_room"])
def test_chordme_before_authentication_every_other_event_is_refused(person, fresh, event):
    nobody = person()
    nobody.connect(path=PATH_OF_ANYBODY)
    assert nobody.until("connected")["message"]
    nobody.tell(event, {"room_id": fresh("room"), "message": "hello", "position": 1})
    assert nobody.until("auth_error")["message"]
    nobody.tell("authenticate", {"token": "not.a.token"})
    assert nobody.until("auth_error", "authenticated")["message"]
    user_id = fresh("somebody")
    nobody.tell("authenticate", {"token": token_of(user_id)})
    assert nobody.until("authenticated", "auth_error")["user_id"] == user_id
    nobody.tell("join_room", {"room_id": fresh("room")})
    assert nobody.until("room_joined", "auth_error", "error")["room_id"] == fresh("room")


def test_chordme_broadcasts_and_cursors_reach_the_other_members(chordme, fresh):
    anna, ben = chordme("anna"), chordme("ben")
    room_id = fresh("room")
    for count, one in enumerate((anna, ben), 1):
        one.tell("join_room", {"room_id": room_id})
        assert one.until("room_joined", "error") == {"room_id": room_id, "participant_count": count}

    message = {"type": "chord", "lines": ["C", "G/B", None], "tempo": 92.5, "nested": {"🎸": True}}
    anna.tell("broadcast_message", {"room_id": room_id, "message": message})
    heard = ben.until("room_message")
    assert isinstance(heard.pop("timestamp"), int)
    assert heard == {"user_id": anna.user_id, "message": message}

    anna.tell("cursor_update", {"room_id": room_id, "position": {"line": 3, "column": 14}})
    heard = ben.until("cursor_moved")
    assert isinstance(heard.pop("timestamp"), int)
    assert heard == {"user_id": anna.user_id, "position": {"line": 3, "column": 14}}
    assert not {"room_message", "cursor_moved"} & set(anna.nothing_more())

    ben.tell("leave_room", {"room_id": room_id})
    assert ben.until("room_left") == {"room_id": room_id}
    anna.tell("broadcast_message", {"room_id": room_id, "message": "to nobody"})
    assert anna.ask("ping")["ok"] is True
    assert "room_message" not in ben.nothing_more()


def test_chordme_the_other_members_get_user_joined_and_user_left(chordme, fresh):
    anna, ben, carl = chordme("anna"), chordme("ben"), chordme("carl")
    room_id = fresh("room")
    anna.tell("join_room", {"room_id": room_id})
    anna.until("room_joined")
    for count, one in enumerate((ben, carl), 2):
        one.tell("join_room", {"room_id": room_id})
        one.until("room_joined")
        assert anna.until("user_joined") == {"user_id": one.user_id, "room_id": room_id, "participant_count": count}
    ben.tell("leave_room", {"room_id": room_id})
    assert anna.until("user_left") == {"user_id": ben.user_id, "room_id": room_id, "participant_count": 2}
    carl.leave()
    assert anna.until("user_left") == {"user_id": carl.user_id, "room_id": room_id, "participant_count": 1}


def test_chordme_a_broadcast_over_its_limit_is_refused(chordme, fresh):
    anna = chordme("anna")
    room_id = fresh("room")
    anna.tell("join_room", {"room_id": room_id})
    anna.until("room_joined")
    anna.tell("broadcast_message", {"room_id": room_id, "message": "x" * 10_241})
    assert anna.until("error")["message"]
    assert anna.ask("ping")["ok"] is True


# ---- the integration guide ------------------------------------------------------------------------------------


def test_guide_a_message_reaches_every_subscriber(ring, fresh):
    anna, ben = ring("anna"), ring("ben")
    conversation_id = fresh("guide")
    for one in (anna, ben):
        assert one.ask("subscribe", f"conversation:{conversation_id}")["ok"] is True
    sent = {"conversationId": conversation_id, "content": "hello", "timestamp": "2020-01-01T00:00:00.000Z"}
    ack = anna.ask("message:send", sent)
    assert (ack["ok"], ack["seq"]) == (True, 1)
    for one in (anna, ben):
        assert one.until("message") == {
            "id": ack["id"],
            "conversationId": conversation_id,
            "seq": 1,
            "senderId": anna.user_id,
            "senderName": "Anna",
            "content": "hello",
            "timestamp": ack["timestamp"],
        }
    anna.tell("typing:start", {"conversationId": conversation_id})
    assert ben.until("typing") == {"conversationId": conversation_id, "userId": anna.user_id, "isTyping": True}
    assert ben.ask("unsubscribe", f"conversation:{conversation_id}")["ok"] is True
    anna.ask("message:send", {"conversationId": conversation_id, "content": "to nobody"})
    assert "message" not in ben.nothing_more()


def test_guide_a_ping_is_answered_by_heartbeat_and_pong(ring):
    one = ring("pinger")
    one.until("connected")
    one.tell("ping")
    names = set()
    for _ in range(2):
        name, beat = one.heard.get(timeout=ANSWER_S_MAX)
        assert isinstance(beat["timestamp"], int)
        names.add(name)
    assert names == {"heartbeat", "pong"}


# ---- one conversation, three vocabularies ---------------------------------------------------------------------


def test_every_client_receives_a_message_in_the_vocabulary_of_its_join(ring, chordme, connect, fresh):
    conversation_id = fresh("all")
    by_ring, by_guide, by_chordme, native = ring("anna"), ring("ben"), chordme("carl"), connect(fresh("native"))
    join(by_ring, conversation_id)
    assert by_guide.ask("subscribe", f"conversation:{conversation_id}")["ok"] is True
    by_chordme.tell("join_room", {"room_id": conversation_id})
    assert by_chordme.until("room_joined")["participant_count"] == 3
    native.join(conversation_id)
    ack = native.send_and_ack(conversation_id, "to all of you", "c-1")

    assert by_ring.until("message_received", "message", "room_message")["content"] == "to all of you"
    assert by_guide.until("message_received", "message", "room_message")["content"] == "to all of you"
    heard = by_chordme.until("message_received", "message", "room_message")
    assert isinstance(heard["timestamp"], int)
    stored = {"id": ack["id"], "seq": 1, "content": "to all of you", "content_type": "text"}
    assert heard["message"] == stored
    for one, other_names in [
        (by_ring, {"message", "room_message"}),
        (by_guide, {"message_received", "room_message"}),
        (by_chordme, {"message_received", "message"}),
    ]:
        assert not other_names & set(one.nothing_more())
