/** Where the engine is: a data directory on this machine, or a TCP address. */

import { basename, join, resolve } from "node:path";
import { type AccessKey, KEY_VARIABLE, readKey } from "./accessKey.js";
import { ProtocolError, TargetError } from "./errors.js";
import { COMMANDS_SOCKET, IPC_PATH_BYTES_MAX } from "./protocol.js";
import type { Hello, KeyContent } from "./results.js";

export const URL_VARIABLE = "ARMIN_URL";
export const DIR_VARIABLE = "ARMIN_DIR";

const TCP = /^tcp:\/\/(\[[0-9A-Za-z_:.%]+\]|[^[\]:/\s]+):(\d{1,5})\/?$/;

/** What of a `hello` says where the other sockets are. */
type Endpoints = Pick<Hello, "endpoints">;

/** An engine on this machine, through the sockets in its data directory (an absolute path). */
export class DirectoryTarget {
  readonly directory: string;
  /** Whoever may use the directory needs none. */
  readonly key = null;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Endpoint of the commands socket. */
  get commands(): string {
    return this.#socket(COMMANDS_SOCKET);
  }

  /** Endpoint of the live socket. */
  live(hello: Endpoints): string {
    return this.#socket(fileName(hello, "live"));
  }

  /** Endpoint of the effects socket. */
  effects(hello: Endpoints): string {
    return this.#socket(fileName(hello, "effects"));
  }

  #socket(name: string): string {
    const path = join(this.directory, name);
    const size = Buffer.byteLength(path);
    if (size > IPC_PATH_BYTES_MAX) {
      throw new TargetError(
        `the socket path ${path} is ${size} bytes long and the system allows ${IPC_PATH_BYTES_MAX}; ` +
          "use a directory with a shorter path, or TCP",
        { field: "target", limit: IPC_PATH_BYTES_MAX },
      );
    }
    return `ipc://${path}`;
  }
}

/** An engine that listens on TCP. An IPv6 host keeps its brackets. */
export class TcpTarget {
  readonly host: string;
  readonly port: number;
  /** What lets this client in, where the engine asks for one. */
  readonly key: AccessKey | null;

  constructor(host: string, port: number, key: AccessKey | null = null) {
    this.host = host;
    this.port = port;
    this.key = key;
  }

  /** Endpoint of the commands socket. */
  get commands(): string {
    return `tcp://${this.host}:${this.port}`;
  }

  /** Endpoint of the live socket. */
  live(hello: Endpoints): string {
    return `tcp://${this.host}:${port(hello, "live")}`;
  }

  /** Endpoint of the effects socket. */
  effects(hello: Endpoints): string {
    return `tcp://${this.host}:${port(hello, "effects")}`;
  }
}

export type Target = DirectoryTarget | TcpTarget;

/**
 * The engine meant by `target`, or by the environment where it is not given; so, too, `key`, which is for TCP alone.
 *
 * @throws TargetError neither says where the engine is, or it cannot be understood, or the key cannot be used.
 */
export function findTarget(
  target: string | undefined,
  environment: NodeJS.ProcessEnv,
  key?: string | KeyContent,
): Target {
  const place = findPlace(target, environment);
  if (place instanceof TcpTarget) {
    const given = key ?? (environment[KEY_VARIABLE] || undefined);
    return given === undefined ? place : new TcpTarget(place.host, place.port, readKey(given));
  }
  if (key !== undefined) {
    throw new TargetError("a key is for tcp:// alone; in a directory, the permissions of its files decide", {
      field: "key",
    });
  }
  return place;
}

function findPlace(target: string | undefined, environment: NodeJS.ProcessEnv): Target {
  const text = target ?? (environment[URL_VARIABLE] || environment[DIR_VARIABLE]);
  if (target === undefined && !text) {
    throw new TargetError(
      `no engine is named: pass a directory or a tcp:// address, or set ${DIR_VARIABLE} or ${URL_VARIABLE}`,
      { field: "target" },
    );
  }
  if (typeof text !== "string") {
    throw new TargetError(`a target is a string, not a ${typeof text}`, { field: "target" });
  }
  if (text.startsWith("tcp:")) {
    return tcp(text);
  }
  const path = text.startsWith("ipc://") ? text.slice("ipc://".length) : text;
  if (path.includes("://")) {
    throw new TargetError(`${text} is neither a directory nor ipc://DIR nor tcp://HOST:PORT`, { field: "target" });
  }
  return directory(path, text);
}

function directory(path: string, given: string): DirectoryTarget {
  if (path === "" || path.includes("\0")) {
    throw new TargetError(`${JSON.stringify(given)} names no directory`, { field: "target" });
  }
  const target = new DirectoryTarget(resolve(path));
  void target.commands; // refuses a path that is too long for a socket
  return target;
}

function tcp(text: string): TcpTarget {
  const [, host, digits] = TCP.exec(text) ?? [];
  const number = Number(digits);
  if (host === undefined || number < 1 || number > 65535) {
    throw new TargetError(`${text} is no tcp://HOST:PORT with a port from 1 to 65535`, { field: "target" });
  }
  return new TcpTarget(host, number);
}

function fileName(hello: Endpoints, socket: string): string {
  const path = place(hello, "ipc", socket);
  if (typeof path !== "string" || basename(path) === "") {
    throw new ProtocolError(`the engine names no file for its ${socket} socket`);
  }
  return basename(path);
}

function port(hello: Endpoints, socket: string): number {
  const number = place(hello, "tcp", socket);
  if (typeof number !== "number" || !Number.isInteger(number) || number < 1 || number > 65535) {
    throw new ProtocolError(`the engine names no port for its ${socket} socket`);
  }
  return number;
}

function place(hello: Endpoints, transport: string, socket: string): unknown {
  const places = hello.endpoints[transport];
  return typeof places === "object" && places !== null ? (places as Record<string, unknown>)[socket] : undefined;
}
