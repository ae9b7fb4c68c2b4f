"""An unmodified `websockets` client uses the native protocol (docs/protocol.md#native-websocket), step by step."""

import asyncio
import json
import os

import pytest

if not os.environ.get("CI"):
    pytest.importorskip("websockets")
from websockets.asyncio.client import connect as connect_async


def test_the_first_frame_is_online_users(connect):
    user = connect("test-user")
    frame = user.next()
    assert frame["type"] == "online_users"
    assert "test-user" in frame["users"]


def test_the_next_frame_answers_the_join(connect):
    user = connect("test-user")
    user.next()
    user.tell("join_conversation", conversation_id="python-join", ref="j1")
    frame = user.next()
    assert frame["type"] == "conversation_joined"
    assert frame["conversation_id"] == "python-join"
    assert frame["head_seq"] == 0
    assert frame["participant_count"] == 1
    assert frame["ref"] == "j1"


def test_a_message_without_client_id_reaches_both_and_gets_no_ack(connect):
    sender, other = connect("sender", "Sender S."), connect("other")
    sender.join("python-send")
    other.join("python-send")
    sender.tell("send_message", conversation_id="python-send", content="  hello, wörld 🎉 <b>  ")
    for frame in (sender.until("new_message"), other.until("new_message")):
        assert (frame["conversation_id"], frame["seq"]) == ("python-send", 1)
        message = frame["message"]
        assert message["sender_id"] == "sender"
        assert message["sender_name"] == "Sender S."
        assert message["content"].strip() == "hello, wörld 🎉 <b>"
        assert message["content_type"] == "text"
        assert message["is_ai"] is False
        assert message["id"] and message["timestamp"]
    assert "message_ack" not in sender.nothing_more()


def test_typing_reaches_the_other_member_and_not_the_typist(connect):
    typist, other = connect("typist", "Ty Pist"), connect("other")
    typist.join("python-typing")
    other.join("python-typing")
    for kind, is_typing in (("typing_start", True), ("typing_stop", False)):
        typist.tell(kind, conversation_id="python-typing")
        frame = other.until("typing_indicator")
        assert frame["conversation_id"] == "python-typing"
        assert (frame["user_id"], frame["user_name"]) == ("typist", "Ty Pist")
        assert frame["is_typing"] is is_typing
    assert "typing_indicator" not in typist.nothing_more()


def test_typing_ends_by_itself(connect):
    typist, other = connect("forgetful"), connect("other")
    typist.join("python-typing-end")
    other.join("python-typing-end")
    typist.tell("typing_start", conversation_id="python-typing-end")
    assert other.until("typing_indicator")["is_typing"] is True
    assert other.until("typing_indicator")["is_typing"] is False


def test_ping_is_answered(connect):
    user = connect("pinger")
    user.next()
    user.tell("ping")
    assert user.next()["type"] == "pong"
    user.tell("ping", ref="p1")
    frame = user.next()
    assert (frame["type"], frame["ref"]) == ("pong", "p1")


@pytest.mark.parametrize(
    "bad, code",
    [
        ("not json", "invalid_frame"),
        ("[]", "invalid_frame"),
        ('{"conversation_id":"x"}', "invalid_frame"),
        (b'{"type":"ping"}', "invalid_frame"),
        ('{"type":"no_such_thing"}', "invalid_payload"),
        ('{"type":"join_conversation"}', "invalid_payload"),
        ('{"type":"join_conversation","conversation_id":"no spaces"}', "invalid_payload"),
        ('{"type":"send_message","conversation_id":"python-bad","content":7}', "invalid_payload"),
        ('{"type":"send_message","conversation_id":"python-bad","content":" \\n "}', "empty_content"),
        (json.dumps({"type": "send_message", "conversation_id": "python-bad", "content": "x" * 5001}), "too_large"),
    ],
)
def test_a_bad_frame_gets_an_error_and_the_connection_stays_open(connect, bad, code):
    user = connect("clumsy")
    user.next()
    user.socket.send(bad)
    frame = user.next()
    assert (frame["type"], frame["code"]) == ("error", code)
    assert frame["message"]
    user.tell("ping")
    assert user.next()["type"] == "pong"


