-- Version 11: records of conflicts about rows that stand in one of several tables.

-- Each row that may stand for the record: its table and key, `kept` as it stood, `lost` as it would stand now. NULL is a
-- row that is not there; without `lost` nobody knows. Values of rows: shown on request only.
ALTER TABLE falkirk.conflict ADD COLUMN record jsonb;
