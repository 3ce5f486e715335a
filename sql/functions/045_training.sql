-- Training: jobs, the one slot, and the role that reads. Functions that say SECURITY DEFINER are for everybody who is allowed what
-- they do; the others read scrim_state with the rights of the role that ran init, and are of use to workers only.

CREATE VIEW scrim.training_jobs AS
    SELECT t.job AS id, t.encoder,
           CASE WHEN t.version IS NOT NULL THEN 'completed'
                WHEN t.cancel AND r.state = 'cancelled' THEN 'cancelled'
                WHEN r.state IN ('cancelled', 'discarded') THEN 'failed'
                WHEN r.state = 'running' AND t.step IS NOT NULL THEN 'running'
                ELSE 'queued' END AS state,
           r.attempt, r.max_attempts, t.step, t.epoch, t.epochs, t.loss, t.rows_per_second, date_trunc('second', t.eta) AS eta, t.version, t.code, t.error, t.hint, t.notices, t.reason,
           (SELECT o.rolname::text FROM pg_catalog.pg_roles o WHERE o.oid = t.requester) AS requested_by,
           r.created_at, r.attempted_at AS started_at, r.finalized_at AS finished_at
      FROM scrim_state.training_jobs t JOIN scrim_state.river_job r ON r.id = t.job;

-- What has code that runs where a relation is read, and whose it is: what a view reads and calls, parts of a table, and what they call in
-- indexes, constraints, policies, defaults and statistics.
CREATE FUNCTION scrim.code_below(relation oid) RETURNS TABLE (owner oid, object text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE below(oid) AS (
        SELECT relation
        UNION
        SELECT n.oid FROM below b JOIN pg_class c ON c.oid = b.oid,
               LATERAL (SELECT d.refobjid
                          FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
                         WHERE r.ev_class = b.oid AND c.relkind = 'v'
                        UNION ALL
                        SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = b.oid) n(oid)),
    used(classid, objid) AS (
        SELECT 'pg_rewrite'::regclass::oid, r.oid FROM below b JOIN pg_class c ON c.oid = b.oid AND c.relkind = 'v' JOIN pg_rewrite r ON r.ev_class = b.oid
        UNION
        SELECT d.classid, d.objid FROM below b JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = b.oid
         WHERE d.classid IN ('pg_class'::regclass, 'pg_constraint'::regclass, 'pg_policy'::regclass, 'pg_attrdef'::regclass, 'pg_statistic_ext'::regclass)
        UNION
        SELECT d.refclassid, d.refobjid FROM used u JOIN pg_depend d ON d.classid = u.classid AND d.objid = u.objid
         WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass))
    SELECT c.relowner, c.oid::regclass::text FROM below b JOIN pg_class c ON c.oid = b.oid WHERE c.oid <> relation
    UNION ALL
    SELECT p.proowner, p.oid::regprocedure::text FROM used u JOIN pg_proc p ON u.classid = 'pg_proc'::regclass AND p.oid = u.objid
$$;

