CREATE TABLE host (name text PRIMARY KEY);

CREATE TABLE guest (name text PRIMARY KEY);
