-- psql: what its backslash commands do with the wire. Run with -X -q -A -t -F '|' -P null=NULL.
\echo == codes prepared
PREPARE by_region (text, int) AS SELECT id, age, income, score FROM customers WHERE region = $1 AND id <= $2 ORDER BY id;
EXECUTE by_region ('EU', 40);
EXECUTE by_region ('US', 60);
DEALLOCATE by_region;

\echo == codes together
SELECT id, age, income, score FROM customers WHERE id = 1\; SELECT id, age, income, score FROM customers WHERE id IN (2, 2000) ORDER BY id;

\echo == codes FETCH_COUNT
\set FETCH_COUNT 300
SELECT id, age, income, score FROM customers ORDER BY id;
\unset FETCH_COUNT

\echo == codes cursor
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id, age, income, score FROM customers ORDER BY id;
FETCH 5 FROM c;
MOVE ABSOLUTE 1998 IN c;
FETCH FORWARD ALL FROM c;
FETCH BACKWARD 3 FROM c;
CLOSE c;
COMMIT;

\echo == codes watch
CREATE TEMP SEQUENCE ticks;
SELECT id, age, income, score FROM customers WHERE id = 7 AND 1 / (4 - nextval('ticks')) IS NOT NULL \watch 0.05

\echo == codes gset
SELECT id, age, income, score FROM customers WHERE id = 8 \gset
\echo :id|:age|:income|:score

\echo == described
SELECT id, age, income, score FROM customers \gdesc
\echo == gdesc
SELECT id, region, $$x$$ AS x FROM customers \gdesc
SELECT * FROM kinds \gdesc

\echo == types
SELECT * FROM kinds ORDER BY id;

\echo == catalog
\d customers
\dt public.*

\echo == codes rollback
CREATE TEMP TABLE t (a int, b text);
BEGIN;
INSERT INTO t VALUES (1, 'lost');
SAVEPOINT s;
SELECT id, age, income, score FROM customers WHERE id < 5 ORDER BY id;
ROLLBACK TO s;
ROLLBACK;
\echo == rollback
SELECT count(*) FROM t;

\echo == error
SELECT 1 / 0;
\echo :SQLSTATE :LAST_ERROR_MESSAGE
BEGIN;
SELECT nothing FROM customers;
\echo :SQLSTATE :LAST_ERROR_MESSAGE
SELECT 1;
\echo :SQLSTATE
ROLLBACK;
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1 / 0;
SELECT 'recovered';
COMMIT;
\unset ON_ERROR_ROLLBACK

\echo == copy
\copy t FROM STDIN
1	one
2	\N
\.
COPY t FROM STDIN (DELIMITER '|');
3|three
\.
\copy t TO PROGRAM 'cat'
\copy (SELECT * FROM t ORDER BY a DESC) TO STDOUT CSV HEADER
\copy (SELECT id, region FROM customers ORDER BY id LIMIT 5) TO STDOUT

\echo == copied codes
\copy customers (id, age) TO STDOUT
\echo :SQLSTATE
