-- Version 4: what it takes to decide a conflict after the fact, and rows that wait for a unique value.

-- `source_*` is the row that was changed, its digest as the other link finds it. `held_by` are the keys of the rows that
-- hold the unique value. `taken` is the side that an operator took, `resolved_position` where the target stood then: what
-- its application does to the row after that was not decided.
ALTER TABLE falkirk.conflict
    ADD COLUMN source_table text,
    ADD COLUMN source_key jsonb,
    ADD COLUMN source_digest bytea,
    ADD COLUMN held_by jsonb,
    ADD COLUMN taken text CHECK (taken IN ('blue', 'green')),
    ADD COLUMN resolved_position pg_lsn;
CREATE INDEX ON falkirk.conflict (migration, link, key_digest, position);
