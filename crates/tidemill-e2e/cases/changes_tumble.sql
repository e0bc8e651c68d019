-- Windows over rows that change: what is taken back leaves the window of its own time.
-- @rows orders: 500 apart 300
-- @changes orders: debezium 200 recent
-- @targets files log view
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
SELECT region, window_start, count(*) AS n, count(amount) AS amounts, sum(amount) AS total, avg(customer) AS mean
FROM TUMBLE(orders, at, INTERVAL '10 seconds')
GROUP BY region, window_start, window_end
