"""Takes committed facts from the effects socket, with a PULL socket.

    python puller.py DIR [COUNT]

Each fact goes to one of the pullers that are connected, at most once: what a puller has received, or still in
its buffer, is lost when it dies. What must not be lost is leased: worker.py.
"""

import sys

import msgpack
import zmq


def main(directory, count=None):
    """Prints facts as they come, COUNT of them or without end."""
    effects = zmq.Context.instance().socket(zmq.PULL)
    effects.linger = 0
    effects.rcvhwm = 64  # what waits here goes to nobody else
    effects.connect(f"ipc://{directory}/effects.sock")  # and again by itself, whenever an engine starts
    taken = 0
    while count is None or taken < int(count):
        event = msgpack.unpackb(effects.recv())
        taken += 1
        print(event["position"], event["type"], event["session_id"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
