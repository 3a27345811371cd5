/**
 * The wire, version `armin/1`: names and limits as pure data.
 *
 * The same as the engine's own table, which a test compares with this one.
 */

export const PROTOCOL = "armin/1";

export const ROLES = ["user", "assistant", "system", "tool"] as const;

// What a key's holder may do; each may do what those before it may. Peers on ipc may do everything.
export const READER = "reader";
export const WRITER = "writer";
export const WORKER = "worker";
export const ADMIN = "admin";
export const KEY_ROLES = [READER, WRITER, WORKER, ADMIN] as const;

// Socket names: the files under an engine's directory, and the offset from the TCP port.
export const COMMANDS_SOCKET = "commands.sock";
export const LIVE_SOCKET = "live.sock";
export const EFFECTS_SOCKET = "effects.sock";
export const LIVE_PORT_OFFSET = 1;
export const EFFECTS_PORT_OFFSET = 2;
export const IPC_PATH_BYTES_MAX = 107; // sun_path of a Unix socket, less its final NUL

export const DATABASE_FILE = "armin.db";
export const KEY_FORMAT = 1; // of the files of keys, in their field `armin_key`
export const KEY_FILE_BYTES_MAX = 4096; // none of them is larger
export const KEY_CHARACTERS = 40; // a Curve25519 key in Z85
export const LOCK_SUFFIX = ".lock"; // DATABASE_FILE + this: first line the owner's pid, second its state

export const HEARTBEAT_MS = 1000; // between two heartbeats on the live socket
export const HEARTBEAT_LOST_MS = 3000; // this long without one: the engine is gone or unreachable
export const SYNC_RESEND_MS = 50; // a follower repeats `sync` this often until it comes back live

// Limits. `hello` gives them under the names of LIMITS.
export const CONTENT_BYTES_MAX = 16 << 20; // one message's content, UTF-8
export const META_BYTES_MAX = 64 << 10; // one meta, as JSON text in UTF-8
export const META_DEPTH_MAX = 16; // nested maps and arrays, the meta itself being the first
export const KEY_BYTES_MAX = 256; // one idempotency key, UTF-8
export const NAME_BYTES_MAX = 512; // one session name, UTF-8
export const BATCH_MESSAGES_MAX = 10_000; // messages in one append_many
export const BATCH_BYTES_MAX = 16 << 20; // content and meta of one append_many
export const PIPELINE_COMMANDS_MAX = 1024; // commands in one pipeline
export const PAGE_BYTES_MAX = 1 << 20; // one reply page, but at least one item
export const PAGE_ITEMS_MAX = 10_000; // `limit` is clamped to this
export const PAGE_ITEMS_DEFAULT = 100;
export const TAILS_MAX = 10_000; // sessions asked for in one `tails`
export const ENVELOPE_FRAMES_MAX = 4;
export const ENVELOPE_FRAME_BYTES_MAX = 256;
export const COMMAND_BYTES_MAX = CONTENT_BYTES_MAX + (1 << 20); // one frame; larger ones close the connection
export const COMMAND_NODES_MAX = 1 << 18; // values in one decoded command: keys, items, maps and arrays
export const EVENT_BYTES_MAX = 64 << 10; // content and packed meta in an event; beyond, the message is elided
export const SYNC_TOKEN_MAX = 64;
export const WAITING_BYTES_MAX = 32 << 20; // replies that one peer does not take, 400 bytes for each included
export const GROUP_NAME_BYTES_MAX = 128; // one worker group's name, UTF-8
export const GROUPS_MAX = 256; // worker groups
export const LEASES_MAX = 1000; // leases in one reply, and in one ack, nack or extend; `max` is clamped to this
export const LEASE_BYTES_MAX = 64; // one lease as a string
export const TAKEN_MAX = 10_000; // effects of one group that wait or are leased; then its cursor rests
export const POLLS_MAX = 1024; // leases waited for at a time, over all groups
export const WAIT_MS_MAX = 60_000; // how long a `lease` may wait
export const LEASE_MS_MIN = 10;
export const LEASE_MS_MAX = 86_400_000; // one day; a `delay_ms` or `backoff_ms` is no longer either
export const ATTEMPTS_MAX = 1000; // `max_attempts` of a group
export const REQUEST_BYTES_MAX = 64; // the `request` token of a `lease`
export const NACK_REASON_BYTES_MAX = 1024; // the `reason` of a `nack`
export const BACKUP_NAME_BYTES_MAX = 128; // the file name of a backup
export const EFFECTS_BACKLOG_MAX = 10_000; // effects kept while nobody pulls; what goes over it is dropped
export const EFFECTS_BACKLOG_BYTES_MAX = 64 << 20;
export const LIVE_BACKLOG_MAX = 4096; // events that one subscriber does not take; what goes over it is dropped
export const SUBSCRIPTION_BYTES_MAX = 512; // one frame to the live socket; a larger one closes the connection
export const CONNECTIONS_MAX = 4096; // connections by ipc, and as many by tcp, over all sockets
export const ID_MAX = (1n << 63n) - 1n;

