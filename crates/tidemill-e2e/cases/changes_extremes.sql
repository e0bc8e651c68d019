-- Aggregates without an inverse over windows of rows that change.
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
  PRIMARY KEY (id),
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@debezium);

-- @query
SELECT region, window_start, min(amount) AS least, max(customer) AS most, count(DISTINCT customer) AS customers
FROM TUMBLE(orders, at, INTERVAL '10 seconds')
GROUP BY region, window_start, window_end
