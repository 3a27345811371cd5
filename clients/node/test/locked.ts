/** An engine on TCP that takes holders of keys alone. */

import { execFile } from "node:child_process";
import { copyFile, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { type Client, type ConnectOptions, connect, type KeyContent } from "../src/index.js";
import { Engine, engineCommand, freePort, temporaryDirectory } from "./engine.js";

const run = promisify(execFile);

export type KeyRole = "reader" | "writer" | "worker" | "admin";

/** Make a key in an engine's directory; gives the holder's file, which is `out` if that is given. */
export async function makeKey(directory: string, name: string, role: KeyRole, out?: string): Promise<string> {
  const options = out === undefined ? [] : ["--out", out];
  await run(engineCommand(), ["--dir", directory, "keys", "new", name, "--role", role, ...options]);
  return out ?? join(directory, "keys", `${name}.key`);
}

/** What is in a key file. */
export async function keyContent(path: string): Promise<KeyContent> {
  return JSON.parse(await readFile(path, "utf8")) as KeyContent;
}

export class LockedEngine extends Engine {
  readonly target: string;

  private constructor(directory: string, port: number) {
    super(directory, ["--tcp", `127.0.0.1:${port}`]);
    this.target = `tcp://127.0.0.1:${port}`;
  }

  /** One with these keys, each named as its role. */
  static async open(...roles: KeyRole[]): Promise<LockedEngine> {
    const engine = new LockedEngine(await temporaryDirectory(), await freePort());
    for (const role of roles) {
      await engine.makeKey(role, role);
    }
    return engine.start();
  }

  makeKey(name: string, role: KeyRole): Promise<string> {
    return makeKey(this.directory, name, role);
  }

  keyFile(name: string): string {
    return join(this.directory, "keys", `${name}.key`);
  }

  /** A client with this key; a patient one unless told otherwise. */
  connect(name: string, options: ConnectOptions = {}): Client {
    return connect(this.target, { key: this.keyFile(name), timeoutMs: 60_000, ...options });
  }

  /** Revoke a key; gives what makes the engine know it again. */
  async revoke(name: string): Promise<() => Promise<void>> {
    const known = join(this.directory, "keys", `${name}.json`);
    const kept = join(this.directory, `${name}.kept`);
    await copyFile(known, kept);
    await run(engineCommand(), ["--dir", this.directory, "keys", "revoke", name]);
    return () => rename(kept, known);
  }

  /** Put all keys aside, so that its next start knows of none; gives what puts them back. */
  async hideKeys(): Promise<() => Promise<void>> {
    const [keys, aside] = [join(this.directory, "keys"), join(this.directory, "keys.aside")];
    await rename(keys, aside);
    return () => rename(aside, keys);
  }
}
