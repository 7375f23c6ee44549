-- Which node owns which link, and what nodes ask of each other.
--
-- A link's fence is a number that grows with each change of owner. Every version of a link's row begins with the fence
-- under which it was written (its upper bits), so that whoever writes with an old one is found out by the version that
-- it brings, whichever function carries it. Fences begin where no version of an earlier release reaches.

ALTER TABLE nodes ADD COLUMN alone boolean NOT NULL DEFAULT true;  -- of a release that holds every link by itself

CREATE SEQUENCE link_fences START 137438953472;  -- 2 ^ 37

ALTER TABLE links
    ADD COLUMN owner text,                        -- a node's name; NULL: free to be taken
    ADD COLUMN fence bigint NOT NULL DEFAULT 0,   -- 0: never taken
    ADD COLUMN freed text NOT NULL DEFAULT 'started',  -- why it is free: started, node_lost, handed_over
    ADD COLUMN offered_to text,                   -- the node that is to take it, until then
    ADD COLUMN offered_until timestamptz,
    ADD COLUMN restoring timestamptz,             -- since when its account waits for its session, NULL once it reported
    ADD COLUMN reserved timestamptz,              -- until when it counts as live: its start is being decided
    ADD COLUMN code text,                         -- JSON of the QR or pairing code that is shown: a secret
    ADD COLUMN code_until timestamptz,
    ADD COLUMN changed timestamptz NOT NULL DEFAULT clock_timestamp();  -- when its account or its name changed
CREATE INDEX links_owner ON links (owner);
CREATE INDEX links_free ON links (user_id, bot_id) WHERE owner IS NULL;
CREATE INDEX links_changed ON links (changed);
CREATE INDEX links_code ON links (code_until) WHERE code IS NOT NULL;

-- Before each write of a link's row: only its owner, with its present fence.
CREATE FUNCTION links_insert_1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_owner text;
    v_fence bigint;
BEGIN
    SELECT owner, fence INTO v_owner, v_fence FROM links
        WHERE user_id = NEW.user_id AND bot_id = NEW.bot_id FOR UPDATE;
    IF FOUND AND v_fence > 0 AND (v_owner IS NULL OR NEW.version >> 24 <> v_fence)
        OR NOT FOUND AND NEW.version >> 24 >= 137438953472 THEN  -- the row that was made for a start is gone
        RAISE EXCEPTION 'this link has another owner' USING ERRCODE = 'RT002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER links_insert BEFORE INSERT ON links FOR EACH ROW EXECUTE FUNCTION links_insert_1();

-- What a new version of a record ends: the wait for a session, a start that was being decided, a code.
CREATE FUNCTION links_update_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.restoring := NULL;
    NEW.reserved := NULL;
    IF NEW.state NOT IN ('qr', 'pairing_code') THEN
        NEW.code := NULL;
        NEW.code_until := NULL;
    END IF;
    IF NEW.paired <> OLD.paired OR NEW.link_id <> OLD.link_id THEN
        NEW.changed := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER links_update BEFORE UPDATE ON links FOR EACH ROW
    WHEN (NEW.version <> OLD.version AND NEW.fence = OLD.fence) EXECUTE FUNCTION links_update_1();

