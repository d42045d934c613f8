CREATE TABLE member (id int PRIMARY KEY, name text NOT NULL, bio text);
