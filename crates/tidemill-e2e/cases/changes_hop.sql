-- Hopping windows over rows that change.
-- @rows orders: 400 apart 300
-- @changes orders: debezium 200 recent
-- @targets log view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@debezium);

-- @query
SELECT paid, window_start, count(*) AS n, sum(customer) AS total
FROM HOP(orders, at, INTERVAL '5 seconds', INTERVAL '20 seconds')
WHERE region IS NOT NULL
GROUP BY paid, window_start, window_end
