CREATE TABLE office (id int PRIMARY KEY, city text NOT NULL);
