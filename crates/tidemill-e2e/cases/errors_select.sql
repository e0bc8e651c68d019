-- A row whose output cannot be computed is dead, unless a condition leaves it out; the others go on.
-- @rows orders: 400 apart 1000
-- @words orders.note: 1, 2, 30, 400, 5000, 60000, 700, x
-- @counts failed bad value in CAST(note AS BIGINT): customer <> 3 AND note = 'x'
-- @targets files log delta upsert id
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  note VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

CREATE VIEW numbered AS SELECT id, CAST(note AS BIGINT) AS n, 1 / customer AS nobody_reads_this, customer, at FROM orders;

-- @oracle
SELECT id, TRY_CAST(note AS BIGINT) * 2 AS n, customer, at FROM orders WHERE customer <> 3 AND note IS DISTINCT FROM 'x'

-- @query
SELECT id, n * 2 AS n, customer, at FROM numbered WHERE customer <> 3
