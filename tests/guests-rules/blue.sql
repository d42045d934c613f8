-- The tables that the rules read.
CREATE TABLE tag (id bigint PRIMARY KEY, name text UNIQUE NOT NULL);
CREATE TABLE code (id bigint PRIMARY KEY, label text NOT NULL);
CREATE TABLE member (id bigint PRIMARY KEY, note text NOT NULL);
CREATE TABLE trial (id bigint PRIMARY KEY, note text NOT NULL);
ALTER TABLE tag REPLICA IDENTITY FULL; ALTER TABLE code REPLICA IDENTITY FULL;
ALTER TABLE member REPLICA IDENTITY FULL; ALTER TABLE trial REPLICA IDENTITY FULL;
-- Rows that depend on others: a booking shows its owner's name, a profile writes into a person.
CREATE TABLE owner (id int PRIMARY KEY, name text NOT NULL, seen int NOT NULL DEFAULT 0);
CREATE TABLE booking (id int PRIMARY KEY, owner_id int, note text NOT NULL);
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE profile (id int PRIMARY KEY, person_id int, bio text);
ALTER TABLE owner REPLICA IDENTITY FULL;
ALTER TABLE booking REPLICA IDENTITY FULL;
ALTER TABLE profile REPLICA IDENTITY FULL;
