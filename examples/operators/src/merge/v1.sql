-- Keys of the two never meet: that is what lets them be merged.
CREATE TABLE mail (id int PRIMARY KEY, body text NOT NULL);

CREATE TABLE letter (id int PRIMARY KEY, body text NOT NULL, postage int);
