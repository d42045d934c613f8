-- Release 2 writes no telex, so the column needs a default.
CREATE TABLE office (id int PRIMARY KEY, city text NOT NULL, telex text NOT NULL DEFAULT 'none');
