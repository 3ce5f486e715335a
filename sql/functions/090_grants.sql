-- Who may do what. Functions are PUBLIC's by default in PostgreSQL: take that away first, then give what is meant.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA scrim FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA scrim TO scrim_admin;
GRANT SELECT ON ALL TABLES IN SCHEMA scrim TO scrim_user;
