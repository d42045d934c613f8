-- The tables that the rules write.
CREATE TABLE tag_kept (name text PRIMARY KEY, votes int NOT NULL DEFAULT 0);
CREATE TABLE tag_new (name text PRIMARY KEY, votes int NOT NULL DEFAULT 0);
CREATE TABLE folded (code text PRIMARY KEY);
CREATE TABLE member (id bigint PRIMARY KEY, note text NOT NULL, level text NOT NULL DEFAULT 'basic');
CREATE TABLE trial (id bigint PRIMARY KEY, answer text);
CREATE TABLE booking (id int PRIMARY KEY, owner_id int, note text NOT NULL, shown text NOT NULL, own text DEFAULT 'green');
CREATE TABLE person (id int PRIMARY KEY, name text NOT NULL, bio text);
