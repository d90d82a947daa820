"""Train once undisturbed; then kill and resume REPETITIONS times, and compare what came out: drive.py REPETITIONS

Prints one JSON object: how many repetitions, kills and differences there were.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

REPETITIONS = int(sys.argv[1])
draw = random.Random(20)  # The same kills in every run, so that a difference can be looked into.
STEPS = 4 * 45


def train(out, checkpoint, every, kill):
    command = [sys.executable, "resume.py", out, checkpoint, every, kill]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, -9):
        sys.exit(done.stderr)
    return done.returncode == 0


def digest(out):
    return [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in (out, out + ".json")]


# The weights are compared by the bytes of an npz file: its members have no times, see numpy.savez.
train("whole.npz", "whole.checkpoint", "epoch", "never")
expected, different, kills = digest("whole.npz"), [], 0
for repetition in range(REPETITIONS):
    out, checkpoint = "again.npz", "again.checkpoint"
    every = draw.choice(["epoch", "1", "7", "20"])
    log = []
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["step", "step", "after"])
        log.append(f"step:{draw.randint(1, STEPS)}" if kind == "step" else f"after:{draw.uniform(0, 2):.3f}")
        if train(out, checkpoint, every, log[-1]):
            break
        kills += 1
    else:
        train(out, checkpoint, every, "never")
    if digest(out) != expected:
        different.append({"repetition": repetition, "every": every, "kills": log})
    left = os.path.exists(checkpoint)
    os.remove(out)
    if left:
        sys.exit("the checkpoint of a finished training is there still")
    print(f"{repetition + 1}/{REPETITIONS}: every {every}, killed {log}", file=sys.stderr, flush=True)
print(json.dumps({"repetitions": REPETITIONS, "kills": kills, "different": different}))
