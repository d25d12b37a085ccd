#!/usr/bin/env python3
"""Makes a chain of blocks for exec.py and session.py: for each number a witness and a submission file.

  python3 blocks.py --blocks 10 --segments 5 --out blocks
"""
import argparse
import hashlib
import json
from pathlib import Path


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


arguments = argparse.ArgumentParser()
arguments.add_argument("--chain", default="demo")
arguments.add_argument("--blocks", type=int, default=10)
arguments.add_argument("--segments", type=int, default=5)
arguments.add_argument("--out", type=Path, default=Path("blocks"))
options = arguments.parse_args()
options.out.mkdir(parents=True, exist_ok=True)
parent = "0" * 64
for number in range(1, options.blocks + 1):
    segments = [f"segment {segment} of block {number}" for segment in range(options.segments)]
    # The block's hash is its header's, and the header is what `split` makes of the witness.
    block = sha256("".join(line + "\n" for line in [parent, *map(sha256, segments)]))
    (options.out / f"{number}.witness").write_text("".join(line + "\n" for line in [parent, *segments]))
    submission = {"chain": options.chain, "number": number, "hash": block, "parent_hash": parent, "witness": f"{number}.witness"}
    (options.out / f"{number}.json").write_text(json.dumps(submission, indent=2) + "\n")
    parent = block
print(f"{options.blocks} blocks of {options.segments} segments in {options.out}")
