/** The vectors of tests/conformance through this client: it says to each what the engine says. */

import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import { type Client, connect } from "../src/index.js";
import { OPS } from "../src/protocol.js";
import { differences } from "./conformance/matching.js";
import { Player } from "./conformance/player.js";
import { nothingKnown, Scripted, SILENCE, sendingErrors } from "./conformance/scripted.js";
import { Speaker, UNSPOKEN } from "./conformance/speaker.js";
import { build } from "./conformance/values.js";
import { type EngineCase, type Json, load } from "./conformance/vectors.js";
import { type Engine, startEngine, temporaryDirectory } from "./engine.js";

const ANSWERED_MS = 20_000; // for what is answered in the end
const SILENT_MS = 3_000; // for what is not: long enough to be sent again once

const { engine: engineCases, client: clientCases } = load();

// Of frames, and of what costs much, the client knows nothing more.
const SPOKEN_LIMITS = [
  "meta_bytes",
  "meta_depth",
  "name_bytes",
  "key_bytes",
  "event_bytes",
  "tails",
  "attempts",
  "nack_reason_bytes",
  "lease_bytes",
];

function isSpoken({ file, id }: EngineCase): boolean {
  return file === "limits" ? SPOKEN_LIMITS.some((name) => id === `limits/${name}`) : file !== "envelope";
}

describe("the client says what the engine says", () => {
  let engine: Engine;
  let client: Client;
  let speaker: Speaker;
  let player: Player;

  before(async () => {
    engine = await startEngine();
    client = connect(engine.directory, { timeoutMs: ANSWERED_MS });
    speaker = new Speaker(client);
    player = new Player(engine, speaker, ANSWERED_MS);
  });

  after(async () => {
    await player.close();
    await client.close();
    await engine.remove();
  });

  for (const [number, item] of engineCases.filter(isSpoken).entries()) {
    test(item.id, async () => {
      await player.play(item, `node${number}x`);
    });
  }

  test("and every op went through it", () => {
    const ops = Object.keys(OPS).filter((op) => !UNSPOKEN.has(op));
    assert.deepEqual([...speaker.spoken].sort(), ops.sort());
  });
});

describe("what the client makes of what it gets", () => {
  for (const item of clientCases) {
    test(item.id, async () => {
      const directory = await temporaryDirectory();
      const scripted = await Scripted.open(directory, item);
      const client = connect(directory, { timeoutMs: item.answers.at(-1) === SILENCE ? SILENT_MS : ANSWERED_MS });
      try {
        const said = await new Speaker(client).ask(build(item.call, nothingKnown()) as Record<string, unknown>);
        assert.ok(said, "the client has a method for it");
        const { ok, error } = item.result;
        const got = ok === undefined ? said.fields["error"] : said.fields;
        assert.deepEqual(differences((ok ?? error) as Json, got, nothingKnown()), []);
        assert.equal(said.fields["ok"], ok !== undefined);
        assert.deepEqual(sendingErrors(item, scripted.got), []);
      } finally {
        await client.close();
        scripted.close();
        await rm(directory, { recursive: true, force: true });
      }
    });
  }
});
