-- How a row of a protected relation is known when a statement meets it again: by its place (ctid and xmin), by its table and its
-- place where the relation has partitions or children, or not at all (views and foreign tables).
ALTER TABLE scrim_state.policies ADD COLUMN identity text NOT NULL DEFAULT 'PLACE' CHECK (identity IN ('PLACE', 'TABLE AND PLACE', 'NONE'));
-- Set where the policy was made along with this other one: on a partition or child of its table, or by CASCADE on a view over it.
ALTER TABLE scrim_state.policies ADD COLUMN along_with integer REFERENCES scrim_state.policies ON DELETE SET NULL;

-- The component, from 1, that each masked column shows: a view need not have all the columns of the table below.
ALTER TABLE scrim_state.policies ADD COLUMN components smallint[];
UPDATE scrim_state.policies SET components = ARRAY(SELECT generate_series(1, cardinality(columns)));
ALTER TABLE scrim_state.policies ALTER COLUMN components SET NOT NULL, ADD CHECK (cardinality(components) = cardinality(columns));
