-- Version 5: what a link that only watches has found of its source, and what both sides had done alike.

-- One report a link, as JSON. It holds keys of rows that would not fit: shown on request only.
CREATE TABLE falkirk.readiness (
    migration text NOT NULL,
    link text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    report jsonb NOT NULL,
    PRIMARY KEY (migration, link),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);
REVOKE ALL ON falkirk.readiness FROM PUBLIC;

ALTER TABLE falkirk.checkpoint ADD COLUMN agreements bigint NOT NULL DEFAULT 0;
