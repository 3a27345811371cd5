/** A ROUTER that answers as a client vector says: the n-th command with the n-th answer. */

import { Router } from "zeromq";
import * as wire from "../../src/wire.js";
import { differences } from "./matching.js";
import { build, encode, Scope } from "./values.js";
import type { ClientCase, Json, JsonMap } from "./vectors.js";

export const SILENCE = "silence";
type Frame = Uint8Array | string;

/** Where no engine has named anything. */
export function nothingKnown(): Scope {
  return new Scope({}, "");
}

/** The engine of one client case, at the commands socket of a directory. `got`: the commands that came. */
export class Scripted {
  readonly got: unknown[] = [];
  readonly #socket = new Router({ linger: 0, mandatory: false });
  readonly #answers: readonly Json[];

  private constructor(answers: readonly Json[]) {
    this.#answers = answers;
  }

  static async open(directory: string, { answers }: ClientCase): Promise<Scripted> {
    const scripted = new Scripted(answers);
    await scripted.#socket.bind(`ipc://${directory}/commands.sock`);
    void scripted.#serve();
    return scripted;
  }

  async #serve(): Promise<void> {
    for await (const frames of this.#socket) {
      const [peer, ...rest] = frames as Uint8Array[];
      const envelope = rest.slice(0, -1);
      const answer = this.#answers[this.got.length] ?? SILENCE;
      this.got.push(wire.decode(rest.at(-1) as Uint8Array));
      for (const each of [answer].flat() as Json[]) {
        if (each !== SILENCE) {
          await this.#socket.send([peer as Frame, ...frameOf(each as JsonMap, envelope)]);
        }
      }
    }
  }

  close(): void {
    this.#socket.close();
  }
}

function frameOf(answer: JsonMap, envelope: readonly Frame[]): Frame[] {
  if (typeof answer["raw"] === "string") {
    return [...envelope, Buffer.from(answer["raw"], "hex")];
  }
  if (Array.isArray(answer["envelope"])) {
    const other = answer["envelope"].map((digits) => Buffer.from(String(digits), "hex"));
    return [...other, encode(build(answer["reply"] as Json, nothingKnown()))];
  }
  return [...envelope, encode(build(answer, nothingKnown()))];
}

/** Where the client sent something else than it must have. Into silence it may send the last one again. */
export function sendingErrors({ answers, sent }: ClientCase, got: readonly unknown[]): string[] {
  const judged = answers.at(-1) === SILENCE ? got.slice(0, sent.length) : got;
  return differences(sent, judged, nothingKnown(), "sent");
}
