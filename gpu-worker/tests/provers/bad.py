#!/usr/bin/env python3
"""A session prover that misbehaves: `params.do` says how. Otherwise it writes what it reads."""
import json, os, subprocess, sys


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


say({"type": "hello", "protocol": 1, "name": "bad", "version": "0", "stages": [{"name": "map", "kind": "map"}]})
for line in sys.stdin:
    task = json.loads(line)
    if task["type"] != "task":
        continue
    ident, params = task["id"], task["params"]
    do = params.get("do")
    if do == "endless-line":
        while True:
            os.write(1, b"x" * 65536)
    if do == "endless-stdout":
        while True:
            sys.stdout.write("y\n")
    if do == "binary":
        os.write(1, bytes(range(256)) * 16 + b"\n")
    if do == "chatter":
        for number in range(20000):
            say({"type": "progress", "id": ident, "fraction": number / 20000})
    if do == "stderr":
        for _ in range(256):
            os.write(2, b"z" * 65536)
        os.write(2, b"\nthe last words\n")
        if params.get("then") == "exit":
            sys.exit(7)
    if do == "fork":  # what it leaves behind holds its stdout and stderr
        child = subprocess.Popen(["sleep", "600"])
        with open(params["pid"], "w") as file:
            file.write(str(child.pid))
        os._exit(9)
    if do == "other-id":
        say({"type": "done", "id": "somebody/else", "result": {}})
        continue
    if do == "twice":
        say({"type": "done", "id": ident, "result": {}})
    if do == "link":
        os.symlink(params["to"], task["output"])
        say({"type": "done", "id": ident, "result": {}})
        continue
    if do == "directory":
        os.mkdir(task["output"])
        say({"type": "done", "id": ident, "result": {}})
        continue
    if do == "long-message":
        say({"type": "failed", "id": ident, "kind": "retryable", "message": "w" * 100000})
        continue
    with open(task["inputs"][0], "rb") as source, open(task["output"], "wb") as target:
        target.write(source.read())
    if do == "huge":
        os.truncate(task["output"], 1 << 31)
    say({"type": "done", "id": ident, "result": {}})
