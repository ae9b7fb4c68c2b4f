"""Plain HTTP and WebSocket requests that no honest Socket.IO client sends, and details that no client shows: guessed
session ids, pages of foreign origins, CORS, and packets on the wire."""

import http.client
import itertools
import json
import os
import threading
import time
from contextlib import ExitStack

import pytest

from tokens import token_of

if not os.environ.get("CI"):
    pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_websocket

ANSWER_S_MAX = 8
# How long a server may take to stop if it has nothing to wait for. Its drain timeout is 25 s.
STOP_S_MAX = 5
PATHS = ["/socket.io/", "/api/socket", "/api/socket/", "/socket.io"]
LOCAL = "http://localhost:3000"
FOREIGN = ["http://evil.example", "null", "http://localhost.evil.example", "https://127.0.0.1.evil.example:3000"]
GUESSES = ["guessed", "", "0" * 32, "../../etc/passwd", "a" * 2_000]

numbers = itertools.count(1)


@pytest.fixture
def fresh():
    number = next(numbers)
    return lambda name: f"{name}-raw-{number}"


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read().decode()

    def json(self):
        return json.loads(self.body)

    def cors_headers(self):
        return {name for name in map(str.lower, self.headers) if name.startswith("access-control-")}


def request(server, method, target, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_S_MAX)
    try:
        connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def query(path, transport="polling", sid=None):
    return f"{path}?EIO=4&transport={transport}" + ("" if sid is None else f"&sid={sid}")


def open_session(server, path="/socket.io/"):
    answer = request(server, "GET", query(path))
    assert answer.status == 200 and answer.body.startswith("0"), answer.body
    return json.loads(answer.body[1:])["sid"]


def websocket(server, path, sid=None, **options):
    target = f"ws://127.0.0.1:{server.port}{query(path, 'websocket', sid)}"
    return connect_websocket(target, open_timeout=ANSWER_S_MAX, close_timeout=ANSWER_S_MAX, compression=None, **options)


def poll(server, path, sid):
    return request(server, "GET", query(path, sid=sid))


def post(server, path, sid, body):
    return request(server, "POST", query(path, sid=sid), body.encode(), Content_Type="text/plain")


def packets_until(server, path, sid, prefix):
    """Polls until a packet with this prefix arrives, and returns all packets up to it."""
    packets = []
    while not any(packet.startswith(prefix) for packet in packets):
        packets += poll(server, path, sid).body.split("\x1e")
    return packets


# ---- sessions of other clients --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sid", GUESSES, ids=lambda sid: sid[:10])
def test_a_guessed_session_id_is_unknown_on_every_transport(server, path, sid):
    unknown = {"code": 1, "message": "Session ID unknown"}
    for answer in (poll(server, path, sid), post(server, path, sid, "40")):
        assert (answer.status, answer.json()) == (400, unknown)
    with pytest.raises(InvalidStatus) as refused:
        websocket(server, path, sid)
    assert refused.value.response.status_code == 400


def test_a_session_without_a_token_does_not_exist_on_the_path_that_needs_one(server):
    sid = open_session(server, "/socket.io/")
    assert poll(server, "/api/socket", sid).status == 400
    assert post(server, "/api/socket", sid, "40").status == 400
    assert post(server, "/socket.io/", sid, "40").body == "ok"


def test_a_session_that_has_its_websocket_cannot_be_polled(server):
    with websocket(server, "/socket.io/") as socket:
        sid = json.loads(socket.recv(ANSWER_S_MAX)[1:])["sid"]
        assert poll(server, "/socket.io/", sid).status == 400
        assert post(server, "/socket.io/", sid, "40").status == 400
        with pytest.raises(InvalidStatus):
            websocket(server, "/socket.io/", sid)
        socket.send("40")
        assert socket.recv(ANSWER_S_MAX).startswith("40")


def test_session_ids_have_at_least_96_random_bits(server):
    sids = [open_session(server) for _ in range(20)]
    assert len(set(sids)) == 20
    shared = len(os.path.commonprefix(sids))
    # 96 random bits are 16 characters of base64 or 24 of hex.
    assert min(len(sid) for sid in sids) - shared >= 16, sids


