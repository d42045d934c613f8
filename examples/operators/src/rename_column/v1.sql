CREATE TABLE film (id int PRIMARY KEY, titel text NOT NULL, year int);