def test_the_same_client_id_again_gets_the_same_ack_and_one_message(connect):
    sender, other = connect("twice"), connect("other")
    sender.join("python-twice")
    other.join("python-twice")
    first = sender.send_and_ack("python-twice", "only once", "click-1")
    again = sender.send_and_ack("python-twice", "only once", "click-1")
    elsewhere = connect("twice").send_and_ack("python-twice", "only once", "click-1")
    for ack in (first, again, elsewhere):
        assert (ack["client_id"], ack["id"], ack["seq"]) == ("click-1", first["id"], 1)
    marker = sender.send_and_ack("python-twice", "marker", "click-2")
    assert marker["seq"] == 2
    heard = [other.until("new_message"), other.until("new_message")]
    assert [(frame["seq"], frame["message"]["content"]) for frame in heard] == [(1, "only once"), (2, "marker")]


def test_sends_that_do_not_wait_for_their_acks_keep_their_order(connect):
    sender = connect("hasty")
    sender.join("python-hasty")
    for number in range(40):
        sender.tell("send_message", conversation_id="python-hasty", content=f"m{number}", client_id=f"c{number}")
    heard = [sender.until("new_message") for _ in range(40)]
    assert [frame["seq"] for frame in heard] == list(range(1, 41))
    assert [frame["message"]["content"] for frame in heard] == [f"m{number}" for number in range(40)]


def test_history_returns_pages_in_both_directions(connect):
    user = connect("historian")
    user.join("python-history")
    for number in range(1, 8):
        user.send_and_ack("python-history", f"m{number}", f"c{number}")

    def page(**fields):
        user.tell("history", conversation_id="python-history", ref="h", **fields)
        frame = user.until("history", "error")
        assert (frame["type"], frame["ref"]) == ("history", "h"), frame
        assert all(event["type"] == "new_message" for event in frame["events"])
        for event in frame["events"]:
            assert event["message"]["content"] == f"m{event['seq']}"
        return [event["seq"] for event in frame["events"]], frame["has_more"]

    assert page(before_seq=8, limit=3) == ([5, 6, 7], True)
    assert page(before_seq=5, limit=200) == ([1, 2, 3, 4], False)
    assert page(after_seq=0, limit=3) == ([1, 2, 3], True)
    assert page(after_seq=4, limit=3) == ([5, 6, 7], False)
    assert page(after_seq=7, limit=3) == ([], False)


def test_a_join_with_after_seq_brings_missed_messages_before_new_ones(connect):
    speaker = connect("speaker")
    speaker.join("python-missed")
    for number in range(1, 6):
        speaker.send_and_ack("python-missed", f"m{number}", f"c{number}")
    late = connect("late")
    late.next()
    late.tell("join_conversation", conversation_id="python-missed", after_seq=2)
    joined = late.next()
    assert (joined["type"], joined["head_seq"]) == ("conversation_joined", 5)
    speaker.send_and_ack("python-missed", "m6", "c6")
    heard = [late.until("new_message") for _ in range(4)]
    assert [(frame["seq"], frame["message"]["content"]) for frame in heard] == [(n, f"m{n}") for n in range(3, 7)]


def test_leaving_ends_the_messages(connect):
    leaver, speaker = connect("leaver"), connect("speaker")
    leaver.join("python-leave")
    leaver.tell("leave_conversation", conversation_id="python-leave")
    assert leaver.until("conversation_left")["conversation_id"] == "python-leave"
    speaker.send_and_ack("python-leave", "to nobody", "c1")
    assert "new_message" not in leaver.nothing_more()


def test_twenty_asyncio_clients_see_one_order(server):
    clients, messages = 20, 5

    async def one(number):
        heard = []
        async with connect_async(server.socket_url(f"async-{number}")) as socket:
            await socket.send(json.dumps({"type": "join_conversation", "conversation_id": "python-many", "after_seq": 0}))
            for message in range(messages):
                frame = {"type": "send_message", "conversation_id": "python-many", "content": f"{number}/{message}"}
                await socket.send(json.dumps(frame))
            while len(heard) < clients * messages:
                frame = json.loads(await socket.recv())
                assert frame["type"] != "error", frame
                if frame["type"] == "new_message":
                    heard.append((frame["seq"], frame["message"]["content"]))
        return heard

    async def everyone():
        return await asyncio.wait_for(asyncio.gather(*map(one, range(clients))), 30)

    first, *others = asyncio.run(everyone())
    assert [seq for seq, _ in first] == list(range(1, clients * messages + 1))
    assert {content for _, content in first} == {f"{n}/{m}" for n in range(clients) for m in range(messages)}
    assert all(heard == first for heard in others)
