-- What the numbers in these tables mean. OIDs and attribute numbers are a database's own: after pg_dump and restore they mean other things, or nothing. pg_dump writes regclass and
-- regrole as names, of the moment of the dump, and what is restored is what has the name there. So a row whose two first columns differ says that the database was restored, and
-- what an old number has become (scrim.rebind).
CREATE TABLE scrim_state.known_relations (
    oid      oid PRIMARY KEY,
    relation regclass NOT NULL,
    name     text NOT NULL,                         -- pg_dump writes a number for what was dropped, which can be something else's elsewhere
    columns  text[] NOT NULL                        -- by attribute number; NULL where the column was dropped
);
CREATE TABLE scrim_state.known_roles (
    oid  oid PRIMARY KEY,
    role regrole NOT NULL,
    name text NOT NULL
);

-- The cluster in which all that holds. Its copies, and databases that are copied within it, keep their numbers.
CREATE TABLE scrim_state.home (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    system_identifier bigint NOT NULL
);
INSERT INTO scrim_state.home (system_identifier) SELECT c.system_identifier FROM pg_control_system() c;

CREATE FUNCTION scrim_state.column_names(relation oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ARRAY(SELECT CASE WHEN NOT a.attisdropped THEN a.attname::text END FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 ORDER BY a.attnum)
$$;

-- Notes what a row names: the fields that are relations' OIDs, and those that are roles'.
CREATE FUNCTION scrim_state.note_names() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    row_now jsonb := to_jsonb(NEW);
BEGIN
    INSERT INTO scrim_state.known_relations (oid, relation, name, columns)
    SELECT DISTINCT c.oid, c.oid::regclass, c.oid::regclass::text, scrim_state.column_names(c.oid)
      FROM unnest(TG_ARGV[0]::text[]) f(field) JOIN pg_class c ON c.oid = (row_now ->> f.field)::oid
    ON CONFLICT (oid) DO UPDATE SET name = excluded.name, columns = excluded.columns
     WHERE known_relations.relation = known_relations.oid AND (known_relations.name, known_relations.columns) IS DISTINCT FROM (excluded.name, excluded.columns);
    INSERT INTO scrim_state.known_roles (oid, role, name)
    SELECT DISTINCT r.oid, r.oid::regrole, r.rolname::text
      FROM unnest(TG_ARGV[1]::text[]) f(field),
           jsonb_array_elements_text(CASE jsonb_typeof(row_now -> f.field) WHEN 'array' THEN row_now -> f.field ELSE jsonb_build_array(row_now -> f.field) END) e(number)
      JOIN pg_roles r ON r.oid = e.number::oid
    ON CONFLICT (oid) DO NOTHING;
    RETURN NULL;
END $$;

CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.encoders FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{source}', '{creator}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.protections FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{relation,features_of,masked_view}', '{key_owner}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.policies FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{except_roles}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.protection_grants FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{grantor,grantee}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.view_owners FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{table_owner,role}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.trainers FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{table_owner,role}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.mask_definitions FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{creator}');
CREATE TRIGGER names AFTER INSERT OR UPDATE ON scrim_state.training_schedules FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{requester}');
CREATE TRIGGER names AFTER INSERT ON scrim_state.training_jobs FOR EACH ROW EXECUTE FUNCTION scrim_state.note_names('{}', '{requester}');

-- Of what is there already.
UPDATE scrim_state.encoders SET name = name;
UPDATE scrim_state.protections SET id = id;
UPDATE scrim_state.policies SET name = name;
UPDATE scrim_state.protection_grants SET change = change;
UPDATE scrim_state.view_owners SET role = role;
UPDATE scrim_state.trainers SET role = role;
UPDATE scrim_state.mask_definitions SET name = name;
UPDATE scrim_state.training_schedules SET requester = requester;
INSERT INTO scrim_state.known_roles (oid, role, name)
SELECT r.oid, r.oid::regrole, r.rolname::text FROM pg_roles r WHERE r.oid IN (SELECT j.requester FROM scrim_state.training_jobs j) ON CONFLICT (oid) DO NOTHING;

-- All numbers are changed in one statement there.
ALTER TABLE scrim_state.protections DROP CONSTRAINT protections_relation_key, ADD UNIQUE (relation) DEFERRABLE;
DO $$ BEGIN
    EXECUTE (SELECT format('ALTER TABLE scrim_state.protection_grants DROP CONSTRAINT %I', c.conname) FROM pg_constraint c WHERE c.conrelid = 'scrim_state.protection_grants'::regclass AND c.contype = 'u');
END $$;
ALTER TABLE scrim_state.protection_grants ADD UNIQUE (protection, change, attnum, grantor, grantee, privilege) DEFERRABLE;
