-- The keys that seal: one for each table owner, in a table of its own (fence_prepare).

-- A random key for AES-128. Version and variant bits of a UUID are not random: two of them have more than enough that are.
CREATE FUNCTION scrim.new_key() RETURNS bytea
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT substring(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())) FOR 16)
$$;

-- ALTER MASKING POLICY ... ROTATE KEY. The key is changed in its place, so each statement seals with the one that its snapshot
-- shows, and none is locked out. The old one stays known to proxies for those that do not see this transaction yet.
CREATE FUNCTION scrim.rotate_key(policy_name text, relation regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner oid;
    key_table text;
    others text;
BEGIN
    PERFORM scrim.require_policy_admin(coalesce((SELECT p.features_of FROM scrim_state.protections p WHERE p.relation = rotate_key.relation), relation));
    PERFORM scrim.fence_serialize();
    SELECT x.key_owner INTO owner FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id WHERE x.relation = rotate_key.relation AND p.name = policy_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object', HINT = 'SHOW MASKING POLICIES lists them.';
    END IF;
    SELECT string_agg(format('%I on %s', p.name, x.relation::regclass), ', ' ORDER BY p.id) INTO others
      FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id
     WHERE x.key_owner = owner AND (x.relation, p.name) <> (rotate_key.relation, policy_name) AND x.along_with IS NULL AND p.sql_mask IS NULL;
    IF others IS NOT NULL THEN
        RAISE NOTICE 'the new key is also that of %', others USING HINT = 'Policies on tables of one owner share a key.';
    END IF;

    -- A snapshot that does not see the retiring transaction has an xmin that is not above it. It is a backend's, or that of a standby
    -- which sends feedback. The hour is for those that nobody here knows of: a standby that lags, rows on their way to a proxy.
    -- The statistics may have been read earlier in this transaction, and would be those of then.
    PERFORM pg_stat_clear_snapshot();
    DELETE FROM scrim_state.retired_keys r
     WHERE r.retired_at < clock_timestamp() - interval '1 hour'
       AND NOT EXISTS (SELECT 1 FROM (SELECT a.backend_xmin FROM pg_stat_activity a UNION ALL SELECT s.xmin FROM pg_replication_slots s) held(xmin)
                        WHERE age(held.xmin) >= age(r.retired_by::xid));
    key_table := 'key_' || owner;
    EXECUTE format('INSERT INTO scrim_state.retired_keys (key_owner, key) SELECT $1, k.key FROM scrim_state.%I k', key_table) USING owner;
    EXECUTE format('UPDATE scrim_state.%I SET key = scrim.new_key()', key_table);
    EXECUTE format('ANALYZE scrim_state.%I', key_table);  -- old versions of the row must not count as rows
END $$;
