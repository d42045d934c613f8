CREATE TABLE shift (id int PRIMARY KEY, from_hour int NOT NULL, to_hour int NOT NULL);

CREATE TABLE sale (id int PRIMARY KEY, hour int NOT NULL);
