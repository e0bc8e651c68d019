-- FILTER decides for one aggregate, HAVING for whole groups, when they are final.
-- @rows orders: 500 apart 1000
-- @targets files log view
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

-- @query
SELECT
  region, window_start,
  count(*) FILTER (WHERE paid) AS paid, sum(amount) FILTER (WHERE NOT paid) AS due, count(*) AS n
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
HAVING count(*) > 8 AND sum(amount) FILTER (WHERE NOT paid) IS NOT NULL
