-- Version 8: rows that wait for other rows.

-- `parent`: a row that refers to a row that waits itself.
ALTER TABLE falkirk.conflict
    DROP CONSTRAINT conflict_kind_check,
    ADD CONSTRAINT conflict_kind_check CHECK (kind IN ('update', 'insert', 'delete', 'unique', 'parent'));
