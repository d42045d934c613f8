-- The role by which Falkirk writes a database, with no right beyond what writing rows takes.
--
--   psql -d APP_DATABASE -v role=falkirk -v "password=..." -v schema=public -f target.sql
--
-- Run it, as an administrator, on every database that a link writes, after the application's schema is there, and
-- again when tables were added.

SELECT format('CREATE ROLE %I LOGIN PASSWORD %L', :'role', :'password')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec

-- CREATE on the database: for the schema `falkirk`, which holds the checkpoint beside the rows it speaks of.
GRANT CONNECT, CREATE ON DATABASE :"DBNAME" TO :"role";

-- SELECT is for updates and deletes by key, and for `falkirk verify`. TRUNCATE follows truncates of the source;
-- leave it out to have them stop the link instead.
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA :"schema" TO :"role";

-- UPDATE on sequences is what setval takes: keys that this side hands out later must not meet copied ones.
GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA :"schema" TO :"role";
