-- How a row of a protected relation is known when a statement meets it again: by its place (ctid and xmin), by its table and its
-- place where the relation has partitions or children, or not at all (views and foreign tables).
ALTER TABLE scrim_state.policies ADD COLUMN identity text NOT NULL DEFAULT 'PLACE' CHECK (identity IN ('PLACE', 'TABLE AND PLACE', 'NONE'));
-- Set where CREATE MASKING POLICY ... CASCADE made the policy, on a view over the table of this other one; they go together.
ALTER TABLE scrim_state.policies ADD COLUMN mends integer REFERENCES scrim_state.policies;

-- The component, from 1, that each masked column shows: a view need not have all the columns of the table below.
ALTER TABLE scrim_state.policies ADD COLUMN components smallint[];
UPDATE scrim_state.policies SET components = ARRAY(SELECT generate_series(1, cardinality(columns)));
ALTER TABLE scrim_state.policies ALTER COLUMN components SET NOT NULL, ADD CHECK (cardinality(components) = cardinality(columns));

-- Partitions and children have grants of their own, which are rearranged too.
ALTER TABLE scrim_state.policy_grants ADD COLUMN relation oid;
UPDATE scrim_state.policy_grants g SET relation = p.relation FROM scrim_state.policies p WHERE p.id = g.policy_id;
ALTER TABLE scrim_state.policy_grants ALTER COLUMN relation SET NOT NULL;
DO $$ BEGIN
    EXECUTE (SELECT format('ALTER TABLE scrim_state.policy_grants DROP CONSTRAINT %I', k.conname) FROM pg_catalog.pg_constraint k
              WHERE k.conrelid = 'scrim_state.policy_grants'::regclass AND k.contype = 'u');
END $$;
ALTER TABLE scrim_state.policy_grants ADD UNIQUE (policy_id, relation, change, attnum, grantor, grantee, privilege);