def test_a_closed_session_answers_its_poll_at_once_and_is_gone(server):
    path = "/socket.io/"
    sid = open_session(server, path)
    post(server, path, sid, "40")
    packets_until(server, path, sid, '42["connected"')
    answers = []
    waiting = threading.Thread(target=lambda: answers.append((poll(server, path, sid), time.monotonic())))
    waiting.start()
    time.sleep(0.3)
    begun = time.monotonic()
    assert post(server, path, sid, "1").body == "ok"
    waiting.join(ANSWER_S_MAX)
    ((answer, ended),) = answers
    assert (answer.status, answer.body) == (200, "6")
    assert ended - begun < 1
    assert poll(server, path, sid).status == 400


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PATHS)
def test_a_request_without_a_transport_is_refused(server, method, path):
    answer = request(server, method, path)
    assert answer.status == 400
    if method == "GET":
        assert answer.json() == {"code": 0, "message": "Transport unknown"}


@pytest.mark.parametrize("body", ["4" + "x" * 1_000_000, "x", "", "4\x1e", "b!", "0{}", "\x1e".join(["3"] * 2_000)])
def test_a_bad_post_is_refused_and_disturbs_no_other_session(server, body):
    path = "/socket.io/"
    sid, other = open_session(server, path), open_session(server, path)
    answer = post(server, path, sid, body)
    assert answer.status == (413 if len(body) > 1_000_000 else 400), answer.body
    assert post(server, path, other, "40").body == "ok"
    packets_until(server, path, other, '42["connected"')


# ---- pages of other origins -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_page_gets_403_and_no_cors_header(server, path, origin):
    sid = open_session(server, path)
    preflight = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    for answer in (
        request(server, "GET", query(path), Origin=origin),
        request(server, "GET", query(path, sid=sid), Origin=origin),
        request(server, "POST", query(path, sid=sid), b"40", Origin=origin, Content_Type="text/plain"),
        request(server, "OPTIONS", query(path), Origin=origin, **preflight),
        request(server, "GET", path, Origin=origin),
    ):
        assert answer.status == 403, answer.body
        assert not answer.cors_headers()
    for session in (None, sid):
        with pytest.raises(InvalidStatus) as refused:
            websocket(server, path, session, origin=origin)
        assert refused.value.response.status_code == 403
        assert "Access-Control-Allow-Origin" not in refused.value.response.headers
    # None of these requests changed the session.
    assert post(server, path, sid, "40").body == "ok"


@pytest.mark.parametrize("path", PATHS)
def test_a_preflight_from_an_allowed_page_is_answered(server, path):
    preflight = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "authorization,content-type"}
    answer = request(server, "OPTIONS", query(path), Origin=LOCAL, **preflight)
    assert answer.status in (200, 204), answer.body
    assert answer.headers["Access-Control-Allow-Origin"] == LOCAL
    assert {"GET", "POST"} <= {method.strip() for method in answer.headers["Access-Control-Allow-Methods"].split(",")}
    allowed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
    assert {"authorization", "content-type"} <= allowed
    assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_to_an_allowed_page_carries_its_origin(server, path):
    opened = request(server, "GET", query(path), Origin=LOCAL)
    assert opened.status == 200
    sid = json.loads(opened.body[1:])["sid"]
    posted = request(server, "POST", query(path, sid=sid), b"40", Origin=LOCAL, Content_Type="text/plain")
    polled = request(server, "GET", query(path, sid=sid), Origin=LOCAL)
    unknown = request(server, "GET", query(path, sid="guessed"), Origin=LOCAL)
    assert [answer.status for answer in (posted, polled, unknown)] == [200, 200, 400]
    for answer in (opened, posted, polled, unknown):
        assert answer.headers["Access-Control-Allow-Origin"] == LOCAL
        assert "Origin" in answer.headers["Vary"]
    with websocket(server, path, origin=LOCAL) as socket:
        assert socket.recv(ANSWER_S_MAX).startswith("0")


