-- One session after another for all rows together.
-- @rows orders: 400 apart 2500
-- @targets files view
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
SELECT window_start, window_end, count(*) AS n, sum(amount) AS total, avg(amount) AS mean
FROM SESSION((SELECT * FROM orders WHERE paid), at, INTERVAL '5 seconds')
GROUP BY window_start, window_end
