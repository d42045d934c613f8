CREATE TABLE fixture (id int PRIMARY KEY, host text NOT NULL, guest text NOT NULL);
