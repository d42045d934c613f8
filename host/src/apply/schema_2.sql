-- Version 2: both links at once.

-- The position of the other link's last marker that this link had read when it stood at `position`: what the source's
-- application could know of the target's (design, section 3, conflicts).
ALTER TABLE falkirk.checkpoint ADD COLUMN context pg_lsn NOT NULL DEFAULT '0/0';

-- Which rows of the source its application changed lately: the other link, which writes that source, asks before it
-- writes. Kept with the link's checkpoint until the other link's context has passed it. Digests of keys, no values.
CREATE TABLE falkirk.recent (
    migration text NOT NULL,
    link text NOT NULL,
    position pg_lsn NOT NULL,
    rows bytea NOT NULL,
    PRIMARY KEY (migration, link, position),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);

-- Changes that were not written because the other side had changed the same thing: decided by the policy, or open.
-- `lost` holds what the change would have written, `kept` what the row held. Values of rows: shown on request only.
CREATE TABLE falkirk.conflict (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration text NOT NULL,
    link text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    position pg_lsn NOT NULL,
    kind text NOT NULL CHECK (kind IN ('update', 'insert', 'delete', 'unique')),
    target_table text NOT NULL,
    key jsonb NOT NULL,
    key_digest bytea NOT NULL,
    lost jsonb,
    kept jsonb,
    state text NOT NULL CHECK (state IN ('decided', 'open', 'resolved')),
    winner text CHECK (winner IN ('blue', 'green')),
    resolved_at timestamptz,
    resolved_by text,
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);
CREATE INDEX ON falkirk.conflict (migration, link, key_digest) WHERE state = 'open';

REVOKE ALL ON ALL TABLES IN SCHEMA falkirk FROM PUBLIC;
