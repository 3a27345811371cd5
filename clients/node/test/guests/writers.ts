/** The writers: they create, append and close, write down what they tried and what became of it. */

import {
  type Appended,
  ArminError,
  type Client,
  type Id,
  type Message,
  type NewMessage,
  NoReply,
  SessionClosed,
  ShuttingDown,
  StorageFailed,
} from "../../src/index.js";
import { type Dice, messageDigest, newMessage, newSession } from "./content.js";
import { type Crew, sleep } from "./crew.js";

const OPEN_SESSIONS = 6; // kept open by the writers of one process
const GIVES_UP = 0.1; // of the writes without an answer, that many are not tried again
const BURST_MAX = 40;
const NEWEST = 2 ** 53 - 1; // above every id of a campaign

/** Nobody knows what became of it: try again with the same key. */
export function isUncertain(error: unknown): boolean {
  return error instanceof NoReply || error instanceof StorageFailed || error instanceof ShuttingDown;
}

/** The sessions that the writers of one process share, and what was acknowledged in each. */
class Sessions {
  readonly open: Id[] = [];
  readonly #acknowledged = new Map<Id, number>();

  close(sessionId: Id): void {
    const index = this.open.indexOf(sessionId);
    if (index >= 0) {
      this.open.splice(index, 1);
    }
  }

  acknowledge(sessionId: Id, seq: number): void {
    this.#acknowledged.set(sessionId, Math.max(seq, this.acknowledged(sessionId)));
  }

  acknowledged(sessionId: Id): number {
    return this.#acknowledged.get(sessionId) ?? 0;
  }
}

/** One writer: one thing after the other, until told to finish. */
class Writer {
  #writes = 0;
  readonly #name: string;
  readonly #dice: Dice;
  readonly #crew: Crew;
  readonly #sessions: Sessions;

  constructor(name: string, crew: Crew, sessions: Sessions) {
    this.#name = name;
    this.#dice = crew.dice(name);
    this.#crew = crew;
    this.#sessions = sessions;
  }

  async run(client: Client): Promise<void> {
    while (!this.#crew.finished) {
      await this.#step(client);
      await sleep(-Math.log(1 - this.#dice.random()) * this.#crew.settings.pace * 1000);
    }
  }

  async #step(client: Client): Promise<void> {
    const dice = this.#dice.random();
    const { open } = this.#sessions;
    if (open.length === 0 || (dice < 0.1 && open.length < OPEN_SESSIONS)) {
      return this.#create(client);
    }
    const sessionId = this.#dice.choice(open);
    if (dice < 0.13) {
      await this.#close(client, sessionId);
    } else if (dice < 0.25) {
      await this.#appendMany(client, sessionId);
    } else if (dice < 0.35) {
      await this.#burst(client, sessionId);
    } else {
      await this.#append(client, sessionId);
    }
  }

  #newWrite(): { write: string; key?: string } {
    const number = ++this.#writes;
    const write = `${this.#name}.${number}`;
    return number % 2 === 0 ? { write, key: write } : { write }; // half of the keys are left to the client
  }

  // --- the kinds of writes --------------------------------------------------------------------------

  async #create(client: Client): Promise<void> {
    const { write, key } = this.#newWrite();
    const { digest, ...session } = newSession(this.#dice, write);
    this.#try(write, "create_session", 0, [digest], key);
    const made = await this.#settle(write, key, (key) => client.createSession({ ...session, key }));
    if (made !== undefined) {
      this.#done(write, { id: made.id, created_at: made.createdAt, duplicate: made.duplicate });
      this.#sessions.open.push(made.id);
    }
  }

