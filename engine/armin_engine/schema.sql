-- Armin's schema, version 1 (PRAGMA user_version). application_id marks the file as Armin's.
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
