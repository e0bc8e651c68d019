-- A group whose result fails is absent while it does.
-- @rows orders: 500 apart 1200
-- @targets files log view
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

-- @oracle
SELECT region, window_start, count(*) AS n, 1000 / nullif(count(*) - 7, 0) AS share
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
HAVING count(*) <> 7 AND count(*) <> 3

-- @query
SELECT region, window_start, count(*) AS n, 1000 / (count(*) - 7) AS share
FROM TUMBLE(orders, at, INTERVAL '1 minute')
GROUP BY region, window_start, window_end
HAVING 1000 % (count(*) - 3) >= 0
