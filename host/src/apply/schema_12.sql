-- Version 12: a revision that was put in by command holds over starts. Kept in green, or in the only target.

-- Transforms' files that run, or ran just before, and that the configuration does not name.
CREATE TABLE falkirk.artifact (
    migration text NOT NULL REFERENCES falkirk.migration ON DELETE CASCADE,
    -- sha256, in hexadecimal.
    digest text NOT NULL,
    name text NOT NULL,
    -- It was brought with its digest.
    pinned boolean NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (migration, digest)
);

-- What runs in the place of what the configuration names, by digests.
CREATE TABLE falkirk.commanded (
    migration text PRIMARY KEY REFERENCES falkirk.migration ON DELETE CASCADE,
    at timestamptz NOT NULL DEFAULT now(),
    -- The files that the configuration names; it holds while it names the same ones.
    configured text[] NOT NULL,
    -- One for each version step, in their order; none: every table is copied as it is.
    runs text[] NOT NULL,
    -- What ran before; NULL: nothing to go back to.
    before text[]
);

REVOKE ALL ON falkirk.artifact, falkirk.commanded FROM PUBLIC;
