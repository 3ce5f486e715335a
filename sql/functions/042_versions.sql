-- Versions of an encoder. All that are registered stay, with their files, until the encoder is dropped; one is the default, which
-- masks show.

-- ALTER ENCODER ... SET DEFAULT_VERSION. It says what the version is, so that the proxy can look whether it loads before the
-- transaction ends.
CREATE FUNCTION scrim.set_default_version(encoder text, version integer, OUT sha256 text, OUT inputs integer, OUT dims integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    enc scrim_state.encoders;
BEGIN
    PERFORM scrim.require_trainer();
    PERFORM scrim.require_encoder(encoder);
    -- Whoever drops the encoder or gives it a version at the same time is first, or waits.
    SELECT e.* INTO enc FROM scrim_state.encoders e WHERE e.name = encoder FOR NO KEY UPDATE;
    SELECT v.sha256 INTO sha256 FROM scrim_state.encoder_versions v WHERE v.encoder_id = enc.id AND v.version = set_default_version.version;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'encoder "%" has no version %', encoder, version USING ERRCODE = 'undefined_object',
            HINT = coalesce((SELECT 'Its versions are ' || string_agg(v.version::text, ', ' ORDER BY v.version) || '.'
                               FROM scrim_state.encoder_versions v WHERE v.encoder_id = enc.id), 'It was dropped just now.');
    END IF;
    UPDATE scrim_state.encoders e SET default_version = set_default_version.version WHERE e.id = enc.id;
    inputs := cardinality(enc.feature_columns);
    dims := enc.latent_dims;
END $$;
