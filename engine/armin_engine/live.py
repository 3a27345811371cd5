"""The future: committed facts as they come, for subscribers in this process. No history, no replay."""

from __future__ import annotations

import logging
import queue
import weakref
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from armin_engine.facts import Event

logger = logging.getLogger(__name__)

CHANNEL_EVENTS_MAX = 10_000  # events waiting in one subscription before further ones are dropped


class Listener(Protocol):
    """Whatever the hub delivers to. One that raises is dead, and is let go of."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Take the events of one commit, in order, without waiting for anybody."""


class Subscription:
    """A bounded channel of live events; may be read in another thread.

    A subscriber that is too slow loses events, counted in `dropped`; positions are dense, so it can
    see the gap and read the log. Closed by `close()`, by leaving its `with`, or by being forgotten.
    """

    def __init__(self, capacity: int, session_ids: Collection[int] | None) -> None:
        self._channel: queue.SimpleQueue[Event | None] = queue.SimpleQueue()  # None: closed
        self._capacity = capacity
        self._session_ids = None if session_ids is None else frozenset(session_ids)
        self.dropped = 0
        self.closed = False

    def deliver(self, events: Sequence[Event]) -> None:
        """Called by the hub."""
        for event in events:
            if self._session_ids is not None and event.session_id not in self._session_ids:
                continue
            if self._channel.qsize() < self._capacity:
                self._channel.put(event)
            else:
                self.dropped += 1

    def get(self, timeout: float | None = 0) -> Event | None:
        """The next event, waiting at most `timeout` seconds (None: until closed); None if there is none."""
        try:
            return self._channel.get(block=timeout != 0 and not self.closed, timeout=timeout or None)
        except queue.Empty:
            return None

    def __iter__(self) -> Iterator[Event]:
        """The events that have arrived so far."""
        while (event := self.get()) is not None:
            yield event

    def close(self) -> None:
        """Take no more events; whoever waits for one is woken. What has arrived can still be read."""
        self.closed = True
        self._channel.put(None)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class LiveHub:
    """Delivers every committed event to every listener, in commit order."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._subscriptions: list[weakref.ref[Subscription]] = []

    def __len__(self) -> int:
        self._clean()
        return len(self._listeners) + len(self._subscriptions)

    def subscribe(
        self, session_ids: Collection[int] | None = None, *, capacity: int = CHANNEL_EVENTS_MAX
    ) -> Subscription:
        """Follow all sessions, or those given, from now on. The hub does not keep it alive."""
        if capacity < 1:
            raise ValueError("capacity must be at least 1")
        subscription = Subscription(capacity, session_ids)
        self._subscriptions.append(weakref.ref(subscription))
        return subscription

    def attach(self, listener: Listener) -> None:
        """Deliver to `listener` until it raises or is detached."""
        self._listeners.append(listener)

    def detach(self, listener: Listener) -> None:
        """Deliver to `listener` no more; one that is not attached is no error."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def publish(self, events: Sequence[Event]) -> None:
        """Announce the events of one commit. No listener can harm the commit or the others."""
        for listener in tuple(self._listeners):
            try:
                listener.deliver(events)
            except Exception:  # whatever a listener does wrong ends that listener only
                logger.exception("a live listener failed and was detached")
                self.detach(listener)
        if self._subscriptions:
            self._clean()
            for reference in self._subscriptions:
                subscription = reference()
                if subscription is not None:
                    subscription.deliver(events)

    def close(self) -> None:
        """Close every subscription."""
        for reference in self._subscriptions:
            subscription = reference()
            if subscription is not None:
                subscription.close()
        self._subscriptions = []

    def _clean(self) -> None:
        self._subscriptions = [
            reference
            for reference in self._subscriptions
            if (subscription := reference()) is not None and not subscription.closed
        ]
