-- The walk of CREATE MASKING POLICY, at any later time: what has been opened since. Also lists who was given SELECT on the
-- raw columns after the policy was made, unless the policy names the role in EXCEPT; and what has closed the masks.
CREATE FUNCTION scrim.masking_policy_openings(policy_name text, relation regclass)
RETURNS TABLE (kind text, object text, why text, remedy text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim_state.policies p WHERE p.relation = masking_policy_openings.relation AND p.name = policy_name AND p.features_of IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object';
    END IF;
    RETURN QUERY  -- masked columns that nobody sees codes of any more
        SELECT 'masked view', x.what, x.why, 'drop the policy and make it again'
          FROM (VALUES ('missing', 'it was dropped, so masked columns are closed', NOT EXISTS (SELECT 1 FROM pg_class c WHERE c.oid = policy.masked_view)),
                       ('children', 'the table has children that it had not, so masked columns are closed',
                        policy.identity = 'PLACE' AND EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = relation)),
                       ('row security', 'it was switched on for the table, so masked columns are closed',
                        NOT policy.seals_only AND (SELECT c.relrowsecurity FROM pg_class c WHERE c.oid = relation))) x(what, why, so)
         WHERE x.so;
    RETURN QUERY SELECT DISTINCT o.* FROM scrim.openings(relation, policy.columns, policy.inputs, policy.except_roles) o;
END $$;
