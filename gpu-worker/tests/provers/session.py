#!/usr/bin/env python3
"""A scripted session prover for tests: `params.do` says what to do. Every task it is given is a line of the file argv[1]."""
import hashlib, json, os, sys, time

LOG = sys.argv[1]


def say(message):
    print(json.dumps(message), flush=True)


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def read(path):
    with open(path, "rb") as file:
        return file.read()


stages = [{"name": kind, "kind": kind} for kind in ("split", "map", "join", "single", "verify")]
say({"type": "hello", "protocol": 1, "name": "scripted", "version": "0", "stages": stages, "programs": {"leaf": "11" * 32}, "new": 1})
for line in sys.stdin:
    task = json.loads(line)
    if task["type"] != "task":
        continue
    ident, params = task["id"], task.get("params") or {}
    with open(LOG, "a") as log:
        log.write(ident + "\n")
    do = params.get("do", "work")
    if do == "crash":
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if do == "greedy":  # more than its limit
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        data = bytearray(4 << 30)
    if do == "hang":
        time.sleep(600)
    if do == "garbage":
        print("hello, world", flush=True)
        time.sleep(600)
    if do == "crawl":  # a hundredth of it in two seconds
        time.sleep(2)
        say({"type": "progress", "id": ident, "fraction": 0.01})
        time.sleep(600)
    if do == "wait":  # until a file is there
        while not os.path.exists(params["for"]):
            time.sleep(0.005)
    if do == "fail":
        say({"type": "failed", "id": ident, "kind": params["kind"], "message": "as asked", "children": params.get("children", [])})
        continue
    result, inputs = {}, [read(path) for path in task["inputs"]]
    say({"type": "progress", "id": ident, "fraction": 0.5})
    if do == "nothing":
        pass
    elif task["kind"] == "split":
        count = params.get("segments", 3)
        for number in range(count):
            write(task["output"] + "/segments/%06d" % number, inputs[0] + b"/%d" % number)
        write(task["output"] + "/header", b"header of " + inputs[0])
        result = {"segments": count, "hash": task["block"]["hash"], "parent_hash": "22" * 32}
    elif task["kind"] == "verify":
        result = {"verdict": "ok", "message": hashlib.sha256(inputs[0]).hexdigest()}
    else:
        write(task["output"], b"+".join(inputs))
    say({"type": "done", "id": ident, "result": result})
