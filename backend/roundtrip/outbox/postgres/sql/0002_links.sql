-- What links keep besides their records (0001): key files, removals, bans.

CREATE TABLE key_files (
    link_id text PRIMARY KEY,
    content bytea NOT NULL,  -- the SQLite file, compressed with zlib
    holder text NOT NULL,    -- whose data folder has the file itself, which may be newer
    saved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE removals (
    link_id text PRIMARY KEY,
    user_id text NOT NULL,
    bot_id text NOT NULL,
    phone_number text,
    since double precision NOT NULL,
    until double precision NOT NULL
);

CREATE TABLE bans (
    phone_number text PRIMARY KEY,
    code bigint NOT NULL,
    since double precision NOT NULL,
    until double precision,
    over double precision NOT NULL
);

CREATE FUNCTION save_key_file_1(p_link text, p_content bytea, p_holder text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO key_files (link_id, content, holder) VALUES (p_link, p_content, p_holder)
    ON CONFLICT (link_id) DO UPDATE SET content = excluded.content, holder = excluded.holder,
        saved_at = clock_timestamp()
$$;