# ---- the end of refused sessions, and the size of payloads ----------------------------------------------------


def five_connections(server, stack, user_id):
    """Opens five WebSockets of a user and returns the user's token. While they answer pings, a sixth one is refused."""
    token = token_of(user_id)
    for _ in range(5):
        socket = stack.enter_context(websocket(server, "/api/socket"))
        socket.recv(ANSWER_S_MAX)
        socket.send("40" + json.dumps({"token": token}))
        assert socket.recv(ANSWER_S_MAX).startswith("40")
        threading.Thread(target=answer_pings, args=(socket,), daemon=True).start()
    return token


def answer_pings(socket):
    for packet in socket:
        if packet == "2":
            socket.send("3")


def test_a_polling_client_over_the_limit_is_refused_by_the_end_of_its_session(server, fresh):
    """The server sends no CONNECT_ERROR, after which clients would not reconnect by themselves."""
    with ExitStack() as stack:
        token = five_connections(server, stack, fresh("many"))
        sid = open_session(server, "/api/socket")
        post(server, "/api/socket", sid, "40" + json.dumps({"token": token}))
        answer = poll(server, "/api/socket", sid)
        while answer.status == 200:
            assert not any(packet.startswith("44") for packet in answer.body.split("\x1e")), answer.body
            answer = poll(server, "/api/socket", sid)
        assert answer.status == 400


def test_an_upgrading_client_over_the_limit_is_refused_on_its_websocket(server, fresh):
    """The Java client sends CONNECT by polling and probes a WebSocket. After the probe's answer it stops polling."""
    with ExitStack() as stack:
        token = five_connections(server, stack, fresh("many"))
        sid = open_session(server, "/api/socket")
        socket = stack.enter_context(websocket(server, "/api/socket", sid))
        socket.send("2probe")
        assert socket.recv(ANSWER_S_MAX) == "3probe"
        post(server, "/api/socket", sid, "40" + json.dumps({"token": token}))
        # By then the server has refused the connection.
        time.sleep(4)
        heard = []
        with pytest.raises(ConnectionClosed) as closed:
            socket.send("5")
            while True:
                heard.append(socket.recv(ANSWER_S_MAX))
        assert closed.value.rcvd.code == 1008
        assert not any(packet.startswith("44") for packet in heard), heard


def test_an_answer_to_a_poll_has_at_most_16_packets(server, connect, fresh):
    """python-engineio's client gives up a session if a payload has more than 16 packets."""
    conversation_id, path = fresh("payload"), "/socket.io/"
    speaker = connect(fresh("speaker"))
    for number in range(40):
        speaker.send_and_ack(conversation_id, f"m{number}", f"c{number}")
    sid = open_session(server, path)
    post(server, path, sid, "40" + json.dumps({"token": token_of(fresh("late"))}))
    packets_until(server, path, sid, '42["authenticated"')
    join = json.dumps(["join_conversation", {"conversationId": conversation_id, "afterSeq": 0}])
    post(server, path, sid, f"42{join}")
    sizes, heard = [], []
    while len(heard) < 40:
        packets = poll(server, path, sid).body.split("\x1e")
        sizes.append(len(packets))
        heard += [json.loads(packet[2:])[1]["seq"] for packet in packets if packet.startswith('42["message_received"')]
    assert heard == list(range(1, 41))
    assert max(sizes) <= 16, sizes


def test_stopping_does_not_wait_for_unauthenticated_clients(own_server):
    path = "/socket.io/"
    sid = open_session(own_server, path)
    post(own_server, path, sid, "40")
    packets_until(own_server, path, sid, '42["connected"')
    open_session(own_server, path)
    with websocket(own_server, path) as silent, websocket(own_server, path) as anonymous:
        anonymous.recv(ANSWER_S_MAX)
        anonymous.send("40")
        assert anonymous.recv(ANSWER_S_MAX).startswith("40")
        silent.recv(ANSWER_S_MAX)
        begun = time.monotonic()
        own_server.terminate()
        assert time.monotonic() - begun < STOP_S_MAX
