// Follows a session: every message once, in order, until it is closed, whatever the live socket loses.
//
//     node follower.mjs DIR SESSION_ID [AFTER EPOCH]
//
// The states are those of "Following" in docs/protocol.md. A message is a line of JSON; how it goes is told on stderr,
// the epoch first. To go on after a restart, keep the last seq with that epoch, and give both.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Subscriber } from "zeromq";
import { ask } from "./request.mjs";
import { unpack } from "./wire.mjs";

// A cursor means nothing in another database, nor in one that was restored.
function check(view, said) {
  view.database ??= said.database;
  view.epoch ??= said.epoch;
  if (view.database === said.database && view.epoch === said.epoch) return said;
  throw new Error("cursor_invalid: this is another database, or it was restored");
}

// The next live message, or undefined when none has come for `patience` ms: then the socket is empty, too.
async function take(view, patience) {
  view.live.receiveTimeout = Math.max(0, Math.ceil(patience));
  try {
    const [head, frame] = await view.live.receive();
    const topic = head.toString();
    if (frame) return { topic, event: unpack(frame) };
    // The welcome, first of all on every connection: whose facts come behind it.
    check(view, { database: view.database, epoch: topic.slice("welcome/".length) });
    return { topic, event: { type: "welcome" } };
  } catch (error) {
    if (error.code !== "EAGAIN") throw error;
    return undefined;
  }
}

// SYNCING: waits until every subscription is in place; whether that is at the engine that said hello.
async function synced(view, patience) {
  const token = randomUUID().replaceAll("-", "");
  const topic = `~sync/${token}/`;
  view.live.subscribe(topic); // behind all others: when its answer comes, they are in place
  const deadline = performance.now() + patience;
  try {
    while (performance.now() < deadline) {
      await ask(view.directory, { op: "sync", token }); // the first one is usually published too early
      const again = performance.now() + 50;
      for (let left = 50; left > 0; left = again - performance.now()) {
        const came = await take(view, left);
        if (came?.topic === topic) return check(view, came.event).engine === view.engine;
      }
    }
    throw Object.assign(new Error("the live socket cannot be reached"), { code: "timeout" });
  } finally {
    view.live.unsubscribe(topic);
  }
}

// READING: messages from the cursor to the end; returns whether the session is closed.
async function* readOn(view, reason) {
  let page;
  do {
    const place = { session_id: view.session, after: view.cursor, limit: 1000 };
    page = await ask(view.directory, { op: "read", reason, ...place, ...view.whose });
    for (const message of page.messages) {
      view.cursor = message.seq;
      yield message;
    }
  } while (page.more);
  view.checked = page.position; // nothing of this session is missing up to here
  return page.closed;
}

// What a live message calls for: "deliver", "greet", nothing, or to read, for the reason given.
function judge(view, event) {
  switch (event.type) {
    case "message_appended":
      if (event.message.seq <= view.cursor) return "";
      if (event.message.seq > view.cursor + 1) return "heal";
      return event.message.elided ? "elided" : "deliver";
    case "session_closed":
      return "closed";
    case "goodbye":
      return "greet";
    case "heartbeat":
      if (check(view, event).engine !== view.engine) return "greet";
      // Ahead: something was committed in another session, or in this one, and its event was lost or is on its way.
      // A read tells, once a second at most; whoever follows many sessions asks `tails` for all.
      return event.position > view.checked ? "heartbeat" : "";
    default:
      return "";
  }
}

// LIVE: messages as they come; returns what is to be done instead, when they end.
async function* listen(view) {
  for (;;) {
    const came = await take(view, 3000); // only an empty socket is silent: who was busy takes first what waits
    const call = came ? judge(view, came.event) : "greet";
    if (call === "deliver") {
      view.cursor = came.event.message.seq;
      view.checked = came.event.position;
      yield came.event.message;
    } else if (call) {
      return call;
    }
  }
}

// Through all states, as long as one engine lasts; returns whether the session has ended.
async function* attend(view) {
  const hello = check(view, await ask(view.directory, { op: "hello" }));
  if (hello.protocol !== "armin/1") throw new Error("this engine speaks another protocol");
  view.engine = hello.engine;
  // With this a page of a restored database is refused. An older engine does not know the field.
  view.whose = hello.features.includes("epochs") ? { epoch: view.epoch } : {};
  console.warn(`epoch ${view.epoch}`);
  if (view.wasLive && (yield* readOn(view, "heal"))) return true;
  if (!(await synced(view, view.wasLive ? 3000 : 5000))) return false;
  console.warn("in sync");
  for (let call = "sync"; call !== "greet"; call = yield* listen(view)) {
    if (yield* readOn(view, call)) return true;
    view.wasLive = true; // from now on it waits for its engine without end
  }
  return false;
}

async function* follow(directory, session, after, epoch) {
  const live = new Subscriber({ linger: 0 });
  live.setInt32Option(23, 0); // ZMQ_SNDHWM: a subscription is sent like a message, and would be lost over the mark
  live.subscribe(`message/${session}/`, `closed/${session}/`, "heartbeat/", "goodbye/", "welcome/");
  live.connect(`ipc://${directory}/live.sock`); // and again by itself, with all its subscriptions
  const view = { directory, session, cursor: after, epoch, live, wasLive: false };
  for (;;) {
    try {
      if (yield* attend(view)) break;
    } catch (error) {
      if (error.code !== "timeout" || !view.wasLive) throw error;
    }
    console.warn("engine gone");
    await sleep(250);
  }
  live.close();
}

const [directory, session, after = "0", epoch] = process.argv.slice(2);
for await (const { seq, role, content } of follow(directory, BigInt(session), Number(after), epoch)) {
  console.log(JSON.stringify({ seq, role, content }));
}
