-- The role by which Falkirk reads a database, with no right beyond what reading takes.
--
--   psql -d APP_DATABASE -v role=falkirk -v "password=..." -v owner=app -v schema=public -f source.sql
--
-- Run it, as an administrator, on every database that a link reads, after the application's schema is there, and
-- again when tables were added. If both directions will run, run target.sql on it as well: each side is then read and
-- written.

SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', :'role', :'password')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

-- REPLICATION is what slots and the change stream take. Hosted services hand it out in their own way, for example
-- GRANT rds_replication TO the role; then run that instead.
ALTER ROLE :"role" REPLICATION;

-- Only an owner may publish a table or set its replica identity, so the role becomes a member of the application's
-- owner. That is wide: it includes everything that the owner may do. To keep it narrow, run the statements that
-- `falkirk check` prints (CREATE PUBLICATION, ALTER TABLE ... REPLICA IDENTITY) as the owner yourself, revoke this
-- membership, and grant USAGE on the schema and SELECT on the tables instead.
GRANT :"owner" TO :"role";

-- CREATE on the database: for the publication, and for the schema `falkirk`, in which everything that Falkirk
-- remembers is kept.
GRANT CONNECT, CREATE ON DATABASE :"DBNAME" TO :"role";

-- Granted to the role itself, so that reading does not hang on the membership above.
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON ALL TABLES IN SCHEMA :"schema" TO :"role";
GRANT SELECT ON ALL SEQUENCES IN SCHEMA :"schema" TO :"role";
