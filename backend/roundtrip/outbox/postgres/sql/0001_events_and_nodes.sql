-- Times are milliseconds since the epoch by the database's clock, except where a type says otherwise.
-- Functions carry a number: a later migration that changes one adds the next number beside it, for nodes of the version
-- before are still calling the old one.

CREATE SEQUENCE fences;

CREATE TABLE nodes (  -- programs that use this store; a row without a lease is of a dead one
    node_id text PRIMARY KEY,
    session text NOT NULL,  -- of one process: a program that starts again under its old name is another
    slot integer NOT NULL UNIQUE,
    fence bigint NOT NULL,
    lease_until timestamptz NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE keys (
    key_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    bot_id text COLLATE "C" NOT NULL,
    last_seq bigint NOT NULL,
    may_be_pending integer NOT NULL,  -- a bit for each type of which an event may be pending
    may_have_been integer NOT NULL,   -- the same before the newest batch
    UNIQUE (user_id, bot_id)
) WITH (fillfactor = 50);  -- room for a new version of a row on its own page, so that no index changes with a seq

CREATE TABLE events (
    key_id bigint NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    type smallint NOT NULL,
    link_id text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL,
    traceparent text NOT NULL,
    body bytea,  -- what follows the seq in the event's JSON
    outcome smallint NOT NULL DEFAULT 0,
    resolved_at bigint,
    attempts text NOT NULL DEFAULT '[]',
    PRIMARY KEY (key_id, seq),
    CHECK ((outcome = 0) = (body IS NOT NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);
CREATE UNIQUE INDEX events_id ON events (id);  -- ids begin with the time: new ones go to its end, however long it is
CREATE INDEX events_pending ON events (key_id, seq) WHERE outcome = 0;
CREATE INDEX events_expiry ON events (expires_at) WHERE outcome = 0;
CREATE INDEX events_age ON events (created_at) WHERE outcome = 0;

CREATE TABLE totals (  -- sums of all events ever stored; each writer adds to rows of its own, so that none waits
    slot integer NOT NULL,
    type smallint NOT NULL,
    outcome smallint NOT NULL,  -- 0: created
    n bigint NOT NULL,
    PRIMARY KEY (slot, type, outcome)
) WITH (fillfactor = 50);

CREATE TABLE probe (slot integer PRIMARY KEY, at bigint NOT NULL) WITH (fillfactor = 50);

CREATE FUNCTION now_ms_1() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- A node joins. Those whose lease has ended are removed first, once their transactions under way have ended: what they
-- write later is refused, because their fence is gone. With p_alone, a live node beside it is a refusal.
CREATE FUNCTION join_1(p_node text, p_session text, p_lease double precision, p_alone boolean,
    OUT o_fence bigint, OUT o_slot integer, OUT o_now bigint, OUT o_holder text, OUT o_left double precision)
LANGUAGE plpgsql AS $$
DECLARE
    dead text;
BEGIN
    PERFORM pg_advisory_xact_lock(1701, 0);
    FOR dead IN SELECT node_id FROM nodes WHERE lease_until <= clock_timestamp() ORDER BY node_id LOOP
        PERFORM pg_advisory_xact_lock(1702, hashtext(dead));
        DELETE FROM nodes WHERE node_id = dead AND lease_until <= clock_timestamp();
    END LOOP;
    o_now := now_ms_1();
    SELECT node_id, extract(epoch FROM lease_until - clock_timestamp()) INTO o_holder, o_left
        FROM nodes WHERE p_alone OR node_id = p_node ORDER BY lease_until DESC LIMIT 1;
    IF o_holder IS NOT NULL THEN
        RETURN;
    END IF;
    o_fence := nextval('fences');
    SELECT min(s) INTO o_slot FROM generate_series(0, (SELECT count(*) FROM nodes)::integer) s
        WHERE s NOT IN (SELECT slot FROM nodes);
    INSERT INTO nodes (node_id, session, slot, fence, lease_until)
        VALUES (p_node, p_session, o_slot, o_fence, clock_timestamp() + make_interval(secs => p_lease));
END $$;

-- A connection was lost: what it had under way ends first, what it may still send is refused by the new fence. NULL when
-- the node is no longer in the table. Not the old fence but the session tells who asks: the answer to an earlier call may
-- have been lost.
CREATE FUNCTION refence_1(p_node text, p_session text, OUT o_fence bigint, OUT o_now bigint)
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1702, hashtext(p_node));
    UPDATE nodes SET fence = nextval('fences') WHERE node_id = p_node AND session = p_session
        RETURNING fence INTO o_fence;
    o_now := now_ms_1();
END $$;

-- To be called first in every transaction that writes.
CREATE FUNCTION require_fence_1(p_node text, p_fence bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1702, hashtext(p_node));
    IF NOT EXISTS (SELECT FROM nodes WHERE node_id = p_node AND fence = p_fence) THEN
        RAISE EXCEPTION 'this node lost its lease' USING ERRCODE = 'RT001';
    END IF;
END $$;

-- Renews a lease; the answer is whether the node still had it.
CREATE FUNCTION renew_1(p_node text, p_session text, p_lease double precision) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE nodes SET lease_until = clock_timestamp() + make_interval(secs => p_lease)
        WHERE node_id = p_node AND session = p_session AND lease_until > clock_timestamp();
    RETURN FOUND;
END $$;

CREATE FUNCTION add_totals_1(p_slot integer, p_types integer[], p_outcomes integer[], p_counts bigint[])
RETURNS void LANGUAGE sql AS $$
    INSERT INTO totals SELECT p_slot, t, o, n FROM unnest(p_types, p_outcomes, p_counts) AS c (t, o, n) WHERE n > 0
    ON CONFLICT (slot, type, outcome) DO UPDATE SET n = totals.n + excluded.n
$$;

CREATE TABLE links (
    user_id text COLLATE "C" NOT NULL,
    bot_id text COLLATE "C" NOT NULL,
    link_id text NOT NULL UNIQUE,
    state text NOT NULL,
    paired boolean NOT NULL,
    record text NOT NULL,   -- JSON of the whole record
    version bigint NOT NULL,  -- a late write of a lost connection changes nothing
    PRIMARY KEY (user_id, bot_id)
);

CREATE FUNCTION save_links_1(l_user text[], l_bot text[], l_link text[], l_state text[], l_paired boolean[],
    l_record text[], l_version bigint[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO links (user_id, bot_id, link_id, state, paired, record, version)
    SELECT u, b, link, state, paired, record, version
    FROM unnest(l_user, l_bot, l_link, l_state, l_paired, l_record, l_version)
        AS r (u, b, link, state, paired, record, version)
    ORDER BY u, b
    ON CONFLICT (user_id, bot_id) DO UPDATE SET link_id = excluded.link_id, state = excluded.state,
        paired = excluded.paired, record = excluded.record, version = excluded.version
    WHERE links.version < excluded.version
$$;

-- One batch, in one transaction: attempts, ends, upgrades, then new events (their keys sorted, each once), then what
-- those supersede. Arrays of one letter belong together. `o_last` is each key's seq after the batch.
CREATE FUNCTION write_batch_1(
    p_node text, p_fence bigint, p_slot integer, p_now bigint,
    k_users text[], k_bots text[], k_counts integer[], k_clears integer[], k_sets integer[],
    e_key integer[], e_ord integer[], e_id uuid[], e_type integer[], e_link text[], e_created bigint[],
    e_expires bigint[], e_trace text[], e_body bytea[],
    s_key integer[], s_types integer[], s_ord integer[],
    r_key bigint[], r_seq bigint[], r_attempts text[],
    x_key bigint[], x_seq bigint[], x_outcome integer[], x_at bigint[], x_attempts text[],
    u_key bigint[], u_seq bigint[], u_at bigint[],
    c_types integer[], c_counts bigint[], p_created integer,  -- of the new events: sums, and a bit for each type
    l_user text[], l_bot text[], l_link text[], l_state text[], l_paired boolean[], l_record text[], l_version bigint[],
    p_check boolean,
    OUT o_keys bigint[], OUT o_last bigint[], OUT o_may integer[],
    OUT o_types integer[], OUT o_outcomes integer[], OUT o_counts bigint[],
    OUT o_ended_keys bigint[], OUT o_ended_seqs bigint[], OUT o_ended_types integer[],
    OUT o_oldest bigint)
LANGUAGE plpgsql AS $$
DECLARE
    v_users text[];
    v_bots text[];
    v_before integer[];
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    IF cardinality(r_key) > 0 THEN
        UPDATE events e SET attempts = r.attempts FROM unnest(r_key, r_seq, r_attempts) AS r (k, s, attempts)
            WHERE e.key_id = r.k AND e.seq = r.s AND e.outcome = 0;
    END IF;
    IF cardinality(x_key) > 0 THEN
        WITH ended AS (
            UPDATE events e SET outcome = x.outcome, resolved_at = x.at, attempts = x.attempts, body = NULL
            FROM unnest(x_key, x_seq, x_outcome, x_at, x_attempts) AS x (k, s, outcome, at, attempts)
            WHERE e.key_id = x.k AND e.seq = x.s AND e.outcome = 0 RETURNING e.type, e.outcome
        ), sums AS (SELECT type, outcome, count(*) AS n FROM ended GROUP BY type, outcome)
        SELECT array_agg(type), array_agg(outcome), array_agg(n) INTO o_types, o_outcomes, o_counts FROM sums;
    END IF;
    IF cardinality(u_key) > 0 THEN
        UPDATE events e SET outcome = 1,
            attempts = jsonb_set(e.attempts::jsonb, '{-1,ack_at}', to_jsonb(u.at))::text
            FROM unnest(u_key, u_seq, u_at) AS u (k, s, at)
            WHERE e.key_id = u.k AND e.seq = u.s AND e.outcome = 2;
    END IF;
    IF cardinality(e_key) > 0 THEN
        WITH changed AS (
            INSERT INTO keys AS k (user_id, bot_id, last_seq, may_be_pending, may_have_been)
            SELECT c.u, c.b, c.n, c.sets, c.clears
            FROM unnest(k_users, k_bots, k_counts, k_sets, k_clears) WITH ORDINALITY AS c (u, b, n, sets, clears, o)
            ORDER BY c.o
            ON CONFLICT (user_id, bot_id) DO UPDATE SET
                last_seq = k.last_seq + excluded.last_seq,
                may_be_pending = k.may_be_pending & ~excluded.may_have_been | excluded.may_be_pending,
                may_have_been = k.may_be_pending
            RETURNING key_id, user_id, bot_id, last_seq, may_be_pending, may_have_been
        )
        SELECT array_agg(key_id), array_agg(last_seq), array_agg(may_be_pending), array_agg(may_have_been),
            array_agg(user_id), array_agg(bot_id)
        INTO o_keys, o_last, o_may, v_before, v_users, v_bots FROM changed;
        IF v_users <> k_users OR v_bots <> k_bots THEN
            RAISE EXCEPTION 'the keys of a batch came back in another order';
        END IF;
        INSERT INTO events (key_id, seq, id, type, link_id, created_at, expires_at, traceparent, body)
        SELECT o_keys[e.k], o_last[e.k] - k_counts[e.k] + e.o, e.id, e.type, e.link, e.created, e.expires, e.trace,
            e.body
        FROM unnest(e_key, e_ord, e_id, e_type, e_link, e_created, e_expires, e_trace, e_body)
            AS e (k, o, id, type, link, created, expires, trace, body);
        WITH ended AS (
            UPDATE events e SET outcome = 3, resolved_at = p_now, body = NULL
            FROM (
                SELECT o_keys[s.k] AS key_id, o_last[s.k] - k_counts[s.k] + s.o AS before, s.types
                FROM unnest(s_key, s_types, s_ord) AS s (k, types, o)
                WHERE s.types & (v_before[s.k] | p_created) <> 0
            ) AS n
            WHERE e.key_id = n.key_id AND e.seq < n.before AND e.outcome = 0 AND (n.types >> e.type) & 1 = 1
            RETURNING e.key_id, e.seq, e.type
        )
        SELECT array_agg(key_id), array_agg(seq), array_agg(type)
        INTO o_ended_keys, o_ended_seqs, o_ended_types FROM ended;
        PERFORM add_totals_1(p_slot, c_types, array_fill(0, ARRAY[cardinality(c_types)]), c_counts);
        IF o_ended_types IS NOT NULL THEN
            PERFORM add_totals_1(p_slot, array_agg(t), array_agg(3), array_agg(n))
            FROM (SELECT t, count(*) AS n FROM unnest(o_ended_types) t GROUP BY t) AS c;
        END IF;
    END IF;
    IF cardinality(l_user) > 0 THEN
        PERFORM save_links_1(l_user, l_bot, l_link, l_state, l_paired, l_record, l_version);
    END IF;
    IF o_types IS NOT NULL THEN
        PERFORM add_totals_1(p_slot, o_types, o_outcomes, o_counts);
    END IF;
    IF p_check THEN
        INSERT INTO probe VALUES (p_slot, p_now) ON CONFLICT (slot) DO UPDATE SET at = excluded.at;
    END IF;
    SELECT min(created_at) INTO o_oldest FROM events WHERE outcome = 0;
END $$;

-- Ends at most p_limit events that have expired.
CREATE FUNCTION expire_1(p_node text, p_fence bigint, p_slot integer, p_now bigint, p_limit integer)
RETURNS TABLE (user_id text, bot_id text, seq bigint, type integer) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    IF NOT pg_try_advisory_xact_lock(1703, 1) THEN
        RETURN;  -- another node is at it
    END IF;
    RETURN QUERY WITH ended AS (
        UPDATE events SET outcome = 4, resolved_at = p_now, body = NULL WHERE (key_id, seq) IN (
            SELECT key_id, seq FROM events WHERE outcome = 0 AND expires_at <= p_now
            ORDER BY expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED
        ) AND outcome = 0 RETURNING key_id, seq, type
    ), added AS (
        INSERT INTO totals SELECT p_slot, type, 4, count(*) FROM ended GROUP BY type
        ON CONFLICT (slot, type, outcome) DO UPDATE SET n = totals.n + excluded.n
    )
    SELECT k.user_id::text, k.bot_id::text, e.seq, e.type::integer FROM ended e JOIN keys k ON k.key_id = e.key_id;
END $$;

-- Deletes at most p_limit ended events of which p_before is the newest time of their end. Their ids are older still, so
-- that the search begins at the oldest and needs no index of its own.
CREATE FUNCTION forget_1(p_node text, p_fence bigint, p_bound uuid, p_before bigint, p_limit integer)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    IF NOT pg_try_advisory_xact_lock(1703, 2) THEN
        RETURN 0;
    END IF;
    DELETE FROM events WHERE id IN (
        SELECT id FROM events WHERE id < p_bound AND outcome <> 0 AND resolved_at <= p_before ORDER BY id LIMIT p_limit
    );
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN n;
END $$;
