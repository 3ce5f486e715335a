-- Last, so that they do not look at what `scrim init` itself does; it begins by dropping them.
DO $$ BEGIN
    IF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        CREATE EVENT TRIGGER scrim_ddl ON ddl_command_end EXECUTE FUNCTION scrim.on_ddl();
        CREATE EVENT TRIGGER scrim_drop ON sql_drop EXECUTE FUNCTION scrim.on_drop();
    END IF;
END $$;
