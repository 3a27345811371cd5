/**
 * What the Python tests have this client do: `node exchange.js DIR write` or `read SESSION_ID`, JSON in and out.
 *
 * Integers that a JSON reader would round go as {"int64": "..."}, in both directions.
 */

import { text } from "node:stream/consumers";
import { ArminError, type Client, connect, type Id, type Message, type NewMessage } from "../../src/index.js";

interface Order {
  readonly name: string;
  readonly meta: Readonly<Record<string, unknown>>;
  readonly messages: readonly NewMessage[];
}

function spoken(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? { int64: String(value) } : value;
}

function understood(_key: string, value: unknown): unknown {
  const wide = typeof value === "object" && value !== null ? (value as { int64?: unknown }).int64 : undefined;
  return typeof wide === "string" ? BigInt(wide) : value;
}

/** Write a session: every message by itself, or why it was refused; then those that went well once more, as one. */
async function write(client: Client): Promise<unknown> {
  const order = JSON.parse(await text(process.stdin), understood) as Order;
  const session = await client.createSession({ name: order.name, meta: order.meta });
  const outcomes: unknown[] = [];
  const fine: NewMessage[] = [];
  for (const message of order.messages) {
    try {
      outcomes.push(await client.append(session.id, message.role, message.content, { meta: message.meta }));
      fine.push(message);
    } catch (error) {
      if (!(error instanceof ArminError)) {
        throw error;
      }
      outcomes.push({ code: error.code, field: error.field, limit: error.limit });
    }
  }
  for (const message of fine) {
    await client.appendMany(session.id, [message]);
  }
  await client.closeSession(session.id);
  return { session: await client.session(session.id), outcomes };
}

/** The messages of a closed session as every way of reading gives them. */
async function read(client: Client, sessionId: Id): Promise<unknown> {
  const found: Record<string, Message[]> = { read: [], followed: [], logged: [] };
  for await (const message of client.messages(sessionId)) {
    found["read"]?.push(message);
  }
  for await (const message of client.follow(sessionId)) {
    found["followed"]?.push(message);
  }
  for await (const { message } of client.events()) {
    if (message !== null && message.sessionId === sessionId) {
      found["logged"]?.push(message);
    }
  }
  return { session: await client.session(sessionId), ...found };
}

const [directory, what, number] = process.argv.slice(2);
const client = connect(directory);
const sessionId = BigInt(number ?? 0);
const id = Number.isSafeInteger(Number(sessionId)) ? Number(sessionId) : sessionId;
const result = what === "write" ? await write(client) : await read(client, id);
await client.close();
process.stdout.write(JSON.stringify(result, spoken));
