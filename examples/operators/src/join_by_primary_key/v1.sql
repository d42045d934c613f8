CREATE TABLE account (id int PRIMARY KEY, name text NOT NULL);

CREATE TABLE avatar (
    id      int PRIMARY KEY REFERENCES account DEFERRABLE INITIALLY DEFERRED,
    picture text NOT NULL
);
