/** Evidence files: one JSON object a line, each handed to the system whole, so that a kill loses none of them. */

import { existsSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";

export type Evidence = Readonly<Record<string, unknown>>;

/** Appends records; `at` is seconds of the system-wide monotonic clock, as the campaign's own processes have it. */
export class EvidenceFile {
  readonly #file: number;

  constructor(path: string) {
    this.#file = openSync(path, "a", 0o600);
  }

  write(what: string, fields: Evidence = {}): void {
    const at = Number(process.hrtime.bigint() / 1000n) / 1e6;
    writeSync(this.#file, `${JSON.stringify({ what, at, ...fields })}\n`);
  }
}

/** Where the process of this role and life writes. */
export function lifeFile(directory: string, role: string, life: number): string {
  return join(directory, `${role}-${life}.jsonl`);
}

/** What the last life of a role that wrote anything wrote; a torn last line was never written. */
export function lastLife(directory: string, role: string): Evidence[] {
  const lives = readdirSync(directory).filter((name) => name.startsWith(`${role}-`) && name.endsWith(".jsonl")).length;
  for (let life = lives; life > 0; life--) {
    const path = lifeFile(directory, role, life);
    const lines = existsSync(path) ? readFileSync(path, "utf8").split("\n").slice(0, -1) : [];
    if (lines.length > 0) {
      return lines.map((line) => JSON.parse(line) as Evidence);
    }
  }
  return [];
}
