-- Groups of a changelog: rows that change move from one to another.
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
SELECT region, count(*) AS n, count(amount) AS amounts, sum(amount) AS total, avg(customer) AS mean FROM orders GROUP BY region
