-- Groups of groups of a changelog, with what cannot be subtracted.
-- @rows orders: 400 apart 300
-- @changes orders: debezium 60
-- @targets view
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
SELECT n, count(*) AS groups, max(dearest) AS dearest FROM (SELECT customer, count(*) AS n, max(amount) AS dearest FROM orders GROUP BY customer HAVING count(*) < 4) GROUP BY n