  async #close(client: Client, sessionId: Id): Promise<void> {
    const { write } = this.#newWrite();
    this.#try(write, "close_session", sessionId, [], undefined);
    this.#sessions.close(sessionId);
    const closed = await this.#settle(write, undefined, () => client.closeSession(sessionId));
    if (closed !== undefined) {
      this.#done(write, { at: closed.at, duplicate: closed.duplicate });
    }
  }

  async #append(client: Client, sessionId: Id): Promise<void> {
    const { write, key } = this.#newWrite();
    const message = this.#prepared(write, key, sessionId);
    const appended = await this.#settle(write, key, (key) => append(client, sessionId, message, key), sessionId);
    if (appended !== undefined) {
      this.#appended(write, sessionId, appended);
      await this.#look(client, sessionId, appended.seq, [message]);
    }
  }

  async #appendMany(client: Client, sessionId: Id): Promise<void> {
    const { write, key } = this.#newWrite();
    const messages = Array.from({ length: this.#dice.integer(1, 20) }, (_, index) =>
      newMessage(this.#dice, `${write}/${index}`),
    );
    this.#try(write, "append_many", sessionId, messages.map(messageDigest), key);
    const send = (key: string | undefined) => client.appendMany(sessionId, messages, { key });
    const many = await this.#settle(write, key, send, sessionId);
    if (many !== undefined) {
      const { firstId, firstSeq, firstAt, count, createdAt, duplicate } = many;
      this.#done(write, { first: [firstId, firstSeq, firstAt], created_at: createdAt, duplicate, count });
      this.#sessions.acknowledge(sessionId, firstSeq + count - 1);
      await this.#look(client, sessionId, firstSeq, messages);
    }
  }

  /** Several appends in flight; the client keeps them in order. */
  async #burst(client: Client, sessionId: Id): Promise<void> {
    const writes = Array.from({ length: this.#dice.integer(2, BURST_MAX) }, () => this.#newWrite());
    const results = writes.map(async ({ write, key }) => {
      const message = this.#prepared(write, key, sessionId);
      try {
        this.#appended(write, sessionId, await append(client, sessionId, message, key));
      } catch (error) {
        this.#failed(write, error);
      }
    });
    await Promise.all(results);
  }

  #prepared(write: string, key: string | undefined, sessionId: Id): NewMessage {
    const message = newMessage(this.#dice, `${write}/0`);
    this.#try(write, "append", sessionId, [messageDigest(message)], key);
    return message;
  }

  // --- what became of them --------------------------------------------------------------------------

  /** Ask, and again while the outcome is unknown; undefined if it was refused or given up. */
  async #settle<T>(
    write: string,
    key: string | undefined,
    ask: (key: string | undefined) => Promise<T>,
    sessionId?: Id,
  ): Promise<T | undefined> {
    for (let used = key; ; ) {
      try {
        return await ask(used);
      } catch (error) {
        if (!(error instanceof ArminError) || !isUncertain(error) || this.#dice.random() < GIVES_UP) {
          this.#failed(write, error, sessionId);
          return undefined;
        }
        used = error.key ?? used;
      }
      await sleep(this.#dice.between(10, 100));
    }
  }

  /** Read one's own write, now and then. */
  async #look(client: Client, sessionId: Id, firstSeq: number, expected: readonly NewMessage[]): Promise<void> {
    if (this.#dice.random() > 0.1) {
      return;
    }
    let messages: readonly Message[];
    try {
      ({ messages } = await client.read(sessionId, { after: firstSeq - 1, limit: expected.length }));
    } catch (error) {
      if (isUncertain(error)) {
        return;
      }
      throw error;
    }
    const same = messages.every((message, index) => {
      const written = expected[index];
      return written !== undefined && messageDigest(message) === messageDigest(written);
    });
    if (!same || messages.length === 0) {
      this.#crew.violation(`${this.#name} does not read its own write at seq ${firstSeq} of session ${sessionId}`);
    }
  }

  #try(write: string, op: string, session: Id, digests: readonly string[], key: string | undefined): void {
    // What is closed has no key, and its number says nothing.
    const own_key = key !== undefined || (op === "close_session" && this.#writes % 2 === 0);
    this.#crew.evidence.write("try", { write, op, session, digests, own_key });
  }

  #done(write: string, outcome: Readonly<Record<string, unknown>>): void {
    this.#crew.evidence.write("done", { write, ...outcome });
  }

  #appended(write: string, sessionId: Id, one: Appended): void {
    const { id, seq, at, createdAt, duplicate } = one;
    this.#done(write, { first: [id, seq, at], created_at: createdAt, duplicate, count: 1 });
    this.#sessions.acknowledge(sessionId, seq);
  }

  #failed(write: string, error: unknown, sessionId?: Id): void {
    if (!(error instanceof ArminError)) {
      throw error;
    }
    if (isUncertain(error)) {
      this.#crew.evidence.write("unknown", { write, why: error.code });
      return;
    }
    this.#crew.evidence.write("refused", { write, code: error.code });
    if (!(error instanceof SessionClosed)) {
      this.#crew.violation(`${write} was refused with ${error.code}: ${error.message}`);
    } else if (sessionId !== undefined) {
      this.#sessions.close(sessionId);
    }
  }
}

function append(client: Client, sessionId: Id, message: NewMessage, key: string | undefined): Promise<Appended> {
  return client.append(sessionId, message.role, message.content, { meta: message.meta, key });
}

/** Pages through sessions while they grow: dense, and nothing that was acknowledged is missing. */
async function read(crew: Crew, client: Client, sessions: Sessions): Promise<void> {
  const dice = crew.dice("reader");
  while (!crew.finished) {
    if (sessions.open.length > 0) {
      const sessionId = dice.choice(sessions.open);
      try {
        await readSession(crew, client, sessions, sessionId, dice);
      } catch (error) {
        if (!isUncertain(error)) {
          crew.violation(`reading session ${sessionId} gave ${error}`);
        }
      }
    }
    await sleep(50);
  }
}

async function readSession(crew: Crew, client: Client, sessions: Sessions, sessionId: Id, dice: Dice): Promise<void> {
  const acknowledged = sessions.acknowledged(sessionId);
  // From somewhere not too far back: the sessions grow for as long as the campaign lasts.
  let cursor = dice.integer(Math.max(0, acknowledged - 500), acknowledged);
  for (let more = true; more; ) {
    const page = await client.read(sessionId, { after: cursor, limit: dice.integer(1, 300) });
    for (const { seq } of page.messages) {
      if (seq !== cursor + 1) {
        crew.violation(`session ${sessionId} jumps from seq ${cursor} to ${seq}`);
      }
      cursor = seq;
    }
    more = page.more;
  }
  crew.evidence.write("read", { session: sessionId, seq: cursor });
  if (cursor < acknowledged) {
    crew.violation(`session ${sessionId} ends at seq ${cursor}; ${acknowledged} was acknowledged`);
  }
}

/** Three writers and a reader on sessions that they share. */
export async function write(crew: Crew, client: Client): Promise<void> {
  const sessions = new Sessions();
  const { life } = crew.settings;
  if (life > 1) {
    await takeOver(client, sessions);
  }
  const writers = ["a", "b", "c"].map((name) => new Writer(`g${life}${name}`, crew, sessions).run(client));
  await Promise.all([...writers, read(crew, client, sessions)]);
}

/** What the writers of an earlier life left open, anybody's; nothing if the engine is away. */
async function takeOver(client: Client, sessions: Sessions): Promise<void> {
  try {
    const page = await client.sessions({ before: NEWEST, limit: 4, closed: false });
    sessions.open.push(...page.sessions.map((session) => session.id));
  } catch (error) {
    if (!isUncertain(error)) {
      throw error;
    }
  }
}
