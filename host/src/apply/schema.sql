-- Version 1 of what Falkirk keeps in a target database. Later versions are further files; this one never changes.

CREATE SCHEMA falkirk;
REVOKE ALL ON SCHEMA falkirk FROM PUBLIC;

CREATE TABLE falkirk.version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL
);
INSERT INTO falkirk.version (version) VALUES (0);

-- The id signs what the links of a migration write; whoever can read it can hide changes from the other link.
CREATE TABLE falkirk.migration (
    name text PRIMARY KEY,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row a link, updated by every target transaction: room in the page keeps those updates off the index.
CREATE TABLE falkirk.checkpoint (
    migration text NOT NULL REFERENCES falkirk.migration ON DELETE CASCADE,
    link text NOT NULL CHECK (link IN ('forward', 'backward')),
    epoch bigint NOT NULL DEFAULT 0,
    position pg_lsn NOT NULL,
    committed_at timestamptz,
    source_system_id text NOT NULL,
    source_timeline integer NOT NULL,
    source_database text NOT NULL,
    slot text NOT NULL,
    slot_created_at pg_lsn NOT NULL,
    phase text NOT NULL CHECK (phase IN ('preparing', 'copying', 'streaming')),
    artifact text NOT NULL,
    host text NOT NULL,
    transactions bigint NOT NULL DEFAULT 0,
    inserted bigint NOT NULL DEFAULT 0,
    updated bigint NOT NULL DEFAULT 0,
    deleted bigint NOT NULL DEFAULT 0,
    copied bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (migration, link)
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);

-- The parts into which existing rows are cut, [lower, upper) by the source table's key; null is an open end.
CREATE TABLE falkirk.chunk (
    migration text NOT NULL,
    link text NOT NULL,
    source_table text NOT NULL,
    number integer NOT NULL,
    lower text[],
    upper text[],
    rows bigint,
    finished_at timestamptz,
    PRIMARY KEY (migration, link, source_table, number),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);

-- The source's columns as the link knew them last.
CREATE TABLE falkirk.shape (
    migration text NOT NULL,
    link text NOT NULL,
    source_table text NOT NULL,
    columns jsonb NOT NULL,
    PRIMARY KEY (migration, link, source_table),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);

-- Which artifact wrote from which position on.
CREATE TABLE falkirk.history (
    migration text NOT NULL,
    link text NOT NULL,
    artifact text NOT NULL,
    from_position pg_lsn NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (migration, link, from_position, artifact),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);

-- The problem that ended the link last, for `status`.
CREATE TABLE falkirk.problem (
    migration text NOT NULL,
    link text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    code text NOT NULL,
    text text NOT NULL,
    PRIMARY KEY (migration, link),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);

REVOKE ALL ON ALL TABLES IN SCHEMA falkirk FROM PUBLIC;
