-- Version 3: key maps, and mirrors of the rows that others depend on. They hold values of rows: nobody prints them, and
-- they go with the migration and with the link.

-- Each key in at most one pair of its map. Kept on one side; both links reach it there.
CREATE TABLE falkirk.key (
    migration text NOT NULL REFERENCES falkirk.migration ON DELETE CASCADE,
    map text NOT NULL,
    blue text NOT NULL,
    green text NOT NULL,
    PRIMARY KEY (migration, map, blue),
    UNIQUE (migration, map, green)
);

-- Rows of the source as the target has them. `found_by` holds hashes of what a row depends on and is found by, `mapped`
-- the keys that it was written with, both lists JSON.
CREATE TABLE falkirk.mirror (
    migration text NOT NULL,
    link text NOT NULL,
    source_table text NOT NULL,
    key text NOT NULL,
    found_by bigint[] NOT NULL,
    mapped text NOT NULL,
    "row" text NOT NULL,
    PRIMARY KEY (migration, link, source_table, key),
    FOREIGN KEY (migration, link) REFERENCES falkirk.checkpoint ON DELETE CASCADE
);
CREATE INDEX mirror_found_by ON falkirk.mirror USING gin (found_by) WITH (fastupdate = off);

REVOKE ALL ON ALL TABLES IN SCHEMA falkirk FROM PUBLIC;
