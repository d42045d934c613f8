CREATE TABLE parcel_open (id int PRIMARY KEY, state text NOT NULL, weight int NOT NULL);

CREATE TABLE parcel_done (id int PRIMARY KEY, state text NOT NULL, weight int NOT NULL);
