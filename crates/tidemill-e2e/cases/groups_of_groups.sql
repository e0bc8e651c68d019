-- How many customers have how many orders: what is below takes back what it gave out.
-- @rows orders: 400 apart 1000
-- Runs of intervals do not take rows back from a table, so they are not compared.
-- @targets upsert n view
-- @live
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
SELECT n, count(*) AS customers, sum(total) AS total
FROM (SELECT customer, count(*) AS n, sum(amount) AS total FROM orders GROUP BY customer)
GROUP BY n
