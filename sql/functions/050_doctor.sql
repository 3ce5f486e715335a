-- The walk of CREATE MASKING POLICY, at any later time: what has been opened since. Also lists who was given SELECT on the
-- raw columns after the policy was made, unless the policy names the role in EXCEPT.
CREATE FUNCTION scrim.masking_policy_openings(policy_name text, relation regclass)
RETURNS TABLE (kind text, object text, why text, remedy text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    policy scrim_state.policies;
BEGIN
    PERFORM scrim.require_policy_admin(relation);
    SELECT p.* INTO policy FROM scrim_state.policies p WHERE p.relation = masking_policy_openings.relation AND p.name = policy_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'masking policy "%" on % does not exist', policy_name, relation USING ERRCODE = 'undefined_object';
    END IF;
    RETURN QUERY SELECT DISTINCT o.* FROM scrim.openings(relation, policy.columns, policy.inputs, policy.except_roles) o;
END $$;
