#!/usr/bin/env python3
"""A session-form prover, standard library only: it stays up between tasks, reports progress, and stops when it is told to.

It proves nothing. Its "proof" is the list of the segments' digests, which anybody could write down, and `verify` compares it with the list
in the block's header: no work was shown, nothing was hidden or made shorter. What it has of a real prover is that every output is bound to
its inputs, so that what push0 does with it can be watched and checked.

  witness   the parent's hash on the first line, then one segment a line
  segment   its line
  header    the parent's hash, then each segment's SHA-256, a line each; its own SHA-256 is the block's hash
  artifact  the digests of the segments it is about, a line each, in order
"""
import hashlib
import json
import queue
import re
import sys
import threading
from pathlib import Path

KINDS = {"split": "split", "prove": "map", "join": "join", "wrap": "single", "verify": "verify"}
ARTIFACT = re.compile(rb"([0-9a-f]{64}\n)+")


class Failed(Exception):
    """What the worker is told instead of `done`: `retryable`, `permanent`, or `bad_input` with the positions of the bad inputs."""

    def __init__(self, kind, message, children=()):
        super().__init__(message)
        self.answer = {"kind": kind, "message": message, "children": list(children)}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def artifacts(inputs):
    """The inputs, if each is an artifact; otherwise those that are not are named."""
    bad = [position for position, data in enumerate(inputs) if not ARTIFACT.fullmatch(data)]
    if bad:
        raise Failed("bad_input", "no list of digests", bad)
    return inputs


def split(task, inputs, output):
    parent, *segments = inputs[0].splitlines()
    if not re.fullmatch(rb"[0-9a-f]{64}", parent) or not segments:
        raise Failed("permanent", "a witness is the parent's hash and at least one segment, a line each")
    (output / "segments").mkdir(parents=True)
    for number, segment in enumerate(segments):
        (output / "segments" / f"{number:06}").write_bytes(segment)
    header = b"".join(line + b"\n" for line in [parent, *(sha256(segment).encode() for segment in segments)])
    (output / "header").write_bytes(header)
    return {"segments": len(segments), "hash": sha256(header), "parent_hash": parent.decode()}


def prove(task, inputs, output):
    output.write_bytes(sha256(inputs[0]).encode() + b"\n")
    return {}


def join(task, inputs, output):
    output.write_bytes(b"".join(artifacts(inputs)))
    return {}


def wrap(task, inputs, output):
    output.write_bytes(artifacts(inputs)[0])
    return {}


def verify(task, inputs, output):
    root, header = inputs
    if sha256(header) != task["block"]["hash"]:
        return {"verdict": "bad_block", "message": "the header is another block's"}
    digests = header.partition(b"\n")[2]
    if root != digests:
        return {"verdict": "bad_proof", "message": "the digests are not those of the header's segments"}
    return {"verdict": "ok"}


def check(task, inputs, output):
    """Another prover says that this artifact is bad. Is it? Asked where the pipeline says `check = true`."""
    artifact, header, first, last = inputs
    digests = header.splitlines()[1:]
    covered = digests[digests.index(sha256(first).encode()) : digests.index(sha256(last).encode()) + 1]
    if artifact != b"".join(digest + b"\n" for digest in covered):
        return {"verdict": "bad_proof", "message": "the digests are not those of the segments it covers"}
    return {"verdict": "ok"}


STAGES = {"split": split, "prove": prove, "join": join, "wrap": wrap, "verify": verify}


def say(message):
    """One message is one line; nothing else may go to stdout. The log is stderr."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def listen(tasks, cancelled):
    """Reads while the main thread works: a cancel comes in the middle of a task."""
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "task":
            cancelled.clear()  # a cancel that came too late is not for this task
            tasks.put(message)
        elif message["type"] == "cancel":
            cancelled.add(message["id"])
    tasks.put(None)  # end of stdin: exit


def answer(task, cancelled):
    try:
        inputs = [Path(path).read_bytes() for path in task["inputs"]]
        say({"type": "progress", "id": task["id"], "fraction": 0.5})
        # A prover that takes long looks here again and again.
        if task["id"] in cancelled:
            raise Failed("retryable", "cancelled")
        work = check if task.get("check") else STAGES[task["stage"]]
        result = work(task, inputs, Path(task["output"]))
        say({"type": "done", "id": task["id"], "result": result})
    except Failed as failed:
        say({"type": "failed", "id": task["id"], **failed.answer})
    except Exception as error:
        say({"type": "failed", "id": task["id"], "kind": "retryable", "message": repr(error)})


def main():
    tasks, cancelled = queue.Queue(), set()
    stages = [{"name": name, "kind": kind} for name, kind in KINDS.items()]
    say({"type": "hello", "protocol": 1, "name": "example", "version": "1", "stages": stages, "programs": {}, "device": "cpu"})
    threading.Thread(target=listen, args=(tasks, cancelled), daemon=True).start()
    while (task := tasks.get()) is not None:
        answer(task, cancelled)


main()
