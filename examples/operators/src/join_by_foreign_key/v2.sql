CREATE TABLE visit (id int PRIMARY KEY, city text, note text NOT NULL);
