// Creates a session, appends two messages and reads them back, with REQ sockets.
//
//     node request.mjs DIR [NAME]
//
// Run it twice: the session has a name and each message a key, so the second run finds them and doubles nothing.

import { realpathSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Request } from "zeromq";
import { pack, unpack } from "./wire.mjs";

/** Sends a command until a reply comes, for five seconds or so: what writes needs a key or a name. */
export async function ask(directory, command, firstPatience = 500) {
  const frame = pack(command); // made once: what is sent again is the same, byte for byte
  const deadline = performance.now() + 5000;
  for (let patience = firstPatience; performance.now() < deadline; patience = Math.min(2 * patience, 2000)) {
    const reply = await sendOnce(directory, frame, patience);
    if (reply?.ok) return reply;
    if (reply && !reply.error.retry) throw Object.assign(new Error(reply.error.message), reply.error);
    if (reply) await sleep(250); // it shuts down, say: another engine may take it
  }
  const told = "no engine answers; a write may have been made, its key will tell";
  throw Object.assign(new Error(told), { code: "timeout", command });
}

// A REQ that lost its reply cannot send again, so each sending has one of its own. Whoever asks much keeps it open,
// and replaces it only then.
async function sendOnce(directory, frame, patience) {
  const socket = new Request({
    linger: 0, // closing does not wait for an engine that is gone
    immediate: true, // nothing is queued while no engine is there
    sendTimeout: patience,
    receiveTimeout: patience,
  });
  try {
    socket.connect(`ipc://${directory}/commands.sock`);
    await socket.send(frame);
    const [reply] = await socket.receive();
    return unpack(reply);
  } catch (error) {
    if (error.code !== "EAGAIN") throw error;
    return undefined; // no engine, or a lost reply
  } finally {
    socket.close();
  }
}

async function main(directory, name = "example") {
  const hello = await ask(directory, { op: "hello" });
  if (hello.protocol !== "armin/1") throw new Error("this engine speaks another protocol");
  const { session } = await ask(directory, { op: "create_session", name, meta: { owner: "ada" } });
  // A key names one write for ever. These two have names by nature; a write that has none gets a UUIDv7.
  const messages = [
    { key: "question", role: "user", content: "Grüß dich ☕" },
    { key: "answer", role: "assistant", content: "hi!" },
  ];
  for (const message of messages) {
    const done = await ask(directory, { op: "append", session_id: session.id, ...message });
    console.log(done.duplicate ? "was there:" : "appended:", done.seq);
  }
  let page = { more: true };
  for (let after = 0; page.more; ) {
    // A page may be shorter than its limit; `more` alone says whether it is the last.
    page = await ask(directory, { op: "read", session_id: session.id, after, limit: 1000 });
    for (const message of page.messages) {
      console.log(message.seq, message.role, message.content);
      after = message.seq;
    }
  }
}

if (realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main(...process.argv.slice(2));
