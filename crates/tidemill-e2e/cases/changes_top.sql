-- The first rows of each window, of those that stand when it closes.
-- @rows orders: 400 apart 300
-- @changes orders: debezium 200 recent
-- @targets log
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
SELECT id, region, window_start, CAST(place AS BIGINT) AS place FROM (
  SELECT id, region, window_start, ROW_NUMBER() OVER (PARTITION BY region, window_start ORDER BY amount DESC, id) AS place
  FROM TUMBLE(orders, at, INTERVAL '10 seconds')
) WHERE place <= 2
