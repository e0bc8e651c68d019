-- DEDUP waits for no late row, so what stands above it may be appended, with allowed lateness too.
-- @with allowed_lateness = '4 minutes'
-- @rows orders: 400 apart 1000
-- @targets files log delta
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
  SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY region, paid ORDER BY at, id) AS nth FROM orders) WHERE nth = 1
), nexts AS (
  SELECT of, id FROM (
    SELECT a.id AS of, b.id AS id, row_number() OVER (PARTITION BY a.id ORDER BY b.at, b.id) AS nth
    FROM orders AS a JOIN orders AS b
      ON (a.region IS NOT DISTINCT FROM b.region) AND (a.paid IS NOT DISTINCT FROM b.paid)
      AND b.at >= a.at + INTERVAL '7 seconds'
  ) WHERE nth = 1
), lives AS (
  SELECT id FROM firsts
  UNION ALL
  SELECT n.id FROM lives AS l JOIN nexts AS n ON n.of = l.id
)
SELECT arrow_cast(date_bin(INTERVAL '1 minute', o.at, TIMESTAMP '1970-01-01T00:00:00'), 'Timestamp(Microsecond, None)') AS window_start,
  o.region, count(*) AS n, min(o.id) AS first
FROM orders AS o JOIN lives AS l ON l.id = o.id
WHERE o.at < TIMESTAMP '2027-06-01T00:00:00'
GROUP BY 1, o.region

-- @query
SELECT window_start, region, count(*) AS n, min(id) AS first
FROM TUMBLE(
  (SELECT * FROM DEDUP((SELECT id, region, paid, at FROM orders), at, INTERVAL '7 seconds', PARTITION BY region, paid)),
  at, INTERVAL '1 minute')
WHERE at < TIMESTAMP '2027-06-01T00:00:00'
GROUP BY window_start, window_end, region
