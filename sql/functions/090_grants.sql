-- Who may do what. Functions are PUBLIC's by default in PostgreSQL: take that away first, then give what is meant.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA scrim FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA scrim TO scrim_admin;
-- These say themselves who may call them, and how to become one; PostgreSQL's own refusal would not.
GRANT EXECUTE ON FUNCTION scrim.require_policy_admin(regclass), scrim.require_trainer(), scrim.drop_encoder(text, boolean, boolean), scrim.train_encoder(text), scrim.cancel_training_job(bigint),
    scrim.create_encoder(text, regclass, text[], text[], int, int, int, bigint, text, boolean, float8, text, boolean, boolean),
    scrim.set_default_version(text, integer),
    scrim.require_model_admin(), scrim.prepare_model(text, integer, boolean, boolean), scrim.register_model(text, integer, boolean, uuid), scrim.set_default_model_version(text, integer),
    scrim.drop_model_version(text, integer), scrim.drop_model(text, boolean, boolean),
    scrim.create_model_masking_policy(text, regclass, text[], text[], text, integer, text[], text, boolean, boolean, boolean),
    scrim.create_masking_policy(text, regclass, text[], text[], text, text[], text, boolean, boolean, boolean), scrim.create_sql_masking_policy(text, regclass, text[], text[], text, text, boolean, boolean, boolean),
    scrim.define_masking_policy(text, text[], text[], text, text, boolean, boolean), scrim.set_masking_policy_body(text, text), scrim.drop_masking_policy_definition(text, boolean), scrim.require_definer(),
    scrim.set_column_masking_policy(regclass, text, text, text[], boolean), scrim.unset_column_masking_policy(regclass, text),
    scrim.partial(text, int, text, int), scrim.email(text), scrim.bucket(int, int), scrim.bucket(bigint, bigint), scrim.bucket(numeric, numeric), scrim.bucket(float8, float8),
    scrim.generalize(date, text), scrim.generalize(timestamp, text), scrim.generalize(timestamptz, text),
    scrim.enable_masking_policy(text, regclass, boolean), scrim.rename_masking_policy(text, regclass, text), scrim.set_masking_policy_except(text, regclass, text[]), scrim.require_policy(text, regclass),
    scrim.protect_column(regclass, text, text, text[]), scrim.unprotect_column(regclass, text), scrim.suspend(regclass), scrim.resume(regclass),
    scrim.drop_masking_policy(text, regclass, boolean), scrim.rotate_key(text, regclass),
    scrim.create_feature_view(text, text, boolean), scrim.require_feature_source(text), scrim.drop_feature_view(text, boolean, boolean) TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA scrim TO scrim_user;
GRANT EXECUTE ON FUNCTION scrim.if_admin(anyelement) TO scrim_user;
-- What training has found out about rows is for those who may train: a masked role can be a scrim_user.
REVOKE SELECT ON scrim.training_jobs FROM scrim_user;
GRANT SELECT ON scrim.training_jobs TO scrim_admin;
-- Who has read how much of what, and who was refused, is for those who answer for it.
REVOKE SELECT ON scrim.audit FROM scrim_user;
GRANT SELECT ON scrim.audit TO scrim_admin;
REVOKE EXECUTE ON FUNCTION scrim.audit_image(text, oid, text), scrim.audit_row(), scrim.audit_write(), scrim.audit_change(scrim_state.audit_before, jsonb, text), scrim.prune_audit(integer) FROM scrim_admin;
-- Workers', proxies', doctor's and init's own parts, for the role that ran `scrim init` alone.
REVOKE EXECUTE ON FUNCTION scrim.prepare_trainer(oid), scrim.close_trainers(), scrim.end_reading(bigint), scrim.begin_training(bigint, int, text),
    scrim.training_progress(bigint, text, int, float8, float8, float8), scrim.publish_version(bigint, int, text, bigint, float8, jsonb, jsonb), scrim.release_slot(bigint),
    scrim.end_training(bigint, int, text, text, text, boolean), scrim.rescue_training(), scrim.enqueue_scheduled(bigint, text),
    scrim.run_schedule(bigint, text, timestamptz, timestamptz), scrim.due_schedules(), scrim.run_growth(),
    scrim.begin_publication(text, integer, text, text[], integer, text), scrim.models_in_publication(), scrim.model_policies(bigint, integer),
    scrim.policy_openings(scrim_state.policies), scrim.policy_notes(scrim_state.policies), scrim.doctor_roles(), scrim.doctor_own(), scrim.doctor_rows(),
    scrim.doctor_event_triggers(), scrim.forget_dropped(), scrim.touched_relations(), scrim.is_serialized(), scrim.on_ddl(), scrim.on_drop(),
    scrim.rebind(), scrim.rebind_policies(jsonb), scrim.rebind_others(jsonb), scrim.rebind_keys(jsonb), scrim.rebind_view_owners(jsonb, boolean), scrim.regrant_source(oid, text),
    scrim.rebind_masks(int[]), scrim.moves() FROM scrim_admin;
-- River's; nobody else has USAGE on the schema.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA scrim_state FROM PUBLIC;
