/** The client: every command as a method, and what goes on as async iterators. */

import { setTimeout as sleep } from "node:timers/promises";
import { onAbort } from "./aborting.js";
import * as calls from "./calls.js";
import { Sockets } from "./channel.js";
import { checkedTypes, epochToKeep, type Feed, LogFeed, logFeed, SessionFeed } from "./feeds.js";
import { type Abortable, GroupCommands } from "./groups.js";
import { parseHead } from "./heads.js";
import { type FollowOptions as Following, follow, type Pending } from "./live.js";
import * as replies from "./replies.js";
import type {
  Appended,
  AppendedMany,
  BackupReport,
  Closed,
  Cursor,
  Event,
  EventPage,
  EventType,
  Health,
  Hello,
  Id,
  KeyContent,
  Message,
  MessagePage,
  NewMessage,
  Refreshed,
  Role,
  Session,
  SessionPage,
  SnapshotPage,
  Tails,
  VerifyReport,
} from "./results.js";
import { Boards } from "./tails.js";
import { findTarget } from "./target.js";

const TIMEOUT_MS = 5000; // that a request waits for its reply
const JOB_POLL_MS = 100; // between two questions after a running comparison or backup

export interface ConnectOptions {
  /** Milliseconds that each request waits for its reply before it rejects with NoReply: 5,000 unless given. */
  readonly timeoutMs?: number | undefined;
  /**
   * For `tcp://` alone: the path of a key file, which its owner alone may read, or what such a file holds. Without it,
   * ARMIN_KEY of the environment names the file.
   */
  readonly key?: string | KeyContent | undefined;
}

export interface CreateSessionOptions extends calls.CreateSessionFields, Abortable {}
export interface AppendOptions extends calls.AppendFields, Abortable {}
export interface AppendManyOptions extends calls.AppendManyFields, Abortable {}
export interface SessionsOptions extends calls.SessionsFields, Abortable {}
export interface ReadOptions extends calls.ReadFields, Abortable {}
export interface PageOptions extends calls.PageFields, Abortable {}
export interface LogOptions extends calls.LogFields, Abortable {}
export interface DeltaOptions extends calls.DeltaFields, Abortable {}

export interface VerifyOptions extends Abortable {
  /** Called now and then, and at the end, with the facts checked and their total. */
  readonly progress?: calls.Progress | undefined;
  /** A `head` of an earlier report: a past that was rewritten or cut off since is a difference. */
  readonly expect?: string | undefined;
}

export interface BackupOptions extends Abortable {
  /** The file's name among the engine's backups; without it, the engine makes one of the time. */
  readonly name?: string | undefined;
}

/** Where to go on: behind this seq or position. */
export interface AfterOptions extends Abortable {
  readonly after?: Cursor | undefined;
  /** As for `follow`. */
  readonly epoch?: string | undefined;
}

export interface FollowOptions extends Following {
  /** The seq of the last message that is not wanted again; 0 unless given. */
  readonly after?: Cursor | undefined;
}

export interface FollowAllOptions extends Following {
  /** The position of the last fact that is not wanted again, 0 unless given; "now" is the present one. */
  readonly after?: Cursor | "now" | undefined;
  /** Only facts of these types; the others are read and passed over. */
  readonly types?: Iterable<EventType> | undefined;
}

export interface EffectsOptions extends Abortable {
  /** The iteration ends when nothing came for so long; without, it waits for ever. */
  readonly timeoutMs?: number | undefined;
}

/**
 * A client of the engine at `target`; nothing is sent yet, so the engine may start later.
 *
 * `target` is a data directory, `ipc://DIR` or `tcp://HOST:PORT`. Without it, ARMIN_URL or ARMIN_DIR of the
 * environment says where the engine is; where both are set, ARMIN_URL. An open client keeps the process alive.
 *
 * @throws TargetError neither `target` nor the environment says where the engine is; or the key cannot be used
 * (`field` `key`).
 * @throws RangeError `timeoutMs` is not more than 0.
 */
export function connect(target?: string, { timeoutMs = TIMEOUT_MS, key }: ConnectOptions = {}): Client {
  if (!(timeoutMs > 0)) {
    throw new RangeError(`timeoutMs must be more than 0, not ${timeoutMs}`);
  }
  return new Client(new Sockets(findTarget(target, process.env, key), timeoutMs));
}

