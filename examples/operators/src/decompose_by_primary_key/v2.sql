CREATE TABLE member (id int PRIMARY KEY, name text NOT NULL);

-- One link brings both rows in one transaction, in an order of its own.
CREATE TABLE member_bio (
    id  int PRIMARY KEY REFERENCES member DEFERRABLE INITIALLY DEFERRED,
    bio text NOT NULL
);
