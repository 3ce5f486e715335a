-- Set where the relation is a feature view: the table whose rows it shows. inputs are columns of that.
ALTER TABLE scrim_state.policies ADD COLUMN features_of oid;
