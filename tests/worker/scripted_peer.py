"""A worker's process that does as its input says: speaks the protocol, and runs nobody's code. `scripted_peer.py FD`."""

import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import msgspec

from tidegate.worker.messages import (
    Begin,
    Cancel,
    Check,
    Checked,
    Ended,
    Info,
    Item,
    Log,
    Metric,
    Predict,
    Ready,
    SetupFailed,
    Stop,
    ToWorker,
)


class Peer:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.canceled: dict[int, threading.Event] = {}
        self.plan: dict[str, Any] = {}

    def say(self, *messages: Any) -> None:
        data = b""
        for message in messages:
            packed = msgspec.msgpack.encode(message)
            data += len(packed).to_bytes(4, "big") + packed
        with self.lock:
            self.sock.sendall(data)

    def hear(self) -> ToWorker:
        size = int.from_bytes(self._exactly(4), "big")
        heard: ToWorker = msgspec.msgpack.decode(self._exactly(size), type=ToWorker)
        return heard

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.sock.recv(min(1 << 20, size - len(data)))
            if not more:
                os._exit(0)
            data += more
        return data

    def serve(self) -> None:
        while True:
            message = self.hear()
            match message:
                case Begin():
                    self.begin(message)
                case Predict():
                    self.canceled[message.number] = threading.Event()
                    threading.Thread(target=self.predict, args=(message,), daemon=True).start()
                case Cancel(number):
                    self.canceled[number].set()
                case Check(number):
                    if "check" in self.plan:
                        self.say(Checked(number, self.plan["check"]))
                case Stop():
                    if not self.plan.get("stubborn"):
                        os._exit(0)

    def begin(self, message: Begin) -> None:
        plan = self.plan = json.loads(message.handler)
        if plan.get("stubborn"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if "later" in plan:  # another plan from the second start on
            try:
                with open(plan["later"]["file"], "x"):  # noqa: PTH123
                    pass
            except FileExistsError:
                plan = self.plan = {**plan, **plan["later"]}
        if "native" in plan:
            os.write(1, plan["native"].encode())
        if "said" in plan:
            self.say(Log(0, "stdout", plan["said"]))
        if plan.get("setup") == "fail":
            self.say(SetupFailed("RuntimeError: no weights", "Traceback: weights.py"))
        elif plan.get("setup") == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif plan.get("setup") == "mute":
            self.say(Ready(b"{}"))
        elif plan.get("setup") != "hang":
            info = Info(
                openapi=msgspec.Raw(b"{}"),
                input_schema=msgspec.Raw(json.dumps(plan.get("schema", {})).encode()),
                files=tuple(plan.get("files", ())),
                parameters=("prompt",),
                takes=plan.get("takes", ""),
                slots=plan.get("slots", 1),
                checks_health=plan.get("checks", False),
            )
            self.say(Ready(msgspec.json.encode(info)))

    def predict(self, message: Predict) -> None:  # noqa: C901 (one branch for each thing a test may want)
        number, asked = message.number, json.loads(message.input)
        if "prompt" in asked:
            asked = {**asked, **json.loads(asked["prompt"])} if asked["prompt"].startswith("{") else asked
        do, stop = asked.get("do", "succeed"), self.canceled[number]
        if "say" in asked:
            self.say(Log(number, "stdout", asked["say"]), Metric(number, "a.b", b"1", "replace"))
        for name, count in asked.get("counts", {}).items():
            self.say(Metric(number, name, json.dumps(count).encode(), "replace"))
        for item in asked.get("items", ()):
            self.say(Item(number, json.dumps(item).encode()))
        if do == "succeed":
            self.say(Ended(number, "succeeded", b'{\n"a":1}'))
        elif do == "list":
            self.say(Ended(number, "succeeded", array=True))
        elif do == "fail":
            self.say(Ended(number, "failed", error="ValueError: x", traceback="Traceback: model.py"))
        elif do == "misfit":
            self.say(Ended(number, "failed", error="Input validation error: code: 'canary' is no colour"))
        elif do == "wait":
            stop.wait()
            self.say(Ended(number, "canceled"))
        elif do == "ignore":
            time.sleep(3600)
        elif do == "stray":
            ready = Ready(
                msgspec.json.encode(Info(openapi=msgspec.Raw(b"{}"), input_schema=msgspec.Raw(b"{}"), slots=9))
            )
            self.say(Log(number + 7, "stdout", "stray\n"), ready, Checked(77, "odd"), Ended(number + 7, "failed"))
            self.say(Ended(number, "succeeded"), Item(number, b"2"), Ended(number, "failed", error="twice"))
        elif do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif do == "exit":
            os._exit(3)
        elif do == "garble":
            self.sock.sendall(b"\0\0\0\3\xff\xff\xff")
        elif do == "boast":
            self.sock.sendall(b"\xff\xff\xff\xff")
        elif do == "flood":
            chunk = json.dumps("x" * 65536).encode()
            for _ in range(asked["chunks"]):
                self.say(Item(number, chunk))
            self.say(Ended(number, "succeeded", array=True))
        elif do == "files":
            texts = {name: [open(path).read() for path in paths] for name, paths in message.files.items()}  # noqa: PTH123, SIM115
            said = {
                "files": texts,
                "input": asked,
                "paths": message.files,
                "id": message.id,
                "context": message.context,
            }
            self.say(Ended(number, "succeeded", json.dumps(said).encode()))


if __name__ == "__main__":
    Peer(socket.socket(fileno=int(sys.argv[1]))).serve()
