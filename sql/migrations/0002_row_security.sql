-- Of a table with row security the masked view shows no columns but the seals: the client reads the table itself, under its own
-- policies, and the seals by ctid.
ALTER TABLE scrim_state.policies ADD COLUMN seals_only boolean NOT NULL DEFAULT false;
