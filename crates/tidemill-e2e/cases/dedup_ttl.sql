-- Of each customer an order, and then none for forty seconds: each once, when time has passed it.
-- @rows orders: 400 apart 1000
-- @waits
-- @targets files log view delta
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  currency VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @oracle
WITH RECURSIVE firsts AS (
  SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY customer ORDER BY at, id) AS nth FROM orders) WHERE nth = 1
), nexts AS (
  SELECT of, id FROM (
    SELECT a.id AS of, b.id AS id, row_number() OVER (PARTITION BY a.id ORDER BY b.at, b.id) AS nth
    FROM orders AS a JOIN orders AS b
      ON (a.customer IS NOT DISTINCT FROM b.customer) AND b.at >= a.at + INTERVAL '40 seconds'
  ) WHERE nth = 1
), lives AS (
  SELECT id FROM firsts
  UNION ALL
  SELECT n.id FROM lives AS l JOIN nexts AS n ON n.of = l.id
)
SELECT o.id, o.customer, o.at
FROM orders AS o JOIN lives AS l ON l.id = o.id
WHERE o.at < TIMESTAMP '2027-06-01T00:00:00'

-- @query
SELECT id, customer, at
FROM DEDUP((SELECT id, customer, at FROM orders), at, INTERVAL '40 seconds', PARTITION BY customer)
WHERE at < TIMESTAMP '2027-06-01T00:00:00'
