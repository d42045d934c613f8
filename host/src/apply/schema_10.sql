-- Version 10: ranges of sequences that meet across renamed, split and merged tables.

-- Where the numbers begin and end that each sequence hands out. Kept in green. What was known before is not carried over: the
-- next start sets the sequences apart anew, past everything that either side has handed out.
DROP TABLE falkirk.range;
CREATE TABLE falkirk.range (
    migration text NOT NULL REFERENCES falkirk.migration ON DELETE CASCADE,
    side text NOT NULL CHECK (side IN ('blue', 'green')),
    sequence text NOT NULL,
    -- Those of one class hand out numbers that meet.
    class text NOT NULL,
    starts_at bigint NOT NULL,
    -- Nobody has numbers behind these yet: NULL.
    ends_at bigint,
    PRIMARY KEY (migration, side, sequence)
);

REVOKE ALL ON falkirk.range FROM PUBLIC;
