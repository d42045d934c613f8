-- Release 1 writes no level, so the column needs a default.
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, level text NOT NULL DEFAULT 'basic');
