-- Version 9: values of rows in records of conflicts are kept for a time only; the bits of columns are kept for ever.

-- Since when the record says no more than that there was a conflict, and how it ended.
ALTER TABLE falkirk.conflict ADD COLUMN erased_at timestamptz;
CREATE INDEX ON falkirk.conflict (migration, link, coalesce(resolved_at, at)) WHERE state <> 'open' AND erased_at IS NULL;

-- What notes of changes (`falkirk.recent`) mean, whatever revision runs; that of green counts.
ALTER TABLE falkirk.migration ADD COLUMN numbering jsonb NOT NULL DEFAULT '{"blue": {}, "green": {}}';
