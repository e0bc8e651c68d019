-- Least and greatest over groups that change have no inverse.
-- @rows orders: 400 apart 1000
-- @targets view
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
SELECT region, max(total) AS most, min(n) AS least, avg(price) AS price, count(DISTINCT n) AS sizes
FROM (SELECT region, customer, sum(amount) AS total, count(*) AS n, max(price) AS price FROM orders GROUP BY region, customer)
GROUP BY region