/**
 * One engine, seen from this process; made by `connect`. Requests may overlap; writes of one session are made in
 * the order in which they were asked for.
 *
 * Every method may reject with NoReply, with ClientClosed, and with the ArminError that the engine answers. Each
 * takes a `signal`: aborted, it rejects with the signal's reason; a write that was sent may be made all the same.
 */
export class Client extends GroupCommands {
  readonly #boards = new Boards<Pending>();

  /** Close every socket; requests and iterators under way reject with ClientClosed. Closing twice is fine. */
  async close(): Promise<void> {
    this.sockets.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  // --- the engine ---------------------------------------------------------------------------------

  /** Who the engine is: protocol, version, database, epoch, endpoints, limits. */
  async hello({ signal }: Abortable = {}): Promise<Hello> {
    return this.channel.request(calls.hello(), signal);
  }

  /** The engine's last committed position, which shows that it answers. */
  async ping({ signal }: Abortable = {}): Promise<number> {
    return this.channel.request(calls.ping(), signal);
  }

  /**
   * Have `~sync/TOKEN/` published on the live socket; gives the last committed position.
   *
   * A subscriber that sees it has missed nothing after it. `token` is 1 to 64 of a-z, 0-9.
   */
  async sync(token: string, { signal }: Abortable = {}): Promise<number> {
    return this.channel.request(calls.sync(token), signal);
  }

  /** Counters and gauges of the engine, by the names it has for them. */
  async stats({ signal }: Abortable = {}): Promise<Readonly<Record<string, unknown>>> {
    return this.channel.request(calls.stats(), signal);
  }

  /** Whether the engine can do its work, and if not, why. */
  async health({ signal }: Abortable = {}): Promise<Health> {
    return this.channel.request(calls.health(), signal);
  }

  /** Fold the delta into the next snapshot; the engine also does so by itself. */
  async refreshSnapshot({ signal }: Abortable = {}): Promise<Refreshed> {
    return this.channel.request(calls.refreshSnapshot(), signal);
  }

  /**
   * Have the engine compare its memory with the file, and wait for the result.
   *
   * It may take long on a large file and does not hold up others.
   *
   * @throws BadRequest `expect` is no head.
   */
  async verify({ progress, expect, signal }: VerifyOptions = {}): Promise<VerifyReport> {
    const kept = expect === undefined ? undefined : parseHead(expect);
    return this.#jobDone(
      (job) => calls.verify(job, kept),
      (state) => calls.verifyReport(state, progress, kept),
      signal,
    );
  }

  /**
   * Have the engine make a verified copy of its database in its directory of backups, and wait for it.
   *
   * It holds every write acknowledged before, and does not hold up others. `name` is the file's, 1 to 128 of a-z, A-Z,
   * 0-9, `.`, `_` and `-`, not beginning with a dot; without one it is named by its time and its position. It is not
   * asked for again where no reply came: then it may be there or be under way, as where this is aborted.
   *
   * @throws Conflict there is a backup of this `name`, or another one is under way (`reason` `backup_exists`,
   * `backup_running`).
   * @throws StorageFailed it could not be made; nothing was left behind.
   */
  async backup({ name, signal }: BackupOptions = {}): Promise<BackupReport> {
    return this.#jobDone((job) => calls.backup(job === undefined ? { name } : { job }), calls.backupReport, signal);
  }

