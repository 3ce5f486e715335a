-- A masking policy in the database that the proxy is for, in a schema that no test of PostgreSQL's looks into.
CREATE ROLE scrim_regress_analyst LOGIN;
CREATE SCHEMA scrim_regress;
GRANT USAGE ON SCHEMA scrim_regress TO scrim_regress_analyst;
CREATE TABLE scrim_regress.customers (id integer PRIMARY KEY, age integer, income integer);
INSERT INTO scrim_regress.customers SELECT i, 20 + i % 50, 1000 * i FROM generate_series(1, 200) AS i;
GRANT SELECT ON scrim_regress.customers TO scrim_regress_analyst;
CREATE ENCODER code ON scrim_regress.customers (age, income) WITH (latent_dims = 2, epochs = 1) WAIT;
CREATE MASKING POLICY hide ON scrim_regress.customers (age, income) USING ENCODER code;