-- Raises unless a role may train on these columns: it must be able to SELECT them, all rows of them.
CREATE FUNCTION scrim.check_source(requester oid, source regclass, features text[], passthrough text[], target text, allow_identifiers boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel pg_class;
    bad text;
    stranger record;
BEGIN
    SELECT c.* INTO rel FROM pg_class c WHERE c.oid = source;
    IF NOT FOUND OR rel.relkind NOT IN ('r', 'p', 'v', 'm', 'f') THEN
        RAISE EXCEPTION 'cannot train on %: it is not a table or view', coalesce(source::text, 'a table that was dropped') USING ERRCODE = 'wrong_object_type';
    END IF;
    IF rel.relpersistence = 't' THEN
        RAISE EXCEPTION 'cannot train on %: it is temporary', source USING ERRCODE = 'feature_not_supported', HINT = 'Only the session that made it can read it.';
    END IF;
    IF scrim.runs_as_invoker(source) THEN
        RAISE EXCEPTION 'cannot train on %: it is a view with security_invoker', source USING ERRCODE = 'feature_not_supported',
            HINT = 'Rows are read by a role that may read the features only, not what a view reads. Train on the table, or on a view that runs with its owner''s rights.';
    END IF;
    PERFORM scrim.check_features(source, scrim.attnums(source, features));
    SELECT f INTO bad FROM unnest(features || target) WITH ORDINALITY AS t(f, ord) WHERE NOT has_column_privilege(requester, source, f, 'SELECT') ORDER BY ord LIMIT 1;
    IF bad IS NOT NULL OR has_schema_privilege(requester, rel.relnamespace, 'USAGE') IS NOT TRUE THEN
        RAISE EXCEPTION 'permission denied for %', coalesce(format('column "%s" of relation %s', bad, source), format('schema %s', rel.relnamespace::regnamespace))
            USING ERRCODE = 'insufficient_privilege', HINT = 'Training reads what its requester may SELECT.';
    END IF;
    IF rel.relrowsecurity AND NOT EXISTS (
            SELECT 1 FROM pg_roles r WHERE r.oid = requester
               AND (r.rolsuper OR r.rolbypassrls OR (NOT rel.relforcerowsecurity AND pg_has_role(requester, rel.relowner, 'USAGE')))) THEN
        RAISE EXCEPTION 'permission denied for rows of %: it has row security', source USING ERRCODE = 'insufficient_privilege',
            HINT = 'Training reads all rows: only its owner, superusers and roles with BYPASSRLS can ask for it.';
    ELSIF rel.relrowsecurity AND rel.relforcerowsecurity AND NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = rel.relowner) THEN
        RAISE EXCEPTION 'cannot train on %: its row security is forced on its owner', source USING ERRCODE = 'feature_not_supported',
            HINT = 'Rows are read with no more rights than the owner''s. ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.';
    END IF;
    FOR stranger IN  -- Scrim's own session must not lend them the owner's rights
        SELECT b.object, r.rolname, r.oid FROM scrim.code_below(source) b JOIN pg_roles r ON r.oid = b.owner
         WHERE NOT r.rolsuper AND r.oid <> (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'scrim_state')
           AND (rel.relrowsecurity AND NOT pg_has_role(r.oid, rel.relowner, 'USAGE')
                OR EXISTS (SELECT 1 FROM unnest(features || target) f WHERE f IS NOT NULL AND NOT has_column_privilege(r.oid, source, f, 'SELECT')))
         ORDER BY 1 LIMIT 1
    LOOP
        RAISE EXCEPTION 'cannot train on %: % belongs to "%"', source, stranger.object, stranger.rolname USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'Its code would run where rows are read, and could see those that it may not read.',
            HINT = CASE WHEN NOT rel.relrowsecurity THEN format('GRANT SELECT ON %s TO %s, or train on a copy.', source, quote_ident(stranger.rolname)) END;
    END LOOP;
    PERFORM scrim.check_passthrough(requester, source, features, passthrough, allow_identifiers);
    PERFORM scrim.target_expression(source, target, 't');
END $$;

