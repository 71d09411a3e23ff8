-- The database of session-file-server.
--
-- Every statement can be repeated: `session-file-server init-db` and
-- `psql -1 -f schema.pgsql DATABASE` do the same, on an empty database and on one
-- that has some or all of this. What is already so is not touched, and no lock is taken
-- for it. For a database of the Python file server use `init-db`, which also looks at what
-- else is there.

-- A file lives until `expiry`; rows whose expiry has passed are never served, and are
-- deleted by the server soon after.
--
-- `id` is the content id of the file (44 characters of base64url) or, from older
-- clients, a random decimal number.
--
-- Names are compared as bytes (COLLATE "C"), here and below: the order of any other collation
-- changes with the operating system, and an index that was made in the older order no longer
-- finds what is there.
CREATE TABLE IF NOT EXISTS files (
    id       varchar(44) COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-zA-Z0-9_-]+$'),
    data     bytea       NOT NULL,
    uploaded timestamptz NOT NULL DEFAULT now(),
    expiry   timestamptz NOT NULL DEFAULT now() + '30 days'
);

DO $$
DECLARE
    -- reloptions, as one text
    options text;
    toast_options text;
BEGIN
    -- Files are encrypted, so that compressing them would be wasted work; and uncompressed
    -- out-of-line storage lets length() and substring() read only what they need.
    IF EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = 'files'::regclass AND attname = 'data' AND attstorage <> 'e') THEN
        ALTER TABLE files ALTER COLUMN data SET STORAGE EXTERNAL;
    END IF;

    -- Space of expired files is used again once it was vacuumed. By default that waits until a
    -- fifth of the table is dead, which may be days of files; and the bytes lie in a table of
    -- their own, for which it counts apart. What the operator has set stays. (A partitioned
    -- table has no such settings, only its partitions have.)
    SELECT array_to_string(files.reloptions, ','), array_to_string(toast.reloptions, ',')
        INTO options, toast_options
        FROM pg_class files LEFT JOIN pg_class toast ON toast.oid = files.reltoastrelid
        WHERE files.oid = 'files'::regclass AND files.relkind = 'r';
    IF FOUND AND coalesce(options, '') NOT LIKE '%autovacuum_vacuum_scale_factor%' THEN
        ALTER TABLE files SET (autovacuum_vacuum_scale_factor = 0.02);
    END IF;
    IF FOUND AND coalesce(toast_options, '') NOT LIKE '%autovacuum_vacuum_scale_factor%' THEN
        ALTER TABLE files SET (toast.autovacuum_vacuum_scale_factor = 0.02);
    END IF;

    -- CREATE INDEX IF NOT EXISTS would lock the table before it looks.
    IF to_regclass('files_expiry') IS NULL THEN
        CREATE INDEX files_expiry ON files (expiry);
    END IF;
END $$;

-- What GitHub last said of Session's releases. All of it can be asked for again.
CREATE TABLE IF NOT EXISTS github_projects (
    -- owner/name
    project    text        COLLATE "C" PRIMARY KEY,
    -- when GitHub was last asked with success
    checked    timestamptz,
    -- what it gave with its answer, for the next question
    etag       text,
    -- no server asks before
    next_check timestamptz NOT NULL DEFAULT '-infinity'
);

-- The highest version of each release channel.
CREATE TABLE IF NOT EXISTS github_releases (
    project text COLLATE "C" NOT NULL REFERENCES github_projects,
    channel text COLLATE "C" NOT NULL CHECK (channel IN ('stable', 'prerelease', 'alpha')),
    -- without a "v"
    version text NOT NULL,
    name    text,
    notes   text,
    PRIMARY KEY (project, channel)
);

CREATE TABLE IF NOT EXISTS github_assets (
    project  text    COLLATE "C" NOT NULL,
    channel  text    COLLATE "C" NOT NULL,
    position integer NOT NULL,
    name     text    NOT NULL,
    url      text    NOT NULL,
    PRIMARY KEY (project, channel, position),
    FOREIGN KEY (project, channel) REFERENCES github_releases ON DELETE CASCADE
);

-- The last signed version check of each signer, kept for 90 days; only with
-- versions.record_checks.
CREATE TABLE IF NOT EXISTS version_checks (
    blinded_id text        COLLATE "C" NOT NULL,
    platform   text        COLLATE "C" NOT NULL,
    channel    text        COLLATE "C" NOT NULL,
    checked    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (blinded_id, platform, channel)
);

DO $$
BEGIN
    IF to_regclass('version_checks_checked') IS NULL THEN
        CREATE INDEX version_checks_checked ON version_checks (checked);
    END IF;
END $$;

-- The numbers of the session token: another program fills these two.
CREATE TABLE IF NOT EXISTS session_token_stats (
    maximum_supply      int,
    sent_per_node       int,
    staking_reward_pool int
);

CREATE TABLE IF NOT EXISTS session_token_history (
    current_value      numeric(20,6),
    circulating_supply int,
    total_nodes        int,
    updated            timestamptz
);

-- What each server on this database has done since it started: noted by itself once a minute,
-- shown by session-file-server status.
CREATE TABLE IF NOT EXISTS servers (
    -- its machine, and where it listens
    name         text        COLLATE "C" PRIMARY KEY,
    noted        timestamptz NOT NULL DEFAULT now(),
    requests     bigint      NOT NULL,
    bytes_up     bigint      NOT NULL,
    bytes_down   bigint      NOT NULL,
    files_stored bigint      NOT NULL,
    downloads    bigint      NOT NULL,
    cache_hits   bigint      NOT NULL
);

-- The version of all this, raised whenever a server needs something that an older one
-- didn't. A server runs on its own version only; init-db upgrades an older one.
CREATE TABLE IF NOT EXISTS schema_version (
    version  integer NOT NULL,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);

INSERT INTO schema_version (version) VALUES (1)
    ON CONFLICT (only_row) DO UPDATE
    SET version = excluded.version WHERE schema_version.version < excluded.version;
