-- Armin's schema, version 2 (PRAGMA user_version). application_id marks the file as Armin's.
-- To change the format: raise SCHEMA_VERSION in probe.py, write the step from the version before it
-- beside upgrade.py's, and keep every earlier step.

CREATE TABLE IF NOT EXISTS sessions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    closed     INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS messages (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id INTEGER NOT NULL,
    role       INTEGER NOT NULL,
    content    TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    FOREIGN KEY (session_id) REFERENCES sessions(id)
);

CREATE INDEX IF NOT EXISTS messages_by_session ON messages(session_id);

-- One row for every committed fact, in commit order; positions are dense from 1.
-- kind: 1 session created, 2 message appended, 3 session closed. message_id is 0 where there is none.
CREATE TABLE log (
    position   INTEGER PRIMARY KEY,
    kind       INTEGER NOT NULL,
    session_id INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    digest     BLOB NOT NULL
);

CREATE TABLE message_meta (
    message_id INTEGER PRIMARY KEY,
    meta       TEXT NOT NULL
);

CREATE TABLE session_meta (
    session_id INTEGER PRIMARY KEY,
    meta       TEXT NOT NULL
);

CREATE TABLE session_names (
    name       TEXT NOT NULL UNIQUE,
    session_id INTEGER PRIMARY KEY
);

-- database: this file's random id; epoch: renewed when a backup is restored.
CREATE TABLE armin (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- Version 2: the step from version 1 is everything below this line.

-- Idempotency keys, kept for ever. position: where its first fact is in the log; count: facts of it;
-- request: what tells this request from another, made of digests. session_id is 0 for the creation of a session.
CREATE TABLE append_keys (
    key        TEXT NOT NULL,
    session_id INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    request    BLOB NOT NULL,
    PRIMARY KEY (key, session_id)
) WITHOUT ROWID;

-- Worker groups: settings as JSON; every effect up to the cursor was taken or passed over.
CREATE TABLE worker_groups (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    settings   TEXT NOT NULL,
    cursor     INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);

-- Effects taken and not yet acknowledged. state: 1 waiting, 2 leased, 3 dead. due: milliseconds since the
-- epoch at which a waiting one may be leased, a lease ends, or a dead one died.
CREATE TABLE taken_effects (
    group_id   INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    attempts   INTEGER NOT NULL,
    deliveries INTEGER NOT NULL,
    due        INTEGER NOT NULL,
    request    TEXT,
    reason     TEXT,
    PRIMARY KEY (group_id, position)
) WITHOUT ROWID;