-- The training of an encoder that is queued or running, and not cancelled; NULL for none.
CREATE FUNCTION scrim.training_under_way(encoder_id bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT j.id FROM scrim.training_jobs j JOIN scrim_state.training_jobs t ON t.job = j.id
     WHERE t.encoder_id = training_under_way.encoder_id AND j.state IN ('queued', 'running') AND NOT t.cancel
$$;

-- Asks for a training, and returns its job. What a job is made of besides is read when it begins.
CREATE FUNCTION scrim.enqueue_training(encoder_id bigint, requester oid, reason text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enc scrim_state.encoders;
    active bigint;
    new_job bigint;
BEGIN
    SELECT e.* INTO STRICT enc FROM scrim_state.encoders e WHERE e.id = encoder_id FOR UPDATE;
    active := scrim.training_under_way(enc.id);
    IF active IS NOT NULL THEN
        RAISE EXCEPTION 'encoder "%" is being trained', enc.name USING ERRCODE = 'object_in_use',
            DETAIL = format('Training job %s is under way.', active), HINT = format('Wait for it, or CANCEL TRAINING JOB ''%s''.', active);
    END IF;
    INSERT INTO scrim_state.river_job (kind, queue, args, max_attempts)
    VALUES ('train', CASE enc.device WHEN 'cpu' THEN 'training' ELSE 'training_' || enc.device END,  -- workers ask for what they can do
            jsonb_build_object('encoder', enc.name), 3) RETURNING id INTO new_job;
    INSERT INTO scrim_state.training_jobs (job, encoder, encoder_id, requester, reason, epochs) VALUES (new_job, enc.name, enc.id, requester, reason, enc.epochs);
    RETURN new_job;
END $$;

-- CREATE ENCODER. Returns the training job, or NULL if IF NOT EXISTS found the encoder. It can be used when it is trained; if that fails
-- it is gone.
CREATE FUNCTION scrim.create_encoder(
    encoder text, source regclass, features text[], passthrough text[] DEFAULT '{}', latent_dims int DEFAULT 16, epochs int DEFAULT 100, batch_size int DEFAULT 256,
    seed bigint DEFAULT 0, device text DEFAULT 'cpu', allow_identifiers boolean DEFAULT false, max_leakage float8 DEFAULT NULL, target text DEFAULT NULL,
    if_not_exists boolean DEFAULT false, or_replace boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    requester oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user);
    old scrim_state.encoders;
    new_id bigint;
    bad record;
BEGIN
    PERFORM scrim.require_trainer();
    PERFORM scrim.check_encoder_name(encoder);
    SELECT e.* INTO old FROM scrim_state.encoders e WHERE e.name = encoder FOR UPDATE;
    IF FOUND AND if_not_exists THEN
        RAISE NOTICE 'encoder "%" already exists, skipping', encoder;
        RETURN NULL;
    ELSIF old.id IS NOT NULL AND NOT or_replace THEN
        RAISE EXCEPTION 'encoder "%" already exists', encoder USING ERRCODE = 'duplicate_object',
            HINT = 'TRAIN ENCODER makes a new version of it; DROP ENCODER removes it.';
    END IF;
    FOR bad IN
        SELECT x.what, x.value, x.most
          FROM (VALUES ('latent_dims', latent_dims, 1024), ('epochs', epochs, 10000), ('batch_size', batch_size, 8192)) AS x(what, value, most)
         WHERE (x.value BETWEEN 1 AND x.most) IS NOT TRUE
    LOOP
        RAISE EXCEPTION '% is outside the valid range of % (1 .. %)', coalesce(bad.value::text, 'NULL'), bad.what, bad.most USING ERRCODE = 'invalid_parameter_value';
    END LOOP;
    IF device IN ('cpu', 'cuda') IS NOT TRUE THEN
        RAISE EXCEPTION 'unrecognized device "%"', device USING ERRCODE = 'invalid_parameter_value', HINT = 'Devices are cpu and cuda.';
    ELSIF NOT (max_leakage > 0 AND max_leakage <= 1) THEN
        RAISE EXCEPTION '% is outside the valid range of max_leakage (above 0, up to 1)', max_leakage USING ERRCODE = 'invalid_parameter_value';
    ELSIF seed IS NULL OR allow_identifiers IS NULL THEN
        RAISE EXCEPTION 'seed and allow_identifiers must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    ELSIF cardinality(features) BETWEEN 1 AND 62 IS NOT TRUE THEN
        RAISE EXCEPTION '% features, at most 62 are possible', coalesce(cardinality(features), 0) USING ERRCODE = 'invalid_parameter_value', HINT = 'Train on fewer columns.';
    ELSIF (target IS NULL OR target = ANY (passthrough)) IS NOT TRUE THEN
        RAISE EXCEPTION 'target "%" is not a passthrough column', target USING ERRCODE = 'undefined_column';
    END IF;
    PERFORM scrim.check_source(requester, source, features, passthrough, target, allow_identifiers);
    IF old.id IS NOT NULL THEN
        PERFORM scrim.require_encoder(encoder);
        IF old.source = create_encoder.source AND old.feature_columns = features AND old.latent_dims = create_encoder.latent_dims
           AND old.device = create_encoder.device THEN  -- policies that use it can go on to
            UPDATE scrim_state.encoders e
               SET passthrough = coalesce(create_encoder.passthrough, '{}'), epochs = create_encoder.epochs, batch_size = create_encoder.batch_size, seed = create_encoder.seed,
                   allow_identifiers = create_encoder.allow_identifiers, max_leakage = create_encoder.max_leakage, target = create_encoder.target
             WHERE e.id = old.id;
            RETURN scrim.enqueue_training(old.id, requester, 'statement');
        END IF;
        PERFORM scrim.forget_encoder(encoder, false);
    END IF;
    INSERT INTO scrim_state.encoders (name, source, source_table, feature_columns, passthrough, latent_dims, epochs, batch_size, seed, device, allow_identifiers,
                                      max_leakage, target, created_by, creator)
    VALUES (encoder, source, source::text, features, coalesce(passthrough, '{}'), latent_dims, epochs, batch_size, seed, device, allow_identifiers,
            max_leakage, target, session_user, requester)
    RETURNING id INTO new_id;
    PERFORM scrim.check_one_name(encoder);
    RETURN scrim.enqueue_training(new_id, requester, 'statement');
END $$;

-- TRAIN ENCODER.
CREATE FUNCTION scrim.train_encoder(encoder text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enc scrim_state.encoders;
    requester oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user);
BEGIN
    PERFORM scrim.require_trainer();
    PERFORM scrim.require_encoder(encoder);
    SELECT e.* INTO STRICT enc FROM scrim_state.encoders e WHERE e.name = encoder;
    PERFORM scrim.check_source(requester, enc.source, enc.feature_columns, enc.passthrough, enc.target, enc.allow_identifiers);
    RETURN scrim.enqueue_training(enc.id, requester, 'statement');
END $$;

-- CREATE OR REPLACE ENCODER for migration tools, with the fewest words.
CREATE FUNCTION scrim.train_encoder(
    name text, source_table regclass, feature_columns text[], latent_dims int DEFAULT 16, epochs int DEFAULT 100, batch_size int DEFAULT 256,
    passthrough_columns text[] DEFAULT '{}', allow_identifiers boolean DEFAULT false) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT scrim.create_encoder(name, source_table, feature_columns, passthrough_columns, latent_dims, epochs, batch_size,
                                allow_identifiers => allow_identifiers, or_replace => true)
$$;

-- A training that came to nothing leaves no encoder that was never trained, unless another one of it was asked for.
CREATE FUNCTION scrim.drop_untrained(encoder_id bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A DELETE of nothing would change the version of the catalog too, and wait for whoever else does.
    IF EXISTS (SELECT 1 FROM scrim_state.encoders e WHERE e.id = drop_untrained.encoder_id AND e.default_version IS NULL) AND scrim.training_under_way(encoder_id) IS NULL THEN
        DELETE FROM scrim_state.encoders e WHERE e.id = drop_untrained.encoder_id AND e.default_version IS NULL;
    END IF;
END $$;

-- Asks the job to end: one that waits is cancelled at once, one that runs when its worker looks, several times a second.
CREATE FUNCTION scrim.stop_training(job bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE scrim_state.training_jobs t SET cancel = true WHERE t.job = stop_training.job;
    UPDATE scrim_state.river_job r SET state = 'cancelled', finalized_at = now()
     WHERE r.id = stop_training.job AND r.state IN ('available', 'pending', 'retryable', 'scheduled');
    IF FOUND THEN
        PERFORM scrim.drop_untrained(t.encoder_id) FROM scrim_state.training_jobs t WHERE t.job = stop_training.job;
    END IF;
END $$;

-- CANCEL TRAINING JOB.
CREATE FUNCTION scrim.cancel_training_job(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_state text;
BEGIN
    PERFORM scrim.require_trainer();
    SELECT j.state INTO found_state FROM scrim.training_jobs j WHERE j.id = cancel_training_job.id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'training job % does not exist', id USING ERRCODE = 'undefined_object', HINT = 'SHOW TRAINING JOBS lists them.';
    ELSIF found_state NOT IN ('queued', 'running') THEN
        RAISE EXCEPTION 'training job % has ended: it %', id, CASE found_state WHEN 'completed' THEN 'is completed' WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM scrim.require_encoder(e.name) FROM scrim_state.training_jobs t JOIN scrim_state.encoders e ON e.id = t.encoder_id WHERE t.job = cancel_training_job.id;
    PERFORM scrim.stop_training(id);
END $$;

-- What follows is for workers.

-- The role that reads rows of one owner's tables for training. It can log in during a job only, with a password that only the job's
-- worker knows. As with the roles that own masked views, one for each owner: who plans a query on a table runs its owner's code.
CREATE FUNCTION scrim.prepare_trainer(owner oid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role text := scrim.trainer_name(owner);
BEGIN
    IF scrim.trainer(owner) IS NOT NULL THEN
        RETURN role;
    ELSIF to_regrole(quote_ident(role)) IS NOT NULL THEN
        RAISE EXCEPTION 'role "%" was not made by Scrim', role USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'It would read raw values. Drop it and try again.';
    END IF;
    EXECUTE format('CREATE ROLE %I NOLOGIN', role);
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        EXECUTE format('GRANT %I TO %I', role, current_user);
    END IF;
    DELETE FROM scrim_state.trainers t WHERE t.table_owner = owner;
    INSERT INTO scrim_state.trainers SELECT owner, r.oid FROM pg_roles r WHERE r.rolname = role;
    RETURN role;
END $$;

-- Takes from trainers what they were given, and closes the door behind them.
CREATE FUNCTION scrim.close_trainers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trainer pg_roles;
    owner oid;
BEGIN
    FOR trainer IN SELECT r.* FROM scrim_state.trainers t JOIN pg_roles r ON r.oid = t.role AND r.rolname = scrim.trainer_name(t.table_owner) WHERE r.rolcanlogin LOOP
        EXECUTE format('ALTER ROLE %I NOLOGIN %s PASSWORD NULL', trainer.rolname, CASE WHEN trainer.rolbypassrls THEN 'NOBYPASSRLS' END);
        EXECUTE format('DROP OWNED BY %I', trainer.rolname);  -- it owns nothing: this revokes
        FOR owner IN SELECT m.roleid FROM pg_auth_members m WHERE m.member = trainer.oid LOOP
            EXECUTE format('REVOKE %s FROM %I', scrim.role_name(owner), trainer.rolname);
        END LOOP;
    END LOOP;
END $$;

-- The same on behalf of the job that this connection holds the slot for.
CREATE FUNCTION scrim.end_reading(job bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM scrim_state.training_slot s WHERE s.job = end_reading.job AND s.pid = pg_backend_pid() FOR UPDATE;
    IF FOUND THEN
        PERFORM scrim.close_trainers();
    END IF;
END $$;

-- Whether the slot is free, its row being locked.
CREATE FUNCTION scrim.slot_is_free() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.job IS NULL OR NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.pid = s.pid AND a.backend_start = s.backend_start)
      FROM scrim_state.training_slot s
$$;

-- Begins a job on the connection that calls: takes the slot for it, and lets the trainer in under a password of which verifier is the
-- SCRAM form. outcome is 'busy' while another trains, 'lost' when the job is not this attempt's any more, 'cancelled', or 'begun'. What speaks
-- against the training raises, and so does waiting for a policy that is being made in a long transaction.
CREATE FUNCTION scrim.begin_training(
    job bigint, attempt int, verifier text, OUT outcome text, OUT encoder text, OUT version int, OUT features text[], OUT latent_dims int, OUT epochs int,
    OUT batch_size int, OUT seed bigint, OUT device text, OUT max_leakage float8, OUT target text, OUT target_is_label boolean, OUT query text, OUT reader text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
#variable_conflict use_column
DECLARE
    asked scrim_state.training_jobs;
    enc scrim_state.encoders;
    rel pg_class;
BEGIN
    SELECT t.* INTO STRICT asked FROM scrim_state.training_jobs t WHERE t.job = begin_training.job;
    IF asked.cancel THEN  -- before anything that may wait
        outcome := 'cancelled';
        RETURN;
    END IF;
    LOCK TABLE scrim_state.policies IN ROW EXCLUSIVE MODE;  -- grants are not given while a policy rearranges them
    -- Once the row is locked, pg_stat_activity is read anew: what was read before would not show who took the slot meanwhile.
    PERFORM 1 FROM scrim_state.training_slot FOR UPDATE;
    IF NOT EXISTS (SELECT 1 FROM scrim_state.river_job r WHERE r.id = begin_training.job AND r.state = 'running' AND r.attempt = begin_training.attempt) THEN
        outcome := 'lost';
        RETURN;
    END IF;
    UPDATE scrim_state.training_slot s
       SET job = begin_training.job, encoder = asked.encoder, pid = a.pid, backend_start = a.backend_start
      FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() AND scrim.slot_is_free();
    IF NOT FOUND THEN
        outcome := 'busy';
        RETURN;
    END IF;
    PERFORM scrim.close_trainers();  -- of one who died
    SELECT e.* INTO enc FROM scrim_state.encoders e WHERE e.id = asked.encoder_id;
    IF enc.id IS NULL THEN
        RAISE EXCEPTION 'encoder "%" does not exist', asked.encoder USING ERRCODE = 'undefined_object', HINT = 'It was dropped after this training was asked for.';
    ELSIF NOT EXISTS (SELECT 1 FROM pg_roles r WHERE r.oid = asked.requester) THEN
        RAISE EXCEPTION 'the role that asked for this training was dropped' USING ERRCODE = 'undefined_object', HINT = 'TRAIN ENCODER asks anew.';
    END IF;
    IF NOT (pg_has_role(asked.requester, 'scrim_admin', 'USAGE') AND pg_has_role(asked.requester, enc.creator, 'USAGE')) THEN  -- a schedule's, by now
        RAISE EXCEPTION 'permission denied for encoder "%"', enc.name USING ERRCODE = 'insufficient_privilege',
            HINT = 'The role that asked for this training may not train it any more. TRAIN ENCODER asks anew, ALTER ENCODER ... SET SCHEDULE too.';
    END IF;
    PERFORM scrim.check_source(asked.requester, enc.source, enc.feature_columns, enc.passthrough, enc.target, enc.allow_identifiers);
    SELECT c.* INTO STRICT rel FROM pg_class c WHERE c.oid = enc.source;
    reader := scrim.prepare_trainer(rel.relowner);
    EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', reader, verifier);
    -- All rows are the owner's to read. BYPASSRLS would show the owner's code, which runs in that session, rows of everybody's tables; only
    -- a superuser's has seen them anyway, and what a member of a superuser may do is more.
    IF rel.relrowsecurity AND (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = rel.relowner) THEN
        EXECUTE format('ALTER ROLE %I BYPASSRLS', reader);
    ELSIF rel.relrowsecurity THEN
        EXECUTE format('GRANT %s TO %I', scrim.role_name(rel.relowner), reader);
    END IF;
    IF NOT has_database_privilege(reader, current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), reader);
    END IF;
    IF NOT has_schema_privilege(reader, rel.relnamespace, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', rel.relnamespace::regnamespace, reader);
    END IF;
    BEGIN
        EXECUTE format('GRANT SELECT (%s) ON %s TO %I', (SELECT string_agg(DISTINCT quote_ident(f), ', ') FROM unnest(enc.feature_columns || enc.target) f WHERE f IS NOT NULL),
                       rel.oid::regclass, reader);
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'Scrim may not let others read %', rel.oid::regclass USING ERRCODE = 'insufficient_privilege',
            HINT = format('Run scrim init as a superuser, or GRANT SELECT ON %s TO %I WITH GRANT OPTION.', rel.oid::regclass, current_user);
    END;
    UPDATE scrim_state.training_jobs t
       SET step = 'reading', epoch = NULL, epochs = enc.epochs, loss = NULL, rows_per_second = NULL, eta = NULL, notices = '[]', code = NULL, error = NULL, hint = NULL
     WHERE t.job = begin_training.job;
    outcome := 'begun';
    encoder := enc.name;
    version := (SELECT coalesce(max(v.version), 0) + 1 FROM scrim_state.encoder_versions v WHERE v.encoder_id = enc.id);
    features := enc.feature_columns;
    latent_dims := enc.latent_dims;
    epochs := enc.epochs;
    batch_size := enc.batch_size;
    seed := enc.seed;
    device := enc.device;
    max_leakage := enc.max_leakage;
    target := enc.target;
    target_is_label := scrim.is_label(enc.source, enc.target);
    query := scrim.feature_query(enc.source, enc.feature_columns, enc.target);
END $$;

-- Notes how far the job is, and tells whether it shall end. It does not wait for who cancels it in a transaction that is still open.
CREATE FUNCTION scrim.training_progress(job bigint, step text, epoch int, loss float8, rows_per_second float8, eta float8) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE scrim_state.training_jobs t
       SET step = training_progress.step, epoch = training_progress.epoch, loss = training_progress.loss, rows_per_second = training_progress.rows_per_second,
           eta = make_interval(secs => training_progress.eta)
     WHERE t.job = (SELECT u.job FROM scrim_state.training_jobs u WHERE u.job = training_progress.job FOR UPDATE SKIP LOCKED)
       AND (t.step, t.epoch) IS DISTINCT FROM (training_progress.step, training_progress.epoch);
    RETURN (SELECT t.cancel FROM scrim_state.training_jobs t WHERE t.job = training_progress.job);
END $$;

-- Registers the version that was trained, whose file is published, gives the slot back, and makes the job one that River is done with. The slot
-- says whose job it is, not River's state: a worker that had lost the job before may have changed that just now.
CREATE FUNCTION scrim.publish_version(job bigint, version int, sha256 text, trained_on bigint, loss float8, report jsonb, notices jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$  -- the worker tries again, so that CANCEL gets in between
DECLARE
    encoder bigint;
BEGIN
    PERFORM 1 FROM scrim_state.training_slot s WHERE s.job = publish_version.job AND s.pid = pg_backend_pid() FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'training job % has lost its slot', job USING ERRCODE = 'transaction_rollback';
    END IF;
    UPDATE scrim_state.training_jobs t
       SET version = publish_version.version, notices = publish_version.notices, step = 'published', epoch = t.epochs, loss = publish_version.loss, eta = NULL
     WHERE t.job = publish_version.job AND NOT t.cancel RETURNING t.encoder_id INTO encoder;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'training job % is cancelled', job USING ERRCODE = 'query_canceled';
    END IF;
    INSERT INTO scrim_state.encoder_versions (encoder_id, version, sha256, trained_on, loss)
    VALUES (encoder, publish_version.version, publish_version.sha256, publish_version.trained_on, publish_version.loss);
    INSERT INTO scrim_state.encoder_reports (encoder_id, version, report) VALUES (encoder, publish_version.version, publish_version.report);
    UPDATE scrim_state.encoders e SET default_version = publish_version.version WHERE e.id = encoder;
    UPDATE scrim_state.river_job r SET state = 'completed', finalized_at = now() WHERE r.id = publish_version.job AND r.finalized_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'training job % has ended already', job USING ERRCODE = 'transaction_rollback';
    END IF;
    PERFORM scrim.release_slot(job);
END $$;

CREATE FUNCTION scrim.release_slot(job bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE scrim_state.training_slot s SET job = NULL, encoder = NULL, pid = NULL, backend_start = NULL WHERE s.job = release_slot.job;
    IF FOUND THEN
        PERFORM scrim.close_trainers();
    END IF;
END $$;

-- Which encoder may be having a file published, '' for none. No other job begins before the caller's transaction ends.
CREATE FUNCTION scrim.encoder_in_training() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(s.encoder, '') FROM scrim_state.training_slot s FOR UPDATE);
END $$;

-- Ends an attempt that came to nothing: notes why, and gives the slot back. code is NULL when it was only put off. What is for good is so at
-- once; when to try again is River's to say.
CREATE FUNCTION scrim.end_training(job bigint, attempt int, code text, error text, hint text, for_good boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM scrim_state.river_job r WHERE r.id = end_training.job AND r.state = 'running' AND r.attempt = end_training.attempt) THEN
        RETURN;  -- it was taken from this worker
    END IF;
    PERFORM scrim.release_slot(job);
    UPDATE scrim_state.training_jobs t
       SET step = NULL, ended_at = clock_timestamp(), code = end_training.code, error = end_training.error, hint = end_training.hint
     WHERE t.job = end_training.job;
    IF for_good THEN
        UPDATE scrim_state.river_job r SET state = 'cancelled', finalized_at = now() WHERE r.id = end_training.job;
        BEGIN
            PERFORM set_config('lock_timeout', '500ms', true);
            PERFORM scrim.drop_untrained(t.encoder_id) FROM scrim_state.training_jobs t WHERE t.job = end_training.job;
        EXCEPTION WHEN lock_not_available THEN
            NULL;  -- somebody's transaction that changes the catalog stays open: better an encoder too many than an end that is not noted
        END;
    END IF;
END $$;

-- Puts in order what a worker has left that died: every worker calls it, about once a second. Returns the jobs that it found.
CREATE FUNCTION scrim.rescue_training() RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead record;
BEGIN
    PERFORM 1 FROM scrim_state.training_slot FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;  -- somebody is at it
    END IF;
    FOR dead IN
        SELECT r.id, r.attempt, r.attempt >= r.max_attempts AS was_last, t.cancel, t.encoder_id
          FROM scrim_state.river_job r
          JOIN scrim_state.training_jobs t ON t.job = r.id
          LEFT JOIN scrim_state.training_slot s ON s.job = r.id
         -- Without the slot a job is between fetching and beginning, or between its end and River's note of it, for less than a second.
         WHERE r.state = 'running'
           AND CASE WHEN s.job IS NULL THEN greatest(r.attempted_at, t.ended_at) < clock_timestamp() - interval '10 seconds' ELSE scrim.slot_is_free() END
    LOOP
        UPDATE scrim_state.river_job r
           SET state = CASE WHEN dead.cancel THEN 'cancelled' WHEN dead.was_last THEN 'discarded' ELSE 'available' END::scrim_state.river_job_state,
               finalized_at = CASE WHEN dead.cancel OR dead.was_last THEN now() END, scheduled_at = now(),
               errors = array_append(r.errors, jsonb_build_object('at', now(), 'attempt', dead.attempt, 'error', 'the worker died', 'trace', ''))
         WHERE r.id = dead.id;
        UPDATE scrim_state.training_jobs t SET step = NULL, code = '57P01', error = 'the process that trained it died' WHERE t.job = dead.id;
        IF dead.cancel OR dead.was_last THEN
            PERFORM scrim.drop_untrained(dead.encoder_id);
        END IF;
        RETURN NEXT dead.id;
    END LOOP;
    FOR dead IN  -- what River ended by itself: a worker that panicked, or could not say why it failed
        UPDATE scrim_state.training_jobs t SET step = NULL, code = 'XX000', error = 'the training ended without telling why'
          FROM scrim_state.river_job r
         WHERE r.id = t.job AND r.state IN ('cancelled', 'discarded') AND t.version IS NULL AND t.code IS NULL
           AND NOT (t.cancel AND t.step IS NULL)  -- cancelled while it waited
        RETURNING t.encoder_id
    LOOP
        PERFORM scrim.drop_untrained(dead.encoder_id);
    END LOOP;
    IF (SELECT s.job IS NOT NULL FROM scrim_state.training_slot s) AND scrim.slot_is_free() THEN
        PERFORM scrim.release_slot(s.job) FROM scrim_state.training_slot s;
    END IF;
END $$;

-- ALTER ENCODER ... SET SCHEDULE. schedule is a cron expression of five fields, in UTC, or an interval; without both it is unset.
CREATE FUNCTION scrim.schedule_training(name text, schedule text DEFAULT NULL, row_threshold bigint DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enc scrim_state.encoders;
    requester oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = session_user);
    is_cron boolean;
BEGIN
    PERFORM scrim.require_trainer();
    PERFORM scrim.require_encoder(name);
    SELECT e.* INTO STRICT enc FROM scrim_state.encoders e WHERE e.name = schedule_training.name;
    is_cron := scrim.is_cron(schedule);
    IF row_threshold < 1 THEN
        RAISE EXCEPTION 'row growth must be positive' USING ERRCODE = 'invalid_parameter_value';
    ELSIF row_threshold IS NOT NULL AND (SELECT c.relkind NOT IN ('r', 'p', 'm') FROM pg_class c WHERE c.oid = enc.source) IS NOT FALSE THEN
        RAISE EXCEPTION 'the rows of % are not counted', enc.source::regclass USING ERRCODE = 'feature_not_supported', HINT = 'ROW GROWTH is for tables and materialized views.';
    END IF;
    DELETE FROM scrim_state.training_schedules s WHERE s.encoder_id = enc.id;
    INSERT INTO scrim_state.training_schedules (encoder_id, requester, schedule, is_cron, row_growth)
    SELECT enc.id, requester, schedule, is_cron, row_threshold WHERE schedule IS NOT NULL OR row_threshold IS NOT NULL;
END $$;

-- Whether a schedule is a cron expression, NULL for none; raises if it is nothing of the kind. A worker reads it with a library; this
-- is so that nobody is told later, elsewhere.
CREATE FUNCTION scrim.is_cron(schedule text) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    least_values int[] := ARRAY[0, 0, 1, 1, 0];
    most_values int[] := ARRAY[59, 23, 31, 12, 6];
    names text[] := ARRAY['', '', '', 'jan,feb,mar,apr,may,jun,jul,aug,sep,oct,nov,dec', 'sun,mon,tue,wed,thu,fri,sat'];
    fields text[] := regexp_split_to_array(lower(trim(schedule)), '\s+');
    numbers text;
    name record;
    item text;
    bounds int[];
BEGIN
    IF schedule IS NULL THEN
        RETURN NULL;
    END IF;
    IF trim(schedule) ~* '^@(yearly|annually|monthly|weekly|daily|midnight|hourly)$' THEN
        RETURN true;
    END IF;
    IF cardinality(fields) = 5 AND schedule !~* '[a-z]{4}' THEN
        FOR i IN 1..5 LOOP
            numbers := fields[i];
            FOR name IN SELECT n.word, n.ord - 1 + least_values[i] AS number FROM unnest(string_to_array(names[i], ',')) WITH ORDINALITY AS n(word, ord) LOOP
                numbers := regexp_replace(numbers, format('\m%s\M', name.word), name.number::text, 'g');
            END LOOP;
            FOREACH item IN ARRAY string_to_array(numbers, ',') LOOP
                bounds := regexp_match(item, '^(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/[1-9]\d{0,2})?$');
                IF bounds IS NULL OR bounds[1] NOT BETWEEN least_values[i] AND most_values[i] OR bounds[2] NOT BETWEEN bounds[1] AND most_values[i] THEN
                    RAISE EXCEPTION 'invalid schedule "%": field % is "%"', schedule, i, fields[i] USING ERRCODE = 'invalid_parameter_value',
                        HINT = 'The fields of a cron expression are minute, hour, day of month, month and day of week.';
                END IF;
            END LOOP;
        END LOOP;
        RETURN true;
    END IF;
    BEGIN
        IF schedule::interval BETWEEN interval '1 second' AND interval '100 years' THEN  -- more is beyond what a timestamp can hold
            RETURN false;
        END IF;
    EXCEPTION WHEN data_exception THEN
        NULL;
    END;
    RAISE EXCEPTION 'invalid schedule "%"', schedule USING ERRCODE = 'invalid_parameter_value',
        HINT = 'Say an interval of at least a second, like ''6 hours'', or a cron expression, like ''0 3 * * *'' for three o''clock each night in UTC.';
END $$;

-- Starts a training for its schedule, unless one is under way.
CREATE FUNCTION scrim.enqueue_scheduled(encoder_id bigint, reason text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF scrim.training_under_way(encoder_id) IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT scrim.enqueue_training(s.encoder_id, s.requester, reason) FROM scrim_state.training_schedules s WHERE s.encoder_id = enqueue_scheduled.encoder_id);
END $$;

-- Starts what is due by the clock. A schedule that was missed, once or often, runs once. next is the next time of a cron schedule
-- that due_schedules has listed; whoever is second finds another next_at, or another schedule, and starts nothing.
CREATE FUNCTION scrim.run_schedule(encoder_id bigint, schedule text, seen timestamptz, next timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM scrim_state.training_schedules s JOIN scrim_state.encoders e ON e.id = s.encoder_id
      WHERE s.encoder_id = run_schedule.encoder_id FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;  -- somebody is changing it, and the other schedules shall not wait for that
    END IF;
    UPDATE scrim_state.training_schedules s SET next_at = coalesce(next, now() + s.schedule::interval)
     WHERE s.encoder_id = run_schedule.encoder_id AND s.schedule = run_schedule.schedule AND s.next_at IS NOT DISTINCT FROM seen;
    IF NOT FOUND OR seen IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN scrim.enqueue_scheduled(encoder_id, 'schedule');
END $$;

CREATE FUNCTION scrim.due_schedules() RETURNS TABLE (encoder_id bigint, schedule text, is_cron boolean, next_at timestamptz, at timestamptz)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.encoder_id, s.schedule, s.is_cron, s.next_at, now() FROM scrim_state.training_schedules s
     WHERE s.schedule IS NOT NULL AND (s.next_at IS NULL OR s.next_at <= now())
$$;

-- Starts what is due since the table has grown: by the server's running count, which costs nothing and is forgotten in a crash.
CREATE FUNCTION scrim.run_growth() RETURNS SETOF bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
BEGIN
    FOR s IN
        SELECT g.encoder_id, live.rows
          FROM scrim_state.training_schedules g
          JOIN scrim_state.encoders e ON e.id = g.encoder_id,
               LATERAL (SELECT sum(pg_stat_get_live_tuples(f.oid)) AS rows FROM scrim.family(e.source) f(oid)) live,
               LATERAL (SELECT max(v.trained_on) AS rows FROM scrim_state.encoder_versions v
                         WHERE v.encoder_id = e.id AND v.version = (SELECT max(w.version) FROM scrim_state.encoder_versions w WHERE w.encoder_id = e.id)) last
         WHERE live.rows >= greatest(last.rows, g.grown_to) + g.row_growth
           FOR UPDATE OF g, e SKIP LOCKED
    LOOP
        UPDATE scrim_state.training_schedules g SET grown_to = s.rows WHERE g.encoder_id = s.encoder_id;  -- not again if that training fails
        RETURN NEXT scrim.enqueue_scheduled(s.encoder_id, 'row growth');
    END LOOP;
END $$;
