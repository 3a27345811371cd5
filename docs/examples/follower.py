"""Follows a session: every message once, in order, until it is closed, whatever the live socket loses.

    python follower.py DIR SESSION_ID [AFTER EPOCH]

The states are those of "Following" in docs/protocol.md. A message is a line of JSON; how it goes is told on
stderr, the epoch first. To go on after a restart, keep the last seq with that epoch, and give both.
"""

import json
import secrets
import sys
import time
from types import SimpleNamespace

import msgpack
import zmq
from request import ask


def check(view, said):
    """A cursor means nothing in another database, nor in one that was restored."""
    view.database, view.epoch = view.database or said["database"], view.epoch or said["epoch"]
    if (view.database, view.epoch) != (said["database"], said["epoch"]):
        raise RuntimeError("cursor_invalid: this is another database, or it was restored")
    return said


def take(view):
    """The next live message: its topic and its event."""
    topic, *event = view.live.recv_multipart()
    if event:
        return topic, msgpack.unpackb(event[0])
    # The welcome, first of all on every connection: whose facts come behind it.
    check(view, {"database": view.database, "epoch": topic.decode().removeprefix("welcome/")})
    return topic, {"type": "welcome"}


def synced(view, seconds):
    """SYNCING: waits until every subscription is in place; whether that is at the engine that said hello."""
    topic = f"~sync/{(token := secrets.token_hex(16))}/".encode()
    view.live.subscribe(topic)  # behind all others: when its answer comes, they are in place
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            ask(view.directory, op="sync", token=token)  # the first one is usually published too early
            again = time.monotonic() + 0.05
            while (left := again - time.monotonic()) > 0 and view.live.poll(1000 * left):
                came, event = take(view)
                if came == topic:
                    return check(view, event)["engine"] == view.engine
        raise TimeoutError("the live socket cannot be reached")
    finally:
        view.live.unsubscribe(topic)


def read_on(view, reason):
    """READING: messages from the cursor to the end; returns whether the session is closed."""
    more = True
    while more:
        place = {"session_id": view.session, "after": view.cursor, "limit": 1000}
        page = ask(view.directory, op="read", reason=reason, **place, **view.whose)
        for message in page["messages"]:
            view.cursor = message["seq"]
            yield message
        more = page["more"]
    view.checked = page["position"]  # nothing of this session is missing up to here
    return page["closed"]


def judge(view, event):
    """What a live message calls for: "deliver", "greet", nothing, or to read, for the reason given."""
    if event["type"] == "message_appended" and event["message"]["seq"] > view.cursor:
        if event["message"]["seq"] > view.cursor + 1:
            return "heal"
        return "elided" if event["message"].get("elided") else "deliver"
    if event["type"] == "session_closed":
        return "closed"
    if event["type"] == "goodbye":
        return "greet"
    if event["type"] == "heartbeat":
        if check(view, event)["engine"] != view.engine:
            return "greet"
        # Ahead: something was committed in another session, or in this one, and its event was lost or is on
        # its way. A read tells, once a second at most; whoever follows many sessions asks `tails` for all.
        return "heartbeat" if event["position"] > view.checked else None
    return None


def listen(view):
    """LIVE: messages as they come; returns what is to be done instead, when they end."""
    while view.live.poll(3000):  # only an empty socket is silent: who was busy takes first what waits
        event = take(view)[1]
        call = judge(view, event)
        if call == "deliver":
            view.cursor, view.checked = event["message"]["seq"], event["position"]
            yield event["message"]
        elif call:
            return call
    return "greet"


def attend(view):
    """Through all states, as long as one engine lasts; returns whether the session has ended."""
    hello = check(view, ask(view.directory, op="hello"))
    if hello["protocol"] != "armin/1":
        raise RuntimeError("this engine speaks another protocol")
    view.engine = hello["engine"]
    # With this a page of a restored database is refused. An older engine does not know the field.
    view.whose = {"epoch": view.epoch} if "epochs" in hello["features"] else {}
    print("epoch", view.epoch, file=sys.stderr, flush=True)
    if view.was_live and (yield from read_on(view, "heal")):
        return True
    if not synced(view, 3 if view.was_live else 5):
        return False
    print("in sync", file=sys.stderr, flush=True)
    call = "sync"
    while call != "greet":
        if (yield from read_on(view, call)):
            return True
        view.was_live = True  # from now on it waits for its engine without end
        call = yield from listen(view)
    return False


def follow(directory, session, after=0, epoch=None):
    """The messages of a session behind the seq `after`, which was kept with this epoch."""
    live = zmq.Context.instance().socket(zmq.SUB)
    live.linger, live.sndhwm = 0, 0  # a subscription is sent like a message, and would be lost over the mark
    for topic in (f"message/{session}/", f"closed/{session}/", "heartbeat/", "goodbye/", "welcome/"):
        live.subscribe(topic)
    live.connect(f"ipc://{directory}/live.sock")  # and again by itself, with all its subscriptions
    view = SimpleNamespace(directory=directory, session=session, cursor=after, live=live)
    view.database, view.epoch, view.was_live = None, epoch, False
    while True:
        try:
            if (yield from attend(view)):
                return
        except TimeoutError:
            if not view.was_live:
                raise
        print("engine gone", file=sys.stderr, flush=True)
        time.sleep(0.25)


if __name__ == "__main__":
    for message in follow(sys.argv[1], *map(int, sys.argv[2:4]), *sys.argv[4:]):
        print(json.dumps({name: message[name] for name in ("seq", "role", "content")}), flush=True)
