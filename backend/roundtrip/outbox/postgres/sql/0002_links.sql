-- What links keep besides their records (0001): key files, removals, bans.

ALTER TABLE links ADD COLUMN version bigint NOT NULL DEFAULT 0;  -- a late write of a lost connection changes nothing

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

CREATE FUNCTION save_link_1(p_user text, p_bot text, p_link text, p_state text, p_paired boolean, p_record text,
    p_version bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO links (user_id, bot_id, link_id, state, paired, record, version)
    VALUES (p_user, p_bot, p_link, p_state, p_paired, p_record, p_version)
    ON CONFLICT (user_id, bot_id) DO UPDATE SET link_id = excluded.link_id, state = excluded.state,
        paired = excluded.paired, record = excluded.record, version = excluded.version
    WHERE links.version < excluded.version
$$;

CREATE FUNCTION save_key_file_1(p_link text, p_content bytea, p_holder text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO key_files (link_id, content, holder) VALUES (p_link, p_content, p_holder)
    ON CONFLICT (link_id) DO UPDATE SET content = excluded.content, holder = excluded.holder,
        saved_at = clock_timestamp()
$$;
