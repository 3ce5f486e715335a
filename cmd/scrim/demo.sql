-- A customers table as a bank might have it: 100,000 rows, made without random(), so that every run shows the same.
-- Age, income and score hang together; every 40th income and every 55th score is unknown.
CREATE ROLE data_engineer LOGIN PASSWORD 'data_engineer';
CREATE ROLE analyst LOGIN PASSWORD 'analyst';
CREATE ROLE risk_officer LOGIN PASSWORD 'risk_officer';
GRANT scrim_admin TO data_engineer;
GRANT CREATE ON SCHEMA public TO data_engineer;
SET SESSION AUTHORIZATION data_engineer;

-- A number in [0, 1) that depends on nothing but its arguments.
CREATE FUNCTION pg_temp.noise(row_number int, salt text) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$
    SELECT ((hashtextextended(salt || ':' || row_number, 0) >> 11) & 9007199254740991)::float8 / 9007199254740992
$$;
CREATE TABLE customers (
    id     integer PRIMARY KEY,
    region text NOT NULL,
    since  date NOT NULL,
    age    integer,
    income numeric(12,2),
    score  double precision
);
INSERT INTO customers
SELECT id, region, since, age,
       CASE WHEN id % 40 <> 0 THEN income END,
       CASE WHEN id % 55 <> 0 THEN round((300 + 550 / (1 + exp(-(income::float8 - 52000) / 21000 - (age - 45) / 30.0 + (pg_temp.noise(id, 'luck') - 0.5) * 2)))::numeric, 1)::float8 END
  FROM (SELECT id, (ARRAY['EU', 'US', 'APAC', 'LATAM'])[1 + (pg_temp.noise(id, 'region') * 4)::int % 4] AS region,
               DATE '2026-01-01' - (pg_temp.noise(id, 'since') * 4000)::int AS since,
               age, round((18000 + 900 * (age - 18) * (1 - (age - 18) / 150.0) + 60000 * power(pg_temp.noise(id, 'income'), 3))::numeric, 2) AS income
          FROM (SELECT id, 18 + (62 * (pg_temp.noise(id, 'age') + pg_temp.noise(id, 'age too')) / 2)::int AS age
                  FROM generate_series(1, 100000) AS id) AS people) AS paid;
CREATE INDEX customers_region ON customers (region, id);
GRANT SELECT ON customers TO analyst, risk_officer;
RESET SESSION AUTHORIZATION;
ANALYZE customers;
