/** How each socket is set up. */

import { context, Dealer, Pull, Subscriber } from "zeromq";
import type { AccessKey, CurveOptions } from "./accessKey.js";
import { TargetError } from "./errors.js";

const LIVE_BUFFER_MAX = 1000; // events that wait in this process; each is at most 64 KiB and a little
const EFFECTS_BUFFER_MAX = 64; // events taken from the engine in advance; lost if this process dies
const SOCKETS_MAX = 16_384; // some 130 kB
const ZMQ_SNDHWM = 23; // the package has no name for it on a SUB

// A DEALER that is watched takes three of these; libzmq's default is 1,023 for the whole process. Whoever has made a
// socket before has settled it.
context.maxSockets = Math.max(context.maxSockets, SOCKETS_MAX);

/** Closing never waits for an engine that is gone. */
const COMMON = { linger: 0 };

/** A peer that vanished without a word (cable, suspended machine) is noticed and connected to anew. */
const TCP = { heartbeatInterval: 5000, heartbeatTimeout: 15000 }; // milliseconds

/**
 * A DEALER to the commands socket, for one connection. No routing id: a second client of the same name would be deaf.
 *
 * Not `immediate`: with it, libzmq 4.3.5 aborts the process where a connection is cut between the frames of a reply
 * (`!_more`, fq.cpp). So whoever sends watches `events`, sends only while an engine is connected, and takes another
 * DEALER when it no longer is: what still waited in this one would go to the next engine, though it was given up
 * since. `sendTimeout`: what the socket cannot take now is refused now.
 */
export function openCommands(endpoint: string, key: AccessKey | null): Dealer {
  return connected(
    endpoint,
    key,
    (options) => new Dealer({ ...options, sendTimeout: 0, receiveHighWaterMark: 0 }),
    keepEvents,
  );
}

/** A SUB to the live socket, subscribed to nothing yet. */
export function openLive(endpoint: string, key: AccessKey | null): Subscriber {
  return connected(
    endpoint,
    key,
    (options) => {
      // What a slow caller leaves lying is bounded: what the engine then drops is read again.
      const socket = new Subscriber({ ...options, receiveHighWaterMark: LIVE_BUFFER_MAX });
      // A subscription is sent like a message, and beyond the mark it would be lost.
      (socket as unknown as RawOptions).setInt32Option(ZMQ_SNDHWM, 0);
      return socket;
    },
    key === null ? undefined : keepEvents,
  );
}

/** A PULL to the effects socket. */
export function openEffects(endpoint: string, key: AccessKey | null): Pull {
  return connected(
    endpoint,
    key,
    (options) => new Pull({ ...options, receiveHighWaterMark: EFFECTS_BUFFER_MAX }),
    key === null ? undefined : keepEvents,
  );
}

/** They are kept from here on, so that none is missed. */
function keepEvents(socket: Connectable): void {
  void socket.events;
}

interface RawOptions {
  setInt32Option(option: number, value: number): void;
}

interface Connectable {
  readonly events: unknown;
  connect(endpoint: string): void;
  close(): void;
}

type Options = Readonly<typeof COMMON & Partial<typeof TCP> & { ipv6?: boolean } & Partial<CurveOptions>>;

function connected<S extends Connectable>(
  endpoint: string,
  key: AccessKey | null,
  open: (options: Options) => S,
  prepare: (socket: S) => void = () => {},
): S {
  const tcp = endpoint.startsWith("tcp://") ? TCP : {};
  const ipv6 = endpoint.startsWith("tcp://[") ? { ipv6: true } : {};
  const socket = open({ ...COMMON, ...tcp, ...ipv6, ...key?.curve });
  try {
    prepare(socket);
    socket.connect(endpoint);
  } catch (error) {
    socket.close();
    const why = error instanceof Error ? error.message : String(error);
    throw new TargetError(`${endpoint} cannot be connected to: ${why}`, { field: "target" });
  }
  return socket;
}
