-- Version 7: a link that was opened when its source had changes already that it knows nothing of.

-- `reopening`: it streams from its slot on; what its source had before that is yet to be compared.
ALTER TABLE falkirk.checkpoint
    DROP CONSTRAINT checkpoint_phase_check,
    ADD CONSTRAINT checkpoint_phase_check CHECK (phase IN ('preparing', 'copying', 'reopening', 'streaming'));
