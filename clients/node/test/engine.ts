/** Real engines for tests: `armin serve` as a process of its own, on a directory of its own. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Client } from "../src/index.js";

const READY_MS = 90_000; // a start or a stop that takes longer is a failure, however busy the machine is

/** clients/node */
export const PACKAGE = packageDirectory();

/** The checkout that holds the engine, too. */
export const CHECKOUT = join(PACKAGE, "..", "..");

function packageDirectory(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, "package.json"))) {
    assert.notEqual(directory, dirname(directory), "these tests belong to a package");
    directory = dirname(directory);
  }
  return directory;
}

/** The command of the engine: of ARMIN_COMMAND, of the checkout's own environment, or of PATH. */
export function engineCommand(): string {
  const paths = (process.env["PATH"] ?? "").split(delimiter).map((directory) => join(directory, "armin"));
  const candidates = [process.env["ARMIN_COMMAND"], join(CHECKOUT, ".venv", "bin", "armin"), ...paths];
  const command = candidates.find((path) => path !== undefined && path !== "" && isExecutable(path));
  assert.ok(command, "no `armin` command: run `make setup`, or name it in ARMIN_COMMAND");
  return command;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** `armin serve DIRECTORY` as a process. */
export class Engine {
  readonly directory: string;
  readonly options: readonly string[];
  #process: ChildProcess | undefined;
  #log = "";

  constructor(directory: string, options: readonly string[] = []) {
    this.directory = directory;
    this.options = options;
  }

  /** Start it and wait until it says that it serves. */
  async start(): Promise<this> {
    const child = spawn(engineCommand(), ["serve", this.directory, ...this.options], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#process = child;
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#log += text;
    });
    const lines = createInterface({ input: child.stdout });
    const line = await within(READY_MS, Promise.race([once(lines, "line"), once(child, "exit")]), "the engine's start");
    assert.match(String(line[0]), /serving/, this.#log);
    lines.resume(); // a full pipe would hold it up
    return this;
  }

  get pid(): number {
    assert.ok(this.#process?.pid, "it was started");
    return this.#process.pid;
  }

  /** What it has logged. */
  get log(): string {
    return this.#log;
  }

  /** SIGKILL: no goodbye, no clean-up. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** SIGTERM; gives the exit code. */
  async stop(): Promise<number | null> {
    return this.#end("SIGTERM");
  }

  /** SIGSTOP: it is there, and silent, until `resume`. */
  pause(): void {
    process.kill(this.pid, "SIGSTOP");
  }

  resume(): void {
    process.kill(this.pid, "SIGCONT");
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    const child = this.#process;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const exit = once(child, "exit");
      child.kill(signal);
      await within(READY_MS, exit, "the engine's end");
    }
    return child?.exitCode ?? null;
  }

  /** The ipc endpoint of `commands`, `live` or `effects`. */
  endpoint(socket: "commands" | "live" | "effects"): string {
    return `ipc://${this.directory}/${socket}.sock`;
  }

  /** Kill it and remove all that it has written. */
  async remove(): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}

/** A directory whose path is short enough for sockets. */
export function temporaryDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), "armin-"));
}

/** A running engine on a new directory; `remove` it. */
export async function startEngine(...options: string[]): Promise<Engine> {
  return new Engine(await temporaryDirectory(), options).start();
}

/** What a promise comes to, unless it takes too long. */
export async function within<T>(milliseconds: number, promise: Promise<T>, what = "this"): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${milliseconds} ms`)), milliseconds);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Look at a condition until it holds; fail after a deadline. */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  what = String(condition),
  milliseconds = READY_MS,
): Promise<void> {
  const deadline = performance.now() + milliseconds;
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, `not within ${milliseconds} ms: ${what}`);
    await sleep(10);
  }
}

/** Wait until an engine answers a client, which may be a hasty one. */
export async function waitUntilAnswered(client: Client): Promise<void> {
  const answered = (): Promise<boolean> =>
    client.ping().then(
      () => true,
      () => false,
    );
  await waitUntil(answered, "the engine answers");
}

/** A port at which nobody listens, with two behind it. */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000); // below those that connections are made from
    const free = await Promise.all([port, port + 1, port + 2].map(isFree));
    if (free.every(Boolean)) {
      return port;
    }
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen(port, "127.0.0.1");
    await once(server, "listening");
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}
