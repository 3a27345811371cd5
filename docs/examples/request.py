"""Creates a session, appends two messages and reads them back, with REQ sockets.

    python request.py DIR [NAME]

Run it twice: the session has a name and each message a key, so the second run finds them and doubles nothing.
"""

import sys
import time

import msgpack
import zmq


def ask(directory, patience=0.5, **command):
    """Sends a command until a reply comes, for five seconds or so: what writes needs a key or a name."""
    frame = msgpack.packb(command)  # made once: what is sent again is the same, byte for byte
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        # A REQ that lost its reply cannot send again, so each sending has one of its own. Whoever asks much
        # keeps it open, and replaces it only then.
        with zmq.Context.instance().socket(zmq.REQ) as socket:
            socket.linger = 0  # closing does not wait for an engine that is gone
            socket.immediate = True  # nothing is queued while no engine is there
            socket.sndtimeo = socket.rcvtimeo = int(1000 * patience)
            socket.connect(f"ipc://{directory}/commands.sock")
            try:
                socket.send(frame)
                reply = msgpack.unpackb(socket.recv())
            except zmq.Again:  # no engine, or a lost reply
                patience = min(2 * patience, 2)
                continue
        if reply["ok"]:
            return reply
        if not reply["error"]["retry"]:
            raise RuntimeError(reply["error"])
        time.sleep(0.25)  # it shuts down, say: another engine may take it
    raise TimeoutError(f"no engine answers; a write may have been made, its key will tell: {command}")


def main(directory, name="example"):
    """A short conversation."""
    if ask(directory, op="hello")["protocol"] != "armin/1":
        sys.exit("this engine speaks another protocol")
    session = ask(directory, op="create_session", name=name, meta={"owner": "ada"})["session"]
    # A key names one write for ever. These two have names by nature; a write that has none gets a UUIDv7.
    for key, role, content in [("question", "user", "Grüß dich ☕"), ("answer", "assistant", "hi!")]:
        done = ask(directory, op="append", session_id=session["id"], role=role, content=content, key=key)
        print("was there:" if done.get("duplicate") else "appended:", done["seq"])
    after, more = 0, True
    while more:  # a page may be shorter than its limit; `more` alone says whether it is the last
        page = ask(directory, op="read", session_id=session["id"], after=after, limit=1000)
        for message in page["messages"]:
            print(message["seq"], message["role"], message["content"])
            after = message["seq"]
        more = page["more"]


if __name__ == "__main__":
    main(*sys.argv[1:])
