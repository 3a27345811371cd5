/** protocol.ts says what the engine's own table says. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { dirname, join } from "node:path";
import { test } from "node:test";
import * as protocol from "../src/protocol.js";
import { engineCommand } from "./engine.js";

// Every constant of the engine's table as JSON; integers as strings, since one of them is 2^63-1.
const SCRIPT = `
import json
from armin_broker import protocol

def plain(value):
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("ascii")
    if isinstance(value, protocol.Fields):
        return {"required": list(value.required), "optional": list(value.optional), "role": value.role}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value)

constants = {name: plain(value) for name, value in vars(protocol).items() if name.isupper()}
constants["ErrorCode"] = {code.name: code.value for code in protocol.ErrorCode}
constants["topics"] = [
    plain(topic(2**62)) for topic in (protocol.created_topic, protocol.message_topic, protocol.closed_topic)
] + [plain(protocol.sync_topic("abc"))]
print(json.dumps(constants))
`;

/** Of the daemon alone: what it offers, how it stores, and where. */
const NOT_FOR_CLIENTS = ["FEATURES", "DURABILITY", "KEYS_DIRECTORY", "BACKUPS_DIRECTORY"];

function engineConstants(): Record<string, unknown> {
  const python = join(dirname(engineCommand()), "python");
  return JSON.parse(execFileSync(python, ["-c", SCRIPT], { encoding: "utf8" })) as Record<string, unknown>;
}

function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, item) => (typeof item === "number" || typeof item === "bigint" ? String(item) : item)),
  );
}

test("every constant is the engine's", () => {
  const { topics, ...theirs } = engineConstants();
  for (const name of NOT_FOR_CLIENTS) {
    delete theirs[name];
  }
  const ours = Object.fromEntries(Object.entries(protocol).filter(([, value]) => typeof value !== "function"));
  assert.deepEqual(plain(ours), theirs);
  const id = 2n ** 62n;
  const made = [
    protocol.createdTopic(id),
    protocol.messageTopic(id),
    protocol.closedTopic(id),
    protocol.syncTopic("abc"),
  ];
  assert.deepEqual(made, topics);
});

test("a token's topic sorts after every other, as libzmq sends subscriptions in that order", () => {
  const others = [protocol.HEARTBEAT_TOPIC, protocol.GOODBYE_TOPIC, ...protocol.FACT_TOPICS];
  assert.ok(others.every((topic) => topic < protocol.syncTopic("0")));
});
