-- Schema scrim_runtime: run at every `scrim init`; never drops anything.
CREATE SCHEMA IF NOT EXISTS scrim_runtime;
GRANT USAGE ON SCHEMA scrim_runtime TO PUBLIC;
