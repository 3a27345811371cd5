/** The followers: they write down each item as it comes, and resume after the last one written down. */

import { type Client, type FollowState, type Id, NoReply, ShuttingDown } from "../../src/index.js";
import { type Dice, type Fact, factOfEvent, factOfMessage } from "./content.js";
import { type Crew, sleep } from "./crew.js";
import { type Evidence, lastLife } from "./evidence.js";

const LOG = 0; // "session" of those who follow everything
const AGAIN_MS = 100;
const SLOW = 0.02; // of the items are followed by some work
const SLOW_MS = 30;
const POLL_MS = 20;
const NEWEST = 2 ** 53 - 1;

/** There is no engine to begin with: try again. */
function isAway(error: unknown): boolean {
  return error instanceof NoReply || error instanceof ShuttingDown;
}

/** Who follows what in this process, how far each has come, and what is still to be followed. */
class Follows {
  readonly #crew: Crew;
  readonly #dice: Dice;
  readonly #cursors = new Map<string, number>();
  readonly #sessions = new Map<string, Id>(); // what each follows; LOG is everything
  readonly #ended = new Set<string>();
  readonly #orphans: string[]; // begun in an earlier life, to be gone on with

  constructor(crew: Crew) {
    this.#crew = crew;
    this.#dice = crew.dice("slow");
    for (const record of lastLife(crew.settings.evidence, crew.settings.role)) {
      this.#recall(record);
    }
    const unfinished = [...this.#sessions].filter(([name, session]) => session !== LOG && !this.#ended.has(name));
    this.#orphans = unfinished.map(([name]) => name);
    crew.evidence.write("standing", {
      cursors: Object.fromEntries(this.#cursors),
      sessions: Object.fromEntries(this.#sessions),
      ended: [...this.#ended],
    });
  }

  #recall(record: Evidence): void {
    const follower = record["follower"] as string;
    switch (record["what"]) {
      case "standing":
        for (const [name, cursor] of Object.entries(record["cursors"] as Record<string, number>)) {
          this.#cursors.set(name, cursor);
        }
        for (const [name, session] of Object.entries(record["sessions"] as Record<string, number>)) {
          this.#sessions.set(name, session);
        }
        for (const name of record["ended"] as string[]) {
          this.#ended.add(name);
        }
        break;
      case "begin":
        this.#sessions.set(follower, record["session"] as number);
        this.#cursors.set(follower, this.#cursors.get(follower) ?? 0);
        break;
      case "item":
        this.#cursors.set(follower, place(record["fact"] as unknown as Fact));
        break;
      case "ended":
        this.#ended.add(follower);
        break;
    }
  }

  begin(name: string, session: Id): number {
    const after = this.#cursors.get(name) ?? 0;
    this.#sessions.set(name, session);
    this.#cursors.set(name, after);
    this.#crew.evidence.write("begin", { follower: name, session, after });
    return after;
  }

  /** A session to follow next: one that was begun, else the newest that nobody has followed. */
  choose(listed: readonly Id[]): readonly [string, Id] | undefined {
    const orphan = this.#orphans.pop();
    if (orphan !== undefined) {
      return [orphan, this.#sessions.get(orphan) ?? LOG];
    }
    const taken = new Set(this.#sessions.values());
    const newest = listed.filter((id) => !taken.has(id)).at(-1);
    if (newest === undefined) {
      return undefined;
    }
    const name = `guest of session ${newest}`;
    this.#sessions.set(name, newest);
    this.#cursors.set(name, 0);
    return [name, newest];
  }

  /** Something came; gives the milliseconds that working on it takes. */
  item(name: string, fact: Fact): number {
    this.#crew.evidence.write("item", { follower: name, fact });
    this.#cursors.set(name, place(fact));
    return this.#dice.random() < SLOW ? SLOW_MS : 0;
  }

  listener(name: string): (state: FollowState) => void {
    return (state) => this.#crew.evidence.write("state", { follower: name, state });
  }

  ended(name: string): void {
    this.#crew.evidence.write("ended", { follower: name });
    this.#ended.add(name);
  }

  /** Who has not come to the end yet. */
  behind(position: number, tails: Readonly<Record<string, readonly [number, boolean]>>): string[] {
    return [...this.#sessions].filter(([name, session]) => !this.#arrived(name, session, position, tails)).map(first);
  }

  #arrived(
    name: string,
    session: Id,
    position: number,
    tails: Readonly<Record<string, readonly [number, boolean]>>,
  ): boolean {
    const cursor = this.#cursors.get(name) ?? 0;
    if (session === LOG) {
      return cursor >= position;
    }
    const [seq, closed] = tails[String(session)] ?? [0, false];
    return closed ? this.#ended.has(name) : cursor >= seq;
  }
}

function first(pair: readonly [string, Id]): string {
  return pair[0];
}

/** The cursor of whoever was given this: of a log its position, of a session its seq. */
function place(fact: Fact): number {
  return fact[0] === 0 ? fact[4] : fact[0];
}

/** Follow something to its end, whatever happens to the engine. */
async function persist(crew: Crew, name: string, follow: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      return await follow();
    } catch (error) {
      if (!isAway(error)) {
        crew.violation(`follower ${name}: ${error}`);
        return;
      }
    }
    await sleep(AGAIN_MS);
  }
}

async function followLog(follows: Follows, client: Client, name: string): Promise<void> {
  const after = follows.begin(name, LOG);
  for await (const event of client.followAll({ after, onState: follows.listener(name) })) {
    await sleep(follows.item(name, factOfEvent(event)));
  }
}

async function followSession(follows: Follows, client: Client, name: string, session: Id): Promise<void> {
  const after = follows.begin(name, session);
  for await (const message of client.follow(session, { after, onState: follows.listener(name) })) {
    await sleep(follows.item(name, factOfMessage(0, message)));
  }
  follows.ended(name);
}

/** Follow one session after the other, each to its end. */
async function followSessions(crew: Crew, follows: Follows, client: Client): Promise<void> {
  for (;;) {
    let chosen: readonly [string, Id] | undefined;
    await persist(crew, "of sessions", async () => {
      const { sessions } = await client.sessions({ before: NEWEST, limit: 20 });
      chosen = follows.choose(sessions.map((session) => session.id));
    });
    if (chosen === undefined) {
      await sleep(AGAIN_MS);
    } else {
      const [name, session] = chosen;
      await persist(crew, name, () => followSession(follows, client, name, session));
    }
  }
}

/** One who follows everything and two who follow sessions, until all that there is was followed. */
export async function follow(crew: Crew, client: Client): Promise<void> {
  const follows = new Follows(crew);
  const everything = "everything, a guest";
  crew.start(persist(crew, everything, () => followLog(follows, client, everything)));
  crew.start(followSessions(crew, follows, client));
  crew.start(followSessions(crew, follows, client));
  const order = await crew.finish;
  const tails = order["tails"] as Record<string, [number, boolean]>;
  let before = "";
  for (;;) {
    const late = follows.behind(order["position"] as number, tails);
    if (late.length === 0) {
      return;
    }
    if (String(late) !== before) {
      crew.evidence.write("late", { followers: late });
    }
    before = String(late);
    await sleep(POLL_MS);
  }
}
