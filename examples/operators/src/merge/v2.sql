CREATE TABLE message (
    id      int PRIMARY KEY,
    kind    text NOT NULL CHECK (kind IN ('mail', 'letter')),
    body    text NOT NULL,
    postage int,
    stars   int NOT NULL DEFAULT 0
);
