CREATE TABLE film (id int PRIMARY KEY, title text NOT NULL, year int);
