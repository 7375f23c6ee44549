-- Which node has sockets of which key, when a key's last one left, and which keys a node is to look at.
--
-- These three lose nothing that matters in a crash: their commits are not waited for, and each node writes what it has
-- again whenever it connects.

CREATE TABLE presence (
    user_id text COLLATE "C" NOT NULL,
    bot_id text COLLATE "C" NOT NULL,
    node_id text NOT NULL REFERENCES nodes ON DELETE CASCADE,  -- ends with its node
    sockets integer NOT NULL,
    PRIMARY KEY (user_id, bot_id, node_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX presence_node ON presence (node_id);

CREATE TABLE departures (  -- of keys that have no socket any more, until they have one again or a day has passed
    user_id text COLLATE "C" NOT NULL,
    bot_id text COLLATE "C" NOT NULL,
    left_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, bot_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX departures_age ON departures (left_at);

CREATE UNLOGGED TABLE announcements (  -- a node takes its own out when it is signalled to
    node_id text NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    bot_id text COLLATE "C" NOT NULL,
    shared boolean NOT NULL  -- whether several nodes have sockets of the key
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX announcements_node ON announcements (node_id);

-- A node's sockets are gone with it. One that died is removed some time after its lease, which is when they went.
CREATE FUNCTION departed_1() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO departures (user_id, bot_id, left_at)
    SELECT user_id, bot_id, least(OLD.lease_until, clock_timestamp()) FROM presence WHERE node_id = OLD.node_id
    ORDER BY user_id, bot_id
    ON CONFLICT (user_id, bot_id) DO UPDATE SET left_at = greatest(departures.left_at, excluded.left_at);
    DELETE FROM announcements WHERE node_id = OLD.node_id;
    RETURN OLD;
END $$;
CREATE TRIGGER departed BEFORE DELETE ON nodes FOR EACH ROW EXECUTE FUNCTION departed_1();

-- Whether another node is alive. To be called at the end of a transaction that asked for the fence: a node that joins
-- waits for the end of those that began before its row was there, so that none of them overlooks it.
CREATE FUNCTION others_1(p_node text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM nodes WHERE node_id <> p_node AND lease_until > clock_timestamp());
END $$;

-- Writes how many sockets of these keys a node has, 0 for a key whose last one left. Whether another node is alive.
CREATE FUNCTION presence_1(p_node text, p_fence bigint, p_users text[], p_bots text[], p_sockets integer[])
RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM require_fence_1(p_node, p_fence);
    INSERT INTO presence AS p (user_id, bot_id, node_id, sockets)
    SELECT u, b, p_node, n FROM unnest(p_users, p_bots, p_sockets) AS r (u, b, n) WHERE n > 0 ORDER BY u, b
    ON CONFLICT (user_id, bot_id, node_id) DO UPDATE SET sockets = excluded.sockets
    WHERE p.sockets <> excluded.sockets;
    WITH gone AS (
        DELETE FROM presence p USING unnest(p_users, p_bots, p_sockets) AS r (u, b, n)
        WHERE r.n = 0 AND p.user_id = r.u AND p.bot_id = r.b AND p.node_id = p_node
        RETURNING p.user_id, p.bot_id
    )
    INSERT INTO departures (user_id, bot_id, left_at)
    SELECT user_id, bot_id, clock_timestamp() FROM gone ORDER BY user_id, bot_id
    ON CONFLICT (user_id, bot_id) DO UPDATE SET left_at = greatest(departures.left_at, excluded.left_at);
    RETURN others_1(p_node);
END $$;

-- Where the sockets of these keys are beside this node (whose own are p_locals), and an announcement to each node that
-- has some. `o_bots` are the bot ids under which the same user has sockets there, `o_left` for how many seconds the key
-- has had none anywhere else. To be called after the commit of what is announced.
CREATE FUNCTION route_1(p_node text, p_users text[], p_bots text[], p_locals boolean[])
RETURNS TABLE (o_nodes text[], o_bots text[], o_left double precision) LANGUAGE plpgsql AS $$
DECLARE
    v_user text;
    v_bot text;
    v_at integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR v_at IN 1 .. cardinality(p_users) LOOP
        v_user := p_users[v_at];
        v_bot := p_bots[v_at];
        o_bots := NULL;
        o_left := NULL;
        SELECT array_agg(p.node_id) INTO o_nodes FROM presence p JOIN nodes n ON n.node_id = p.node_id
            WHERE p.user_id = v_user AND p.bot_id = v_bot AND p.node_id <> p_node
                AND n.lease_until > clock_timestamp();
        IF o_nodes IS NOT NULL THEN
            INSERT INTO announcements (node_id, user_id, bot_id, shared)
                SELECT node, v_user, v_bot, p_locals[v_at] OR cardinality(o_nodes) > 1 FROM unnest(o_nodes) AS node;
        ELSIF NOT p_locals[v_at] THEN
            SELECT array_agg(bot_id) INTO o_bots FROM (
                SELECT DISTINCT p.bot_id FROM presence p JOIN nodes n ON n.node_id = p.node_id
                WHERE p.user_id = v_user AND p.bot_id <> v_bot AND p.node_id <> p_node
                    AND n.lease_until > clock_timestamp()
                ORDER BY p.bot_id LIMIT 20
            ) AS other;
            SELECT extract(epoch FROM clock_timestamp() - max(at)) INTO o_left FROM (
                SELECT left_at AS at FROM departures WHERE user_id = v_user AND bot_id = v_bot
                UNION ALL
                SELECT n.lease_until FROM presence p JOIN nodes n ON n.node_id = p.node_id  -- died, not yet removed
                WHERE p.user_id = v_user AND p.bot_id = v_bot AND n.lease_until <= clock_timestamp()
            ) AS gone;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

-- Takes a node's announcements: each key once, with its newest seq.
CREATE FUNCTION take_announcements_1(p_node text)
RETURNS TABLE (user_id text, bot_id text, last_seq bigint, shared boolean) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN QUERY
    WITH taken AS (DELETE FROM announcements WHERE node_id = p_node RETURNING user_id, bot_id, shared),
    each AS (SELECT user_id, bot_id, bool_or(shared) AS shared FROM taken GROUP BY user_id, bot_id)
    SELECT e.user_id, e.bot_id, coalesce(k.last_seq, 0), e.shared
    FROM each e LEFT JOIN keys k ON k.user_id = e.user_id AND k.bot_id = e.bot_id;
END $$;

-- Several nodes may try the same event. Each writes the attempts that it knows, the newest being its own: of these its
-- own are taken, and of what is stored those of the others stay, before them.
CREATE FUNCTION merge_attempts_1() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_new jsonb := NEW.attempts::jsonb;
    v_node text := v_new -> -1 ->> 'node';
    v_others jsonb;
BEGIN
    SELECT jsonb_agg(a ORDER BY o) INTO v_others FROM jsonb_array_elements(OLD.attempts::jsonb) WITH ORDINALITY AS s (a, o)
        WHERE a ->> 'node' IS DISTINCT FROM v_node;
    IF v_others IS NOT NULL THEN
        NEW.attempts := v_others || coalesce((
            SELECT jsonb_agg(a ORDER BY o) FROM jsonb_array_elements(v_new) WITH ORDINALITY AS s (a, o)
            WHERE a ->> 'node' IS NOT DISTINCT FROM v_node
        ), '[]');
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER merge_attempts BEFORE UPDATE OF attempts ON events FOR EACH ROW
    WHEN (OLD.attempts <> '[]' AND OLD.attempts <> NEW.attempts AND strpos(OLD.attempts, '"node"') > 0)
    EXECUTE FUNCTION merge_attempts_1();
