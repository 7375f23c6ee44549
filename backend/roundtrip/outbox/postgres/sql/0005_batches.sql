-- The batch function again, for speed (0001). Two things make it so.
--
-- Plans: `outcome = 0` lets the planner read a whole index of pending events and compare each with each row of the batch,
-- which its estimates for an almost empty table prefer. `outcome + 0 = 0` means the same and matches no partial index,
-- so that rows are found by their primary key, one by one; OFFSET 0 keeps a subquery where it stands. `unnest` in the
-- list of what is selected makes row after row, in FROM it would store them all first. Without sorts, what is pending
-- of a key is read by the one index that has it in order, and never by an index of all that is pending.
--
-- Arguments: numbers as the text of an array, texts in one with a line end between them. A driver makes either of a
-- list in one step, where it would look at each element of an array. No text holds a line end, for JSON escapes it; a
-- single empty text arrives as no text at all.

CREATE FUNCTION lines_1(p text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    $$ SELECT string_to_array(p, E'\n') $$;

CREATE FUNCTION write_batch_3(
    p_node text, p_fence bigint, p_slot integer, p_now bigint,
    k_users text, k_bots text, k_counts text, k_clears text, k_sets text,
    e_key text, e_ord text, e_id text, e_type text, e_link text, e_created text, e_expires text, e_trace text,
    e_body text,
    s_key text, s_types text, s_ord text,
    r_key text, r_seq text, r_attempts text,
    x_key text, x_seq text, x_outcome text, x_at text, x_attempts text,
    u_key text, u_seq text, u_at text,
    c_types text, c_counts text, p_created integer,  -- of the new events: sums, and a bit for each type
    l_user text[], l_bot text[], l_link text[], l_state text[], l_paired boolean[], l_record text[], l_version bigint[],
    p_check boolean,
    p_since bigint,  -- nothing that is pending is older: entries of ended events before it need not be passed over
    OUT o_keys bigint[], OUT o_last bigint[], OUT o_may integer[],
    OUT o_types integer[], OUT o_outcomes integer[], OUT o_counts bigint[],
    OUT o_ended_keys bigint[], OUT o_ended_seqs bigint[], OUT o_ended_types integer[],
    OUT o_oldest bigint)
LANGUAGE plpgsql SET enable_sort = off AS $$
DECLARE
    v_users text[];
    v_bots text[];
    v_counts integer[];
    v_before integer[];
BEGIN
    PERFORM require_fence_1(p_node, p_fence);
    IF r_key <> '{}' THEN
        UPDATE events e SET attempts = r.attempts
            FROM unnest(r_key::bigint[], r_seq::bigint[], lines_1(r_attempts)) AS r (k, s, attempts)
            WHERE e.key_id = r.k AND e.seq = r.s AND e.outcome + 0 = 0;
    END IF;
    IF x_key <> '{}' THEN
        WITH ended AS (
            UPDATE events e SET outcome = x.outcome, resolved_at = x.at, attempts = x.attempts, body = NULL
            FROM (
                SELECT unnest(x_key::bigint[]) AS k, unnest(x_seq::bigint[]) AS s,
                    unnest(x_outcome::smallint[]) AS outcome, unnest(x_at::bigint[]) AS at,
                    unnest(lines_1(x_attempts)) AS attempts OFFSET 0
            ) AS x
            WHERE e.key_id = x.k AND e.seq = x.s AND e.outcome + 0 = 0 RETURNING e.type, e.outcome
        ), sums AS (SELECT type, outcome, count(*) AS n FROM ended GROUP BY type, outcome)
        SELECT array_agg(type), array_agg(outcome), array_agg(n) INTO o_types, o_outcomes, o_counts FROM sums;
    END IF;
    IF u_key <> '{}' THEN
        UPDATE events e SET outcome = 1,
            attempts = jsonb_set(e.attempts::jsonb, '{-1,ack_at}', to_jsonb(u.at))::text
            FROM unnest(u_key::bigint[], u_seq::bigint[], u_at::bigint[]) AS u (k, s, at)
            WHERE e.key_id = u.k AND e.seq = u.s AND e.outcome + 0 = 2;
    END IF;
    IF e_key <> '{}' THEN
        v_counts := k_counts::integer[];
        WITH changed AS (
            INSERT INTO keys AS k (user_id, bot_id, last_seq, may_be_pending, may_have_been)
            SELECT c.u, c.b, c.n, c.sets, c.clears
            FROM unnest(lines_1(k_users), lines_1(k_bots), v_counts, k_sets::integer[], k_clears::integer[])
                WITH ORDINALITY AS c (u, b, n, sets, clears, o)
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
        IF v_users <> lines_1(k_users) OR v_bots <> lines_1(k_bots) THEN
            RAISE EXCEPTION 'the keys of a batch came back in another order';
        END IF;
        INSERT INTO events (key_id, seq, id, type, link_id, created_at, expires_at, traceparent, body)
        SELECT o_keys[e.k], o_last[e.k] - v_counts[e.k] + e.o, e.id, e.type, coalesce(e.link, ''), e.created, e.expires,
            coalesce(e.trace, ''), convert_to(e.body, 'UTF8')
        FROM (
            SELECT unnest(e_key::integer[]) AS k, unnest(e_ord::integer[]) AS o, unnest(lines_1(e_id)::uuid[]) AS id,
                unnest(e_type::smallint[]) AS type, unnest(lines_1(e_link)) AS link,
                unnest(e_created::bigint[]) AS created, unnest(e_expires::bigint[]) AS expires,
                unnest(lines_1(e_trace)) AS trace, unnest(lines_1(e_body)) AS body
        ) AS e;
        WITH superseded AS MATERIALIZED (
            SELECT n.key_id, p.seq
            FROM (
                SELECT o_keys[s.k] AS key_id, o_last[s.k] - v_counts[s.k] + s.o AS before, s.types
                FROM unnest(s_key::integer[], s_types::integer[], s_ord::integer[]) AS s (k, types, o)
                WHERE s.types & (v_before[s.k] | p_created) <> 0
            ) AS n CROSS JOIN LATERAL (
                SELECT e.seq FROM events e
                WHERE e.key_id = n.key_id AND e.seq < n.before AND e.outcome = 0 AND (n.types >> e.type) & 1 = 1
                ORDER BY e.key_id, e.seq OFFSET 0
            ) AS p
        ), ended AS (
            UPDATE events e SET outcome = 3, resolved_at = p_now, body = NULL
            FROM superseded AS s WHERE e.key_id = s.key_id AND e.seq = s.seq AND e.outcome + 0 = 0
            RETURNING e.key_id, e.seq, e.type
        )
        SELECT array_agg(key_id), array_agg(seq), array_agg(type)
        INTO o_ended_keys, o_ended_seqs, o_ended_types FROM ended;
        PERFORM add_totals_1(p_slot, c_types::integer[], array_fill(0, ARRAY[cardinality(c_types::integer[])]),
            c_counts::bigint[]);
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
    SELECT min(created_at) INTO o_oldest FROM events WHERE outcome = 0 AND created_at >= p_since;
END $$;