-- A node has none of its links any more.
CREATE FUNCTION free_links_1(p_node text, p_why text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM links WHERE owner = p_node AND state = 'idle';  -- a start that came to nothing
    UPDATE links SET owner = NULL, freed = p_why, offered_to = NULL, restoring = clock_timestamp(), reserved = NULL
        WHERE owner = p_node
$$;

-- Removes nodes whose lease has ended, once their transactions under way have ended: what they write later is refused,
-- because their fence is gone. Their links are free then. The names of the nodes.
CREATE FUNCTION bury_1() RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    dead text;
    gone text[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(1701, 0);
    FOR dead IN SELECT node_id FROM nodes WHERE lease_until <= clock_timestamp() ORDER BY node_id LOOP
        PERFORM pg_advisory_xact_lock(1702, hashtext(dead));
        DELETE FROM nodes WHERE node_id = dead AND lease_until <= clock_timestamp();
        IF FOUND THEN
            gone := gone || dead;
        END IF;
    END LOOP;
    FOR dead IN WITH RECURSIVE owners AS (
            SELECT min(owner) AS o FROM links
            UNION ALL SELECT (SELECT min(owner) FROM links WHERE owner > owners.o) FROM owners WHERE owners.o IS NOT NULL
        ) SELECT o FROM owners WHERE o IS NOT NULL AND NOT EXISTS (SELECT FROM nodes WHERE node_id = o) LOOP
        PERFORM free_links_1(dead, 'node_lost');
    END LOOP;
    RETURN gone;
END $$;

-- A node joins the others. A live one of the same name is a refusal, and so is one that holds every link by itself.
CREATE FUNCTION join_2(p_node text, p_session text, p_lease double precision,
    OUT o_fence bigint, OUT o_slot integer, OUT o_now bigint, OUT o_holder text, OUT o_left double precision)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM bury_1();
    o_now := now_ms_1();
    SELECT node_id, extract(epoch FROM lease_until - clock_timestamp()) INTO o_holder, o_left
        FROM nodes WHERE alone OR node_id = p_node ORDER BY lease_until DESC LIMIT 1;
    IF o_holder IS NOT NULL THEN
        RETURN;
    END IF;
    o_fence := nextval('fences');
    SELECT min(s) INTO o_slot FROM generate_series(0, (SELECT count(*) FROM nodes)::integer) s
        WHERE s NOT IN (SELECT slot FROM nodes);
    INSERT INTO nodes (node_id, session, slot, fence, lease_until, alone)
        VALUES (p_node, p_session, o_slot, o_fence, clock_timestamp() + make_interval(secs => p_lease), false);
END $$;

-- A node leaves: nobody need wait for the end of its lease.
CREATE FUNCTION leave_1(p_node text, p_session text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1702, hashtext(p_node));
    DELETE FROM nodes WHERE node_id = p_node AND session = p_session;
    IF FOUND THEN
        PERFORM free_links_1(p_node, 'handed_over');
    END IF;
END $$;

-- Takes those of these links that are free and not offered to another live node.
CREATE FUNCTION claim_links_1(p_node text, p_fence bigint, p_users text[], p_bots text[])
RETURNS TABLE (user_id text, bot_id text, record text, fence bigint, freed text, restoring double precision)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    RETURN QUERY WITH free AS (
        SELECT l.user_id, l.bot_id FROM unnest(p_users, p_bots) AS w (u, b)
        JOIN links l ON l.user_id = w.u AND l.bot_id = w.b
        WHERE l.owner IS NULL AND l.state <> 'idle'
            AND (l.offered_to IS NULL OR l.offered_to = p_node OR l.offered_until <= clock_timestamp())
        ORDER BY l.user_id, l.bot_id FOR UPDATE OF l SKIP LOCKED
    )
    UPDATE links l SET owner = p_node, fence = f.fence, version = f.fence << 24, offered_to = NULL,
        restoring = coalesce(l.restoring, clock_timestamp())
    FROM (SELECT user_id AS u, bot_id AS b, nextval('link_fences') AS fence FROM free) AS f
    WHERE l.user_id = f.u AND l.bot_id = f.b
    RETURNING l.user_id::text, l.bot_id::text, l.record, l.fence, l.freed, extract(epoch FROM l.restoring)::float8;
END $$;

-- One link for a command. Of another node's only its owner is told. Else it is taken if it was free; `p_most` not NULL
-- asks for a start, which makes a row for a key that has none, and is refused (`o_full`) when the user has so many others
-- that are live.
CREATE FUNCTION take_link_1(p_node text, p_fence bigint, p_user text, p_bot text, p_most integer, p_live text[],
    p_record text,
    OUT o_owner text, OUT o_full boolean, OUT o_taken boolean, OUT o_new boolean, OUT o_record text, OUT o_fence bigint,
    OUT o_freed text, OUT o_restoring double precision)
LANGUAGE plpgsql AS $$
DECLARE
    v links;
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    o_full := false;
    o_taken := false;
    o_new := false;
    IF p_most IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(1704, hashtext(p_user));
    END IF;
    SELECT * INTO v FROM links WHERE user_id = p_user AND bot_id = p_bot FOR UPDATE;
    o_new := NOT FOUND;
    IF o_new AND p_most IS NULL OR v.owner <> p_node THEN
        o_owner := v.owner;
        RETURN;
    END IF;
    IF p_most IS NOT NULL AND NOT coalesce(v.state = ANY (p_live), false) THEN
        SELECT count(*) >= p_most INTO o_full FROM links l WHERE l.user_id = p_user AND l.bot_id <> p_bot
            AND (l.state = ANY (p_live) OR l.reserved > clock_timestamp());
        IF o_full THEN
            RETURN;
        END IF;
    END IF;
    IF o_new THEN
        INSERT INTO links (user_id, bot_id, link_id, state, paired, record, version)
            VALUES (p_user, p_bot, p_record::json ->> 'link_id', 'idle', false, p_record, 0);
    END IF;
    IF v.owner IS NULL THEN
        o_taken := true;
        UPDATE links l SET owner = p_node, fence = f, version = f << 24, offered_to = NULL,
            restoring = CASE WHEN o_new THEN NULL ELSE coalesce(l.restoring, clock_timestamp()) END
        FROM nextval('link_fences') AS f WHERE l.user_id = p_user AND l.bot_id = p_bot RETURNING l.* INTO v;
    END IF;
    IF p_most IS NOT NULL THEN
        UPDATE links SET reserved = clock_timestamp() + interval '15 seconds'
            WHERE user_id = p_user AND bot_id = p_bot;
    END IF;
    o_owner := v.owner;
    o_record := v.record;
    o_fence := v.fence;
    o_freed := v.freed;
    o_restoring := extract(epoch FROM v.restoring);
END $$;

-- A start came to nothing: the row that was made for it goes.
CREATE FUNCTION untake_link_1(p_node text, p_fence bigint, p_user text, p_bot text, p_link_fence bigint)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    DELETE FROM links WHERE user_id = p_user AND bot_id = p_bot AND owner = p_node AND fence = p_link_fence
        AND state = 'idle';
    UPDATE links SET reserved = NULL WHERE user_id = p_user AND bot_id = p_bot AND owner = p_node
        AND reserved IS NOT NULL;
END $$;

-- A link is given away, to a node that is to take it first if one is named. Its session has ended before.
CREATE FUNCTION release_link_1(p_node text, p_fence bigint, p_user text, p_bot text, p_link_fence bigint, p_to text)
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    UPDATE links SET owner = NULL, freed = 'handed_over', offered_to = p_to,
        offered_until = clock_timestamp() + interval '5 seconds', restoring = clock_timestamp(), reserved = NULL
        WHERE user_id = p_user AND bot_id = p_bot AND owner = p_node AND fence = p_link_fence;
    RETURN FOUND;
END $$;

-- A key file, of a link that this node has, or of a removal whose link has gone on under another name.
CREATE FUNCTION save_key_file_2(p_node text, p_link text, p_content bytea, p_holder text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM links WHERE link_id = p_link AND owner IS DISTINCT FROM p_node AND fence > 0) THEN
        RAISE EXCEPTION 'this link has another owner' USING ERRCODE = 'RT002';
    END IF;
    PERFORM save_key_file_1(p_link, p_content, p_holder);
END $$;

CREATE TABLE commands (  -- what one node asks of the owner of a link; deleted once it is answered, or given up
    id text PRIMARY KEY,    -- chosen by the asker, who may have to send it twice
    user_id text COLLATE "C" NOT NULL,
    bot_id text COLLATE "C" NOT NULL,
    command text NOT NULL,  -- JSON
    asker text NOT NULL,
    ends timestamptz NOT NULL,
    taken_by text,
    answer text             -- JSON
);

-- What is asked of this node's links. Each is handed out once.
CREATE FUNCTION take_commands_1(p_node text, p_fence bigint)
RETURNS TABLE (id text, user_id text, bot_id text, command text, asker text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    RETURN QUERY UPDATE commands c SET taken_by = p_node FROM links l
        WHERE c.taken_by IS NULL AND c.ends > clock_timestamp()
            AND l.user_id = c.user_id AND l.bot_id = c.bot_id AND l.owner = p_node
        RETURNING c.id, c.user_id::text, c.bot_id::text, c.command, c.asker;
END $$;
