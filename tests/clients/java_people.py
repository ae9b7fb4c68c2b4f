"""People with the Java Socket.IO client. All share one JVM, which reads lines of JSON (java/SocketIoClients.java)."""

import itertools
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from socketio_people import ANSWER_S_MAX, PATH_OF_TOKENS, Person, Refused

COMPILE_S_MAX = 120
STOP_S_MAX = 10
# The folder of the client's jars. ./test sets it.
JARS = os.environ.get("CARILLON_TEST_JAVA_CLIENT")
SOURCE = Path(__file__).parent / "java/SocketIoClients.java"


def missing():
    """The reason why a Java client cannot be run here, or None."""
    for program in ("java", "javac"):
        if not shutil.which(program):
            return f"{program} is missing"
    return None if JARS else "CARILLON_TEST_JAVA_CLIENT is not set: it names the folder of the Java client's jars"


class Jvm:
    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="carillon-java-")
        class_path = f"{JARS}/*"
        compile_it = ["javac", "-encoding", "UTF-8", "-cp", class_path, "-d", self.directory, str(SOURCE)]
        subprocess.run(compile_it, check=True, timeout=COMPILE_S_MAX, stdin=subprocess.DEVNULL)
        # Only the first JIT tier and the serial collector: the JVM runs for a short time and starts faster this way.
        flags = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m"]
        run_it = ["java", *flags, "-cp", f"{self.directory}:{class_path}", "SocketIoClients"]
        self.process = subprocess.Popen(run_it, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.people = {}
        self.numbers = itertools.count(1)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            happened = json.loads(line)
            self.people[happened["client"]].happened(happened)

    def do(self, **command):
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def stop(self):
        self.process.stdin.close()
        try:
            end = self.process.wait(STOP_S_MAX)
        finally:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)
        assert end == 0, f"the JVM ended with {end}"


class JavaPerson(Person):
    """`io.socket:socket.io-client`."""

    jvm = None

    def __init__(self, server, transports):
        super().__init__(server, transports)
        if JavaPerson.jvm is None:
            JavaPerson.jvm = Jvm()
        self.number = next(self.jvm.numbers)
        self.jvm.people[self.number] = self
        self.callbacks = {}
        self.entered = queue.SimpleQueue()

    @classmethod
    def stop_jvm(cls):
        if cls.jvm:
            cls.jvm.stop()
            cls.jvm = None

    def happened(self, what):
        arguments = what["arguments"]
        if "ack" in what:
            self.callbacks.pop(what["ack"])(*arguments)
            return
        name = what["event"]
        if name == "connect" and self.first_words:
            self.tell(*self.first_words())
        if name in ("connect", "connect_error"):
            self.entered.put((name, *arguments))
        self.heard.put((name, *(arguments or [None])))

    def connect(self, token=None, path=PATH_OF_TOKENS, namespace="/"):
        self.opened = True
        given = {**({"transports": self.transports} if self.transports else {}), **({"token": token} if token else {})}
        where = {"url": self.server.url, "namespace": namespace, "path": path}
        self.jvm.do(client=self.number, do="open", **where, **given)
        try:
            name, *said = self.entered.get(timeout=ANSWER_S_MAX)
        except queue.Empty:
            # A user with too many connections gets no answer, and this client would retry for ever.
            self.leave()
            raise Refused(f"neither connect nor connect_error within {ANSWER_S_MAX} s") from None
        if name == "connect_error":
            raise Refused(*said)

    def tell(self, event, *arguments):
        self.jvm.do(client=self.number, do="emit", event=event, arguments=arguments)

    def tell_with_callback(self, callback, event, *arguments):
        ack = self.called_back(callback)
        self.jvm.do(client=self.number, do="emit", event=event, arguments=arguments, ack=ack)

    def called_back(self, callback):
        ack = next(self.jvm.numbers)
        self.callbacks[ack] = callback
        return ack

    def transport(self):
        answers = queue.SimpleQueue()
        self.jvm.do(client=self.number, do="transport", ack=self.called_back(answers.put))
        return answers.get(timeout=ANSWER_S_MAX)

    def disconnect(self):
        self.jvm.do(client=self.number, do="close")
