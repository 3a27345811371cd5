"""A key that shows an engine who we are, and the engine's own that shows us that it is the right one."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import zmq
from zmq.utils import z85

from armin.errors import TargetError
from armin_broker.protocol import KEY_CHARACTERS, KEY_FILE_BYTES_MAX, KEY_FORMAT

KEY_VARIABLE: Final = "ARMIN_KEY"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What `armin keys new` wrote: a client's key pair, and the public key of the engine, in Z85."""

    name: str
    role: str
    public: bytes
    secret: bytes = field(repr=False)
    server: bytes

    def options(self) -> Mapping[int, bytes]:
        """Options of a socket that is to connect with this key."""
        return {
            zmq.CURVE_SERVERKEY: self.server,
            zmq.CURVE_PUBLICKEY: self.public,
            zmq.CURVE_SECRETKEY: self.secret,
        }


def load(path: str | os.PathLike[str]) -> Credentials:
    """The credentials in a key file.

    Raises:
        TargetError: it cannot be read, or used, or others can read it; `field` is `key`.
    """
    shown = os.fspath(path)
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(KEY_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _unusable(f"the key file {shown} cannot be read: {reason}") from None
    if mode & 0o077:
        raise _unusable(
            f"the key file {shown} is open to others (mode {mode:04o}); make it private: chmod go= {shown}"
        )
    fields = _fields(shown, text)
    name, role = fields.get("name"), fields.get("role")
    return Credentials(
        name if isinstance(name, str) else "",
        role if isinstance(role, str) else "",
        *(_key(shown, fields, each) for each in ("public", "secret", "server")),
    )


def _fields(shown: str, text: bytes) -> Mapping[str, Any]:
    try:
        if len(text) > KEY_FILE_BYTES_MAX:
            raise ValueError("it is too large")
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise _unusable(f"{shown} is no key file of Armin") from None  # quoting it might show a secret
    if not isinstance(fields, dict) or fields.get("armin_key") != KEY_FORMAT:
        raise _unusable(f"{shown} is no key file of Armin, or of a later one")
    return fields


def _key(shown: str, fields: Mapping[str, Any], name: str) -> bytes:
    text = fields.get(name)
    if isinstance(text, str) and len(text) == KEY_CHARACTERS and text.isascii():
        with suppress(KeyError, ValueError, struct.error):
            z85.decode(text)
            return text.encode()
    raise _unusable(f"the key file {shown} has no key of {KEY_CHARACTERS} characters in its field {name}")


def _unusable(message: str) -> TargetError:
    return TargetError(message, field="key")