export const LIMITS = {
  content_bytes: CONTENT_BYTES_MAX,
  meta_bytes: META_BYTES_MAX,
  meta_depth: META_DEPTH_MAX,
  name_bytes: NAME_BYTES_MAX,
  key_bytes: KEY_BYTES_MAX,
  batch_messages: BATCH_MESSAGES_MAX,
  batch_bytes: BATCH_BYTES_MAX,
  pipeline_commands: PIPELINE_COMMANDS_MAX,
  page_bytes: PAGE_BYTES_MAX,
  page_items: PAGE_ITEMS_MAX,
  tails: TAILS_MAX,
  envelope_frames: ENVELOPE_FRAMES_MAX,
  envelope_frame_bytes: ENVELOPE_FRAME_BYTES_MAX,
  command_bytes: COMMAND_BYTES_MAX,
  command_nodes: COMMAND_NODES_MAX,
  event_bytes: EVENT_BYTES_MAX,
  sync_token: SYNC_TOKEN_MAX,
  waiting_bytes: WAITING_BYTES_MAX,
  group_name_bytes: GROUP_NAME_BYTES_MAX,
  groups: GROUPS_MAX,
  leases: LEASES_MAX,
  taken: TAKEN_MAX,
  polls: POLLS_MAX,
  wait_ms: WAIT_MS_MAX,
  lease_ms: LEASE_MS_MAX,
  lease_bytes: LEASE_BYTES_MAX,
  attempts: ATTEMPTS_MAX,
  request_bytes: REQUEST_BYTES_MAX,
  nack_reason_bytes: NACK_REASON_BYTES_MAX,
  backup_name_bytes: BACKUP_NAME_BYTES_MAX,
  effects_backlog: EFFECTS_BACKLOG_MAX,
  effects_backlog_bytes: EFFECTS_BACKLOG_BYTES_MAX,
  live_backlog: LIVE_BACKLOG_MAX,
  subscription_bytes: SUBSCRIPTION_BYTES_MAX,
  connections: CONNECTIONS_MAX,
} as const;

/** `error.code` of a failed reply. */
export const ErrorCode = {
  BAD_REQUEST: "bad_request",
  UNKNOWN_OP: "unknown_op",
  SESSION_NOT_FOUND: "session_not_found",
  SESSION_CLOSED: "session_closed",
  CONFLICT: "conflict",
  TOO_LARGE: "too_large",
  CURSOR_INVALID: "cursor_invalid",
  STORAGE_FAILED: "storage_failed",
  SHUTTING_DOWN: "shutting_down",
  NOT_AUTHORIZED: "not_authorized",
  GROUP_NOT_FOUND: "group_not_found",
  LEASE_LOST: "lease_lost",
  INTERNAL: "internal",
} as const;

type Names = readonly string[];

const op = (required: Names = [], optional: Names = [], role: (typeof KEY_ROLES)[number] = READER) => ({
  required,
  optional,
  role,
});

/** What a command may carry besides `op`, and the least role that may give it. */
export const OPS = {
  hello: op(),
  ping: op(),
  create_session: op([], ["name", "meta", "key"], WRITER),
  append: op(["session_id", "role", "content"], ["meta", "key", "after_key", "expect_seq"], WRITER),
  append_many: op(["session_id", "messages"], ["key", "after_key", "expect_seq"], WRITER),
  close_session: op(["session_id"], [], WRITER),
  pipeline: op(["commands"], [], WRITER),
  session: op([], ["session_id", "name"]),
  sessions: op([], ["after", "before", "limit", "closed"]),
  tails: op(["session_ids"]),
  read: op(["session_id"], ["after", "before", "limit", "reason", "epoch"]),
  snapshot: op(["session_id"], ["after", "limit"]),
  delta: op(["session_id"], ["after", "limit", "snapshot_position"]),
  refresh_snapshot: op([], [], ADMIN),
  log: op([], ["after", "limit", "epoch"]),
  sync: op(["token"]),
  stats: op(),
  health: op(),
  verify: op([], ["job", "at"], ADMIN),
  backup: op([], ["name", "job"], ADMIN),
  create_group: op(["group", "start"], ["types", "ordered", "max_attempts", "backoff_ms", "on_dead"], WORKER),
  lease: op(["group"], ["max", "lease_ms", "wait_ms", "request"], WORKER),
  ack: op(["group", "leases"], [], WORKER),
  nack: op(["group", "leases"], ["reason", "delay_ms"], WORKER),
  extend: op(["group", "leases"], ["lease_ms"], WORKER),
  groups: op([], ["group"]),
  dead_letters: op(["group"], ["after", "limit"]),
  requeue: op(["group"], ["positions"], ADMIN),
  discard: op(["group"], ["positions"], ADMIN),
  drop_group: op(["group"], [], ADMIN),
} as const;

export type Op = keyof typeof OPS;

// Defaults of the worker groups' fields, times in milliseconds.
export const GROUP_DEFAULTS = { ordered: false, max_attempts: 5, backoff_ms: 1000, on_dead: "skip" } as const;
export const LEASE_MS_DEFAULT = 30_000;
export const BACKOFF_MS_MAX = 3_600_000; // the doubled backoff ends here

export const SESSION_CREATED = "session_created";
export const MESSAGE_APPENDED = "message_appended";
export const SESSION_CLOSED = "session_closed";
export const EVENT_TYPES = [SESSION_CREATED, MESSAGE_APPENDED, SESSION_CLOSED] as const;

// Topics are ASCII; here they are strings.
export const HEARTBEAT_TOPIC = "heartbeat/";
export const GOODBYE_TOPIC = "goodbye/";
export const WELCOME_TOPIC = "welcome/"; // one frame, the epoch behind it: the first message of every connection
export const FACT_TOPICS = ["created/", "message/", "closed/"] as const;

/** Topic of a session's creation. */
export function createdTopic(sessionId: number | bigint): string {
  return `created/${sessionId}/`;
}

/** Topic of every message of one session. */
export function messageTopic(sessionId: number | bigint): string {
  return `message/${sessionId}/`;
}

/** Topic of a session's closure. */
export function closedTopic(sessionId: number | bigint): string {
  return `closed/${sessionId}/`;
}

/** Topic of a follower's own `sync`; sorts after every other topic, see docs/protocol.md. */
export function syncTopic(token: string): string {
  return `~sync/${token}/`;
}