  /** Begin a job, and ask how it stands until that is its report. */
  async #jobDone<R>(
    ask: (job: number | undefined) => calls.Call<replies.Fields>,
    reportOf: (state: replies.Fields) => R | null,
    signal: AbortSignal | undefined,
  ): Promise<R> {
    let job: number | undefined;
    for (;;) {
      const state = await this.channel.request(ask(job), signal);
      const report = reportOf(state);
      if (report !== null) {
        return report;
      }
      job = replies.integer(state, "job");
      await pause(JOB_POLL_MS, signal);
    }
  }

  // --- writes -------------------------------------------------------------------------------------

  /**
   * Create a session. If one has this `name`, give that one, unchanged, with `duplicate` true.
   *
   * @throws Conflict `key` stands for another creation (`reason` `key_reused`).
   */
  async createSession(options: CreateSessionOptions = {}): Promise<Session> {
    return this.channel.request(calls.createSession(options), options.signal);
  }

  /**
   * Append one message; when this is fulfilled, it is on disk.
   *
   * `role` is `user`, `assistant`, `system` or `tool`; `content` its text, at most 16 MiB in UTF-8; `meta` a map of
   * JSON values to keep with it, at most 64 KiB; `expectSeq` the seq that the message must get. `key` is the write's
   * idempotency key, at most 256 bytes in UTF-8; without one the client makes a key that grows with time. The same
   * key with the same content again, even after years, gives the first result with `duplicate` true. An unanswered
   * write is sent again with its key until the client's `timeoutMs` is over; the error then has it as `key`.
   *
   * @throws SessionNotFound there is no such session.
   * @throws SessionClosed it takes no more messages.
   * @throws Conflict another seq than `expectSeq` is next, or `key` stands for another write; nothing changed.
   * @throws BadRequest a value of the wrong shape.
   * @throws TooLarge a value over its limit.
   * @throws StorageFailed it could not be committed.
   */
  async append(sessionId: Id, role: Role, content: string, options: AppendOptions = {}): Promise<Appended> {
    return this.channel.request(calls.append(sessionId, role, content, options), options.signal);
  }

  /**
   * Append messages to one session: all or none, consecutive. Errors are those of `append`.
   *
   * Each message is a map `{role, content, meta?}`; at most 10,000 of them and 16 MiB.
   */
  async appendMany(
    sessionId: Id,
    messages: Iterable<NewMessage>,
    options: AppendManyOptions = {},
  ): Promise<AppendedMany> {
    return this.channel.request(calls.appendMany(sessionId, messages, options), options.signal);
  }

  /** Close a session for good. Closing it again changes nothing and says `duplicate`. */
  async closeSession(sessionId: Id, { signal }: Abortable = {}): Promise<Closed> {
    return this.channel.request(calls.closeSession(sessionId), signal);
  }

  // --- reads --------------------------------------------------------------------------------------

  /**
   * The session of this id, or of this name.
   *
   * @throws SessionNotFound there is none.
   */
  async session(which: Id | { readonly name: string }, { signal }: Abortable = {}): Promise<Session> {
    return this.channel.request(calls.session(which), signal);
  }

  /**
   * A page of sessions: those with an id above `after`, or the last ones below `before`.
   *
   * `limit` is 100 unless given; `closed` takes only those that are closed, or only those that are not.
   */
  async sessions(options: SessionsOptions = {}): Promise<SessionPage> {
    return this.channel.request(calls.sessions(options), options.signal);
  }

  /** The last seq of each session and whether it is closed; at most 10,000 at once. */
  async tails(sessionIds: Iterable<Id>, { signal }: Abortable = {}): Promise<Tails> {
    return this.channel.request(calls.tails(sessionIds), signal);
  }

  /**
   * A page of a session: messages with a seq above `after`, or the page that ends below `before`.
   *
   * Always in ascending order. `limit` is 100 unless given; a page is at most 1 MiB but has at least one message.
   * `reason: "heal"` lets the engine count reads that made up for lost live events. `epoch` is as for `follow`.
   *
   * @throws SessionNotFound there is no such session.
   * @throws CursorInvalid the cursor is ahead of the session, or of another `epoch`.
   */
  async read(sessionId: Id, options: ReadOptions = {}): Promise<MessagePage> {
    return this.channel.request(calls.read(sessionId, options), options.signal);
  }

  /** A page of what the last snapshot holds of a session. For everyday use, `read`. */
  async snapshot(sessionId: Id, options: PageOptions = {}): Promise<SnapshotPage> {
    return this.channel.request(calls.snapshot(sessionId, options), options.signal);
  }

  /**
   * A page of what a session gained since the snapshot. For everyday use, `read`.
   *
   * @throws Conflict the snapshot is no longer at `snapshotPosition`.
   */
  async delta(sessionId: Id, options: DeltaOptions = {}): Promise<SnapshotPage> {
    return this.channel.request(calls.delta(sessionId, options), options.signal);
  }

  /**
   * A page of the whole database's facts in commit order, those after position `after`.
   *
   * @throws CursorInvalid `after` is ahead of the log, or of another `epoch`.
   */
  async log(options: LogOptions = {}): Promise<EventPage> {
    return this.channel.request(calls.log(options), options.signal);
  }

  /** Every message of a session with a seq above `after`, read page by page until none is left. */
  messages(sessionId: Id, { after = 0, ...options }: AfterOptions = {}): AsyncGenerator<Message, void, undefined> {
    return this.#pages(() => new SessionFeed(sessionId, after), options);
  }

  /** Every fact after position `after`, read page by page until none is left. */
  events({ after = 0, ...options }: AfterOptions = {}): AsyncGenerator<Event, void, undefined> {
    return this.#pages(() => new LogFeed(after), options);
  }

  async *#pages<T, P>(
    feedOf: () => Feed<T, P>,
    { epoch, signal }: Omit<AfterOptions, "after">,
  ): AsyncGenerator<T, void, undefined> {
    const feed = feedOf();
    let kept = epoch;
    for (let more = true; more; ) {
      const taken = feed.takePage(await this.channel.request(feed.pageCall(undefined, kept), signal));
      more = taken.more;
      if (more && kept === undefined) {
        // A restore before the next page is asked for must not go unnoticed.
        kept = epochToKeep(await this.channel.request(calls.hello(), signal));
      }
      for (const item of taken.items) {
        signal?.throwIfAborted();
        yield item;
      }
    }
  }

  // --- what goes on -------------------------------------------------------------------------------

  /**
   * Every message of a session with a seq above `after`: history first, then live.
   *
   * No gap, no repeat, in order, across restarts of the engine, for whose return it waits. Ends when the session is
   * closed and everything was delivered. To go on later, store the last `seq` with the engine's `epoch` (see `hello`)
   * and give them as `after` and `epoch`: where a backup was restored meanwhile, the same `seq` may stand for another
   * message. Uses a connection of its own, closed when the iteration ends. `onState` is called with each FollowState as it changes,
   * between the messages, first with "catching up"; what it throws ends the iteration.
   *
   * @throws NoReply no engine answers at the start.
   * @throws SessionNotFound there is no such session.
   * @throws CursorInvalid `after` is ahead of the session or of another `epoch`, or the engine came back with another
   * database or a restored one.
   * @throws NotAuthorized the engine does not take this client's key, or no longer.
   */
  follow(sessionId: Id, { after = 0, ...options }: FollowOptions = {}): AsyncGenerator<Message, void, undefined> {
    return this.#follow(() => new SessionFeed(sessionId, after), options);
  }

  /**
   * Every fact of the whole database behind position `after`: the log first, then live; never ends.
   *
   * As `follow` otherwise, with `position` to be stored. A message over 64 KiB comes with `elided` true and without
   * content, in the log too: `read` has it.
   *
   * @throws BadRequest `types` names no types, or one that there is not.
   */
  followAll({ after = 0, types, ...options }: FollowAllOptions = {}): AsyncGenerator<Event, void, undefined> {
    const wanted = checkedTypes(types);
    return this.#follow((hello) => logFeed(after, wanted, hello), options);
  }

  #follow<T>(feedOf: (hello: Hello) => Feed<T>, options: Following): AsyncGenerator<T, void, undefined> {
    return follow({ sockets: this.sockets, channel: this.channel, boards: this.#boards }, feedOf, options);
  }

  /**
   * Committed facts as side effects, shared out among everybody who takes them.
   *
   * At most once: what was handed to a process that dies is gone, and so is what the engine could not keep while
   * nobody took any. A message over 64 KiB comes `elided`.
   */
  async *effects(options: EffectsOptions = {}): AsyncGenerator<Event, void, undefined> {
    const { timeoutMs = Number.POSITIVE_INFINITY, signal } = options;
    const { clock, target } = this.sockets;
    const endpoint = target.effects(await this.hello({ signal }));
    const inlet = this.sockets.effects(endpoint);
    const leave = onAbort(signal, () => inlet.close());
    try {
      for (;;) {
        const frames = await inlet.receive(clock() + timeoutMs, signal);
        if (frames === undefined) {
          return;
        }
        yield replies.decodeEffect(frames);
      }
    } finally {
      leave();
      inlet.close();
    }
  }
}

async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await sleep(milliseconds, undefined, { signal });
  } catch (error) {
    signal?.throwIfAborted(); // with its reason, not with an error about a timer
    throw error;
  }
}
