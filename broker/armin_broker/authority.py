"""Who may come in by tcp, and as whom: CURVE on the tcp endpoints, with the keys of a keyring.

libzmq asks at each handshake, and only then: whoever loses a key has to be disconnected, and what a sender
may do is looked up for each of its messages.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import zmq
from zmq.auth.thread import ThreadAuthenticator

from armin_broker import protocol
from armin_broker.keyring import Keyring, KeysInvalid
from armin_broker.sender import UNKNOWN, Sender

logger = logging.getLogger(__name__)

# ZAP's domains are our sockets. Effects are work: whoever pulls one takes it from everybody else.
DOMAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "commands": protocol.KEY_ROLES,
    "live": protocol.KEY_ROLES,
    "effects": (protocol.WORKER, protocol.ADMIN),
}
UNREADABLE_LOGGED_S: Final = 10.0  # between two lines about keys that cannot be read
FRAME_OVERHEAD_BYTES: Final = 64  # CURVE's own, at most, in a frame


class Authority:
    """The keys in force. Raises KeysInvalid where they cannot be used."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keyring: Keyring) -> None:
        self._keyring = keyring
        self._pair = keyring.server()
        try:
            self._signature = keyring.signature()
            keys, problems = keyring.clients()
        except OSError as error:
            raise KeysInvalid(f"the keys cannot be read: {error}") from None
        if problems:
            raise KeysInvalid("; ".join(problems))
        self._lost = 0
        self._next_line = 0.0
        self._reading = threading.Lock()
        # Replaced as a whole: the authenticator's thread and the loop look things up in it.
        self._senders = {key.public: key.sender for key in keys}
        self._authenticator: Any = ThreadAuthenticator(context, log=logging.getLogger(f"{__name__}.zap"))

    def start(self) -> None:
        """Answer libzmq's questions from now on; to be called before anything is bound."""
        self._authenticator.start()
        for domain in DOMAINS:
            # By its name: pyzmq's "*" stands for a socket without a domain alone.
            self._authenticator.configure_curve_callback(domain, self)

    def stop(self) -> None:
        """Let nobody in any more; to be called before the context ends."""
        if self._authenticator.pipe is not None and not self._authenticator.is_alive():
            # Its thread is dead, so nobody would take what `stop` sends, and it would wait for ever.
            self._authenticator.pipe.close(0)
            self._authenticator.pipe = None
        self._authenticator.stop()

    def guard(self, socket: zmq.Socket[bytes], domain: str) -> None:
        """Demand a key on whatever `socket` is bound to from now on."""
        socket.curve_server = True
        socket.curve_secretkey = self._pair.secret
        socket.zap_domain = domain.encode()
        # Without this, whoever knows the server's public key comes in while nobody answers libzmq.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.maxmsgsize = int(socket.maxmsgsize) + FRAME_OVERHEAD_BYTES

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a key, in Z85, may connect to a domain; called in the authenticator's thread."""
        text = key.decode()
        try:
            if self.sender(text) is UNKNOWN:
                self.refresh()  # it may be a moment old; libzmq's client would not come again
        except Exception:  # it would end the thread, and nobody could come in any more
            logger.exception("reading the keys failed; going by those that are known")
        return self.sender(text).role in DOMAINS[domain]

    def sender(self, key: str) -> Sender:
        """Who holds a public key now."""
        return self._senders.get(key, UNKNOWN)

    def refresh(self) -> None:
        """Read the files again if they have changed.

        One that cannot be used takes its key out of force, and nobody else's. While none can be read at all,
        those that are known stay in force.
        """
        with self._reading:
            try:
                signature = self._keyring.signature()
                if signature == self._signature:
                    return
                keys, problems = self._keyring.clients()
            except OSError as error:
                self._tell_unreadable(error)
                return
            self._signature = signature
            for problem in problems:
                logger.error("a key is out of force: %s", problem)
            before, self._senders = self._senders, {key.public: key.sender for key in keys}
            lost = [sender for key, sender in before.items() if self._senders.get(key) != sender]
            self._lost += len(lost)
            logger.info("keys read again: %d in force, %d revoked or changed", len(keys), len(lost))

    def _tell_unreadable(self, error: OSError) -> None:
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + UNREADABLE_LOGGED_S
            logger.error("the keys cannot be read again, those that are known stay in force: %s", error)

    def take_lost(self) -> int:
        """How many have lost a right since this was last asked: if any, connections must be cut."""
        with self._reading:
            lost, self._lost = self._lost, 0
            return lost
