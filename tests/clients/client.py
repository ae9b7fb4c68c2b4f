"""A client of the native protocol over the websockets library. It only adds methods for reading frames in order."""

import json
import re

from websockets.sync.client import connect

FRAME_S_MAX = 8
RFC3339_MS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Client:
    def __init__(self, server, user_id, name=None):
        self.connection = connect(server.socket_url(user_id, name), open_timeout=FRAME_S_MAX, close_timeout=FRAME_S_MAX)

    def __enter__(self):
        self.socket = self.connection.__enter__()
        return self

    def __exit__(self, *failure):
        self.connection.__exit__(*failure)

    def tell(self, kind, **fields):
        self.socket.send(json.dumps({"type": kind, **fields}))

    def next(self):
        """The very next frame."""
        frame = json.loads(self.socket.recv(timeout=FRAME_S_MAX))
        assert RFC3339_MS.fullmatch(frame["timestamp"]), frame
        return frame

    def until(self, *kinds):
        """The next frame of one of these types. Frames before it are dropped."""
        while True:
            frame = self.next()
            if frame["type"] in kinds:
                return frame

    def join(self, conversation_id, **fields):
        self.tell("join_conversation", conversation_id=conversation_id, **fields)
        return self.until("conversation_joined")

    def send_and_ack(self, conversation_id, content, client_id):
        self.tell("send_message", conversation_id=conversation_id, content=content, client_id=client_id)
        return self.until("message_ack")

    def nothing_more(self):
        """The types of the frames still in flight: the server answers earlier frames before it sends the pong."""
        self.tell("ping", ref="nothing-more")
        heard = []
        while (frame := self.next())["type"] != "pong":
            heard.append(frame["type"])
        return heard
