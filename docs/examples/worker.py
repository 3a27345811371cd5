"""Works for a group: runs a command for each message of the log, at least once, and again where it failed.

    python worker.py DIR GROUP LEASE_MS COMMAND [ARG ...]

The command finds the content on its stdin, and the message's place in the log in ARMIN_POSITION: together
with the database and epoch that hello told, a good key for what it does. Exit status 0 acknowledges; after
another one the message comes again, and in the end is a dead letter. Start as many workers as you like;
SIGTERM ends one, when its command has ended.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

from request import ask

stopping = threading.Event()


def insist(directory, patience=0.5, **command):
    """A reply, however long the engine is away; while the worker stops, for five seconds."""
    while True:
        try:
            return ask(directory, patience, **command)
        except TimeoutError:
            if stopping.is_set():
                raise
            print("engine away", file=sys.stderr, flush=True)


def settle(directory, op, group, lease, **fields):
    """Sends an ack, a nack or an extend; whether the lease was still this worker's."""
    reply = insist(directory, op=op, group=group, leases=[lease["lease"]], **fields)
    print(op, lease["position"], lease["attempt"], json.dumps(reply["outcomes"][0]), flush=True)
    return reply["outcomes"][0]["ok"]


def work(directory, group, lease_ms, command, lease, due):
    """Runs the command, extends the lease while it runs, first at `due`, and says how it ended."""
    message = lease["event"]["message"]
    if message.get("elided"):  # too large for an event
        place = {"session_id": message["session_id"], "after": message["seq"] - 1, "limit": 1}
        [message] = insist(directory, op="read", **place)["messages"]
    env = os.environ | {"ARMIN_POSITION": str(lease["position"]), "ARMIN_ATTEMPT": str(lease["attempt"])}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=env) as child:
        content = message["content"].encode()
        while child.returncode is None:
            try:
                child.communicate(content, timeout=max(0, due - time.monotonic()))
            except subprocess.TimeoutExpired:
                content, due = None, time.monotonic() + lease_ms / 3000
                if not settle(directory, "extend", group, lease, lease_ms=lease_ms):
                    child.kill()  # it took too long: another worker has the message
                    return
    if child.returncode == 0:
        settle(directory, "ack", group, lease)
    else:  # again after the group's backoff
        settle(directory, "nack", group, lease, reason=f"exit status {child.returncode}")


def main(directory, group, lease_ms, *command):
    """Polls and works until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    insist(directory, op="create_group", group=group, start="begin", types=["message_appended"])
    while not stopping.is_set():
        # A poll that is sent again gives the same lease, by its request: a lost reply keeps none from all.
        poll = {"op": "lease", "group": group, "request": secrets.token_hex(16), "wait_ms": 1000}
        due = time.monotonic() + lease_ms / 3000  # a third of the lease, from here: the reply may come late
        for lease in insist(directory, patience=2, max=1, lease_ms=lease_ms, **poll)["leases"]:
            work(directory, group, lease_ms, command, lease, due)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
