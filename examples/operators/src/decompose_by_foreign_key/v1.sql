CREATE TABLE book (id int PRIMARY KEY, title text NOT NULL, author text);
