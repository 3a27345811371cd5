/** One case, step by step: through the client where it has a method, over a bare connection elsewhere. */

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import type { Engine } from "../engine.js";
import { differences } from "./matching.js";
import { type Fields, Peer } from "./peer.js";
import { setFileSizeMax } from "./power.js";
import type { Said, Speaker } from "./speaker.js";
import { build, integer, Scope } from "./values.js";
import type { EngineCase, Json, Step } from "./vectors.js";

const MAIN = "main"; // the peer of a step that names none
const AGAIN_MS = 10; // between two askings for what must come sooner or later

/** A peer of the case, and the replies that nobody has looked at yet, in the order of their commands. */
interface Seat {
  readonly peer: Peer;
  readonly replies: (() => Promise<Fields>)[];
}

export class Player {
  readonly #engine: Engine;
  readonly #speaker: Speaker;
  readonly #timeoutMs: number;
  readonly #own: Peer;
  readonly #seats = new Map<string, Seat>();
  readonly #groups = new Set<string>();
  #scope = new Scope({}, "");
  #isUp = true;

  constructor(engine: Engine, speaker: Speaker, timeoutMs: number) {
    this.#engine = engine;
    this.#speaker = speaker;
    this.#timeoutMs = timeoutMs;
    this.#own = new Peer(engine.endpoint("commands"), timeoutMs);
  }

  async close(): Promise<void> {
    await this.#own.close();
  }

  /** Play a case; `unique` begins its names. Throws where a step does not come to what it must. */
  async play(item: EngineCase, unique: string): Promise<void> {
    const hello = await this.#own.ask({ op: "hello" });
    this.#scope = new Scope(hello["limits"] as Record<string, number>, unique);
    try {
      for (const [index, step] of item.steps.entries()) {
        const found = await this.#step(step);
        assert.deepEqual(found, [], `${item.id}, step ${index + 1}`);
      }
    } finally {
      await this.#leave();
    }
  }

  async #leave(): Promise<void> {
    for (const { peer } of this.#seats.values()) {
      await peer.close();
    }
    this.#seats.clear();
    for (const group of this.#groups) {
      await this.#own.ask({ op: "drop_group", group });
    }
    this.#groups.clear();
  }

  async #step(step: Step): Promise<string[]> {
    if (step.control !== undefined) {
      await this.#control(step.control);
      return [];
    }
    if (step.close === true) {
      await this.#seats.get(step.peer ?? MAIN)?.peer.close();
      this.#seats.delete(step.peer ?? MAIN);
      return [];
    }
    if (this.#isUp) {
      const { position } = await this.#own.ask({ op: "ping" });
      this.#scope.position = position as number;
    }
    return step.until === undefined ? this.#exchange(step) : this.#askUntil(step);
  }

  async #control(control: NonNullable<Step["control"]>): Promise<void> {
    this.#isUp = control !== "terminate" && control !== "kill";
    switch (control) {
      case "fail_writes":
        return setFileSizeMax(this.#engine, 1);
      case "allow_writes":
        return setFileSizeMax(this.#engine, null);
      case "terminate":
        assert.equal(await this.#engine.stop(), 0);
        return;
      case "kill":
        return this.#engine.kill();
      case "start":
        await this.#engine.start();
        for (const seat of this.#seats.values()) {
          seat.replies.length = 0; // what waited for the engine of before gets no answer
        }
    }
  }

  #seat(name: string): Seat {
    const seat = this.#seats.get(name) ?? {
      peer: new Peer(this.#engine.endpoint("commands"), this.#timeoutMs),
      replies: [],
    };
    this.#seats.set(name, seat);
    return seat;
  }

  async #exchange(step: Step): Promise<string[]> {
    const expected = several(step.expect, this.#scope);
    const sent = step.send === undefined ? [] : [build(step.send, this.#scope)].flat();
    this.#rememberGroups(sent);
    if (sent.length === 1 && expected.length === 1) {
      const said = await this.#askClient(step, sent[0]);
      if (said !== undefined) {
        return this.#judge(expected[0] as Json, said);
      }
    }
    const seat = this.#seat(step.peer ?? MAIN);
    seat.replies.push(...sent.map((command) => seat.peer.send(command)));
    const found: string[] = [];
    for (const [index, each] of expected.entries()) {
      const reply = seat.replies.shift();
      assert.ok(reply, "a reply to a command");
      const fields = await reply();
      found.push(...this.#scope.at(index, () => differences(each, fields, this.#scope, `$[${index}]`)));
    }
    return found;
  }

  async #askUntil({ send, until, peer }: Step): Promise<string[]> {
    const deadline = performance.now() + this.#timeoutMs;
    for (;;) {
      const command = build(send as Json, this.#scope);
      const said = await this.#askClient({ ...(peer === undefined ? {} : { peer }) }, command);
      const reply = said ?? { fields: await this.#seat(peer ?? MAIN).peer.ask(command), hidden: [] };
      const found = this.#judge(until as Json, reply);
      if (found.length === 0 || performance.now() > deadline) {
        return found;
      }
      await sleep(AGAIN_MS);
    }
  }

  #askClient({ peer = MAIN }: Step, command: unknown): Promise<Said | undefined> | undefined {
    const isIdle = peer === MAIN && !this.#seats.get(MAIN)?.replies.length;
    const isMap = typeof command === "object" && command !== null && "op" in command;
    return isIdle && isMap ? this.#speaker.ask(command as Fields) : undefined;
  }

  #judge(expected: Json, { fields, hidden }: Said): string[] {
    const visible = Object.entries(expected as object).filter(([name]) => !hidden.includes(name));
    return differences(Object.fromEntries(visible), fields, this.#scope);
  }

  #rememberGroups(sent: readonly unknown[]): void {
    for (const command of sent as Fields[]) {
      const group = command?.["op"] === "create_group" ? command["group"] : undefined;
      if (typeof group === "string" && group.startsWith(this.#scope.unique)) {
        this.#groups.add(group);
      }
    }
  }
}

/** One reply, several, or the same one so many times. */
function several(value: Json | undefined, scope: Scope): Json[] {
  if (typeof value === "object" && value !== null && !Array.isArray(value) && "$list" in value) {
    return Array.from({ length: integer(value["times"], scope) }, () => value["$list"] as Json);
  }
  return value === undefined ? [] : ([value].flat() as Json[]);
}
