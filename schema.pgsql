-- The database of session-file-server.
--
-- Every statement can be repeated: `session-file-server init-db` and
-- `psql -1 -f schema.pgsql DATABASE` do the same, on an empty database and on one that has
-- some or all of these tables. What exists already is neither changed nor locked. For a
-- database of the Python file server use `init-db`, which also handles that server's other
-- tables.

-- The files. A file lives until `expiry`. Expired files are never served, and the server
-- deletes them soon after.
--
-- `id` is the content id of the file (44 characters of base64url) or, for uploads by older
-- clients, a random decimal number.
--
-- Here and below, names are sorted as bytes (COLLATE "C"). The order of any other collation
-- changes with the operating system, and an index that was built in the older order no longer
-- finds all rows.
CREATE TABLE IF NOT EXISTS files (
    id       varchar(44) COLLATE "C" PRIMARY KEY CHECK (id ~ '^[a-zA-Z0-9_-]+$'),
    data     bytea       NOT NULL,
    uploaded timestamptz NOT NULL DEFAULT now(),
    expiry   timestamptz NOT NULL DEFAULT now() + '30 days'
);

DO $$
DECLARE
    -- whether the extension Citus distributes the table
    is_distributed boolean := false;
    -- the table, or a partition of it
    part record;
BEGIN
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        is_distributed := EXISTS (SELECT FROM pg_catalog.pg_dist_partition
                                  WHERE logicalrelid = 'files'::regclass);
    END IF;

    -- Out-of-line storage without compression: files are encrypted, so they can't be compressed,
    -- and length() and substring() read only the parts that they need. (Citus refuses the statement
    -- for a distributed table, whose shards have the storage that the table had before.)
    IF NOT is_distributed AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'files'::regclass
                                      AND attname = 'data' AND attstorage <> 'e') THEN
        ALTER TABLE files ALTER COLUMN data SET STORAGE EXTERNAL;
    END IF;

    -- A partitioned table holds nothing itself: all of this is for each of its partitions.
    FOR part IN
        SELECT pg_class.oid::regclass AS name, attstorage AS storage,
               coalesce(array_to_string(pg_class.reloptions, ','), '') AS options,
               coalesce(array_to_string(toast.reloptions, ','), '') AS toast_options
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'data'
            LEFT JOIN pg_class toast ON toast.oid = pg_class.reltoastrelid
        WHERE pg_class.relkind = 'r' AND (pg_class.oid = 'files'::regclass
            OR pg_class.oid IN (SELECT relid FROM pg_partition_tree('files')))
        ORDER BY pg_class.oid
    LOOP
        IF NOT is_distributed AND part.storage <> 'e' THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN data SET STORAGE EXTERNAL', part.name);
        END IF;
        -- Vacuum more often than by default. The space of deleted files is reused only after a
        -- vacuum, which by default waits until a fifth of the table is dead: days of files. The
        -- files' bytes are in the TOAST table, which has its own setting. Settings by the operator
        -- are kept.
        IF part.options NOT LIKE '%autovacuum_vacuum_scale_factor%' THEN
            EXECUTE format('ALTER TABLE %s SET (autovacuum_vacuum_scale_factor = 0.02)', part.name);
        END IF;
        IF part.toast_options NOT LIKE '%autovacuum_vacuum_scale_factor%' THEN
            EXECUTE format('ALTER TABLE %s SET (toast.autovacuum_vacuum_scale_factor = 0.02)',
                           part.name);
        END IF;
    END LOOP;

    -- CREATE INDEX IF NOT EXISTS would lock the table even if the index exists.
    IF to_regclass('files_expiry') IS NULL THEN
        CREATE INDEX files_expiry ON files (expiry);
    END IF;
END $$;

-- The projects whose releases GitHub is asked for. The server can read all of this and the next
-- two tables from GitHub again.
CREATE TABLE IF NOT EXISTS github_projects (
    -- owner/name
    project    text        COLLATE "C" PRIMARY KEY,
    -- the last successful check of GitHub
    checked    timestamptz,
    -- the ETag of GitHub's last answer, for the next request
    etag       text,
    -- no server asks GitHub before this time
    next_check timestamptz NOT NULL DEFAULT '-infinity'
);

-- The highest version of each project's release channels.
CREATE TABLE IF NOT EXISTS github_releases (
    project text COLLATE "C" NOT NULL REFERENCES github_projects,
    channel text COLLATE "C" NOT NULL CHECK (channel IN ('stable', 'prerelease', 'alpha')),
    -- without a "v"
    version text NOT NULL,
    name    text,
    notes   text,
    PRIMARY KEY (project, channel)
);

-- The files of those releases.
CREATE TABLE IF NOT EXISTS github_assets (
    project  text    COLLATE "C" NOT NULL,
    channel  text    COLLATE "C" NOT NULL,
    position integer NOT NULL,
    name     text    NOT NULL,
    url      text    NOT NULL,
    PRIMARY KEY (project, channel, position),
    FOREIGN KEY (project, channel) REFERENCES github_releases ON DELETE CASCADE
);

-- The last signed version check of each signer, kept for 90 days. Written only with
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

-- The statistics of the session token. Another program fills these two tables.
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

-- The ids that the operator has blocked (session-file-server files block). A blocked file is not
-- stored, served or extended until its id is unblocked.
CREATE TABLE IF NOT EXISTS blocked_files (
    id      varchar(44) COLLATE "C" PRIMARY KEY,
    blocked timestamptz NOT NULL DEFAULT now(),
    -- the operator's own words
    reason  text
);

-- The ids of files that the operator has deleted or blocked in the last minutes. Every server reads
-- them each second, and drops these files from its memory.
CREATE TABLE IF NOT EXISTS removed_files (
    id      varchar(44) COLLATE "C" PRIMARY KEY,
    removed timestamptz NOT NULL
);

DO $$
BEGIN
    IF to_regclass('removed_files_removed') IS NULL THEN
        CREATE INDEX removed_files_removed ON removed_files (removed);
    END IF;
END $$;

-- The counters of each server on this database since its start. Each server writes its own once
-- a minute, and session-file-server status shows them.
CREATE TABLE IF NOT EXISTS servers (
    -- the server's machine and address
    name         text        COLLATE "C" PRIMARY KEY,
    noted        timestamptz NOT NULL DEFAULT now(),
    requests     bigint      NOT NULL,
    bytes_up     bigint      NOT NULL,
    bytes_down   bigint      NOT NULL,
    files_stored bigint      NOT NULL,
    downloads    bigint      NOT NULL,
    cache_hits   bigint      NOT NULL
);

-- The bytes of the files that each server has stored since its start. A server with
-- files.max_total_size writes its own each second in which it has stored any, and reads the others'.
CREATE TABLE IF NOT EXISTS stored_bytes (
    -- the random name of the server's process
    server text        COLLATE "C" PRIMARY KEY,
    bytes  bigint      NOT NULL,
    noted  timestamptz NOT NULL
);

-- The version of the schema, which is raised whenever a server needs a change of it. A server runs
-- on its own version only. init-db upgrades an older version.
CREATE TABLE IF NOT EXISTS schema_version (
    version  integer NOT NULL,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);

INSERT INTO schema_version (version) VALUES (3)
    ON CONFLICT (only_row) DO UPDATE
    SET version = excluded.version WHERE schema_version.version < excluded.version;
