-- Version 6: what became of each revision of the transform.

-- `started` and `took over` write from their position on, until the next of them; `refused` never wrote; `taken back`
-- wrote until it stopped the link. `reason` is the code of the problem, if there was one.
ALTER TABLE falkirk.history
    ADD COLUMN step text NOT NULL DEFAULT '',
    ADD COLUMN outcome text NOT NULL DEFAULT 'started'
        CHECK (outcome IN ('started', 'took over', 'refused', 'taken back')),
    ADD COLUMN reason text NOT NULL DEFAULT '';
