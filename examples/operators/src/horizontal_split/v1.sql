CREATE TABLE parcel (id int PRIMARY KEY, state text NOT NULL, weight int NOT NULL, shelf text);
