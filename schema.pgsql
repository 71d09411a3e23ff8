-- The database of session-file-server.
--
-- Every statement can be repeated: `session-file-server init-db` and
-- `psql -1 -f schema.pgsql DATABASE` do the same, on an empty database and on one
-- that has some or all of this.

-- A file lives until `expiry`; rows whose expiry has passed are never served, and are
-- deleted by the server soon after.
--
-- `id` is the content id of the file (44 characters of base64url) or, from older
-- clients, a random decimal number.
CREATE TABLE IF NOT EXISTS files (
    id       varchar(44) PRIMARY KEY CHECK (id ~ '^[a-zA-Z0-9_-]+$'),
    data     bytea       NOT NULL,
    uploaded timestamptz NOT NULL DEFAULT now(),
    expiry   timestamptz NOT NULL DEFAULT now() + '30 days'
);

-- Files are encrypted, so that compressing them would be wasted work; and uncompressed
-- out-of-line storage lets length() and substring() read only what they need.
ALTER TABLE files ALTER COLUMN data SET STORAGE EXTERNAL;

CREATE INDEX IF NOT EXISTS files_expiry ON files (expiry);
