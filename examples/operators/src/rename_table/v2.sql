CREATE TABLE patron (id int PRIMARY KEY, name text NOT NULL);
