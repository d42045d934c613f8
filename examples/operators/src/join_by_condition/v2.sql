-- A sale belongs to every shift in whose hours it falls.
CREATE TABLE shift_sale (
    shift_id int NOT NULL,
    sale_id  int NOT NULL,
    hour     int,
    PRIMARY KEY (shift_id, sale_id)
);
